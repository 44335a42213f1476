"""The small world of `aligncut demo`: drawn scenes, a synthetic brain, three small ViTs; no network, no data."""
