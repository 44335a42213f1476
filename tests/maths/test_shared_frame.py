from __future__ import annotations

import numpy as np
import torch

from aligncut_cli.maths.shared_frame import find_shared_frame


def turned_slots(n: int = 300, *, noise: float, widths: tuple[int, ...] = (12, 9, 12)) -> list[torch.Tensor]:
    """Slots that see one latent space through orthogonal maps of their own, in other units, with noise of their own."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((n, 6)) * [3, 2.5, 2, 1.5, 1, 0.8]
    slots = []
    for number, width in enumerate(widths):
        turn = np.linalg.qr(rng.standard_normal((width, width)))[0][:6]
        rows = latent @ turn * 10.0**number + noise * 10.0**number * rng.standard_normal((n, width))
        slots.append(torch.from_numpy(rows - rows.mean(axis=0)).float())
    return slots


def test_every_map_is_orthogonal_and_distances_within_a_slot_stay() -> None:
    slots = turned_slots(noise=0.3)
    for rows, frame in zip(slots, find_shared_frame(slots, n_channels=14), strict=True):
        assert frame.shape == (rows.shape[1], 14)
        np.testing.assert_allclose(frame @ frame.T, np.eye(rows.shape[1]), atol=1e-4)
        np.testing.assert_allclose((rows @ frame @ frame.T @ rows.T), rows @ rows.T, rtol=1e-3, atol=1e-2 * rows.std())
    narrow = find_shared_frame(slots, n_channels=4)
    for rows, frame in zip(slots, narrow, strict=True):
        np.testing.assert_allclose(frame.T @ frame, np.eye(4), atol=1e-4)
        kept = float((rows @ frame).square().sum() / rows.square().sum())
        leading = torch.linalg.eigvalsh(rows.T @ rows).flip(0)
        assert abs(kept - float(leading[:4].sum() / leading.sum())) < 1e-3


def test_the_same_token_of_turned_slots_meets() -> None:
    slots = turned_slots(noise=0.05)
    placed = [rows @ frame for rows, frame in zip(slots, find_shared_frame(slots, n_channels=10), strict=True)]
    for a in placed:
        for b in placed:
            assert torch.cosine_similarity(a, b).mean() > 0.97
    unrelated = [slots[0], slots[1][torch.randperm(300, generator=torch.Generator().manual_seed(0))]]
    apart = [rows @ frame for rows, frame in zip(unrelated, find_shared_frame(unrelated, n_channels=10), strict=True)]
    assert torch.cosine_similarity(*apart).mean() < 0.3


def test_channels_are_the_common_principal_axes_whatever_the_slots_units_and_order() -> None:
    slots = turned_slots(noise=0.05)
    frames = find_shared_frame(slots, n_channels=6)
    total = sum(
        (rows @ frame).T @ (rows @ frame) / rows.square().sum() for rows, frame in zip(slots, frames, strict=True)
    )
    spread = total.diagonal()
    assert (spread[:-1] >= spread[1:] - 1e-6).all()
    assert (total - torch.diag(spread)).abs().max() < 1e-3 * spread[0]
    scaled = find_shared_frame([rows * 7 for rows in slots], n_channels=6)
    for a, b in zip(frames, scaled, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
