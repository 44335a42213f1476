"""Decoding of recorded neurons by every method and control: scores, seconds of the processor, and peak memory.

python -m tests.bench.decode PHOTOS RESPONSES

The features are those of the demo's models, of all frequencies and of both sides of 0.08 cycles per pixel.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from aligncut_cli.stages.decode.tables import list_neurons, list_scores
from aligncut_cli.store.read import open_store
from tests.bench.common import run_measured

MODELS = [part for name in ("clip", "dino", "mae") for part in ("--model", f"demo-{name}")]
BANDS = {"all": [], "low": ["--band", "low:0.08"], "high": ["--band", "high:0.08"]}
CONTROLS = ["--control", "shuffle", "--neurons", "10,20,40"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("responses", type=Path)
    given = parser.parse_args()
    photos, responses = given.photos.resolve(), ["--responses", str(given.responses.resolve())]
    towers = ["decode", str(photos), *responses, "--method", "towers"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for band, flags in BANDS.items():
            measure(folder, ["extract", str(photos), "-o", f"{band}.zarr", *MODELS, "--save", "pooled", *flags])
        bands = [f"{band}={band}.zarr" for band in BANDS]
        runs = {
            "ridge": ["decode", "all=all.zarr", *responses, *CONTROLS],
            "bands": ["decode", *bands, *responses],
            "towers": [*towers, *CONTROLS],
            "towers of low": [*towers, "--band", "low:0.08"],
            "towers of high": [*towers, "--band", "high:0.08"],
            "regression": [*towers, "--objective", "regression"],
        }
        for title, command in runs.items():
            output = f"{title.replace(' ', '-')}.decoding.zarr"
            measure(folder, [*command, "-o", output])
            summary = open_store(folder / output).record["summary"]
            for header, rows in (list_scores(summary), list_neurons(summary)):
                print(f"\n{title}\n| {' | '.join(header)} |\n|{'---|' * len(header)}" if rows else "")
                for row in rows:
                    cells = [cell if isinstance(cell, str) else show(cell) for cell in row]
                    print(f"| {' | '.join(cells)} |", flush=True)


def measure(folder: Path, command: list[str]) -> None:
    """Run a command in a folder, and print its time and peak memory."""
    found = run_measured([sys.executable, "-m", "aligncut_cli", *command, "-q"], folder=folder)
    print(f"{' '.join(command[:2])}: {found}", flush=True)


def show(value: float | None) -> str:
    """Write a number of a table."""
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
