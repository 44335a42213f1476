from __future__ import annotations

import pytest
import torch

from aligncut_cli.maths import tsne_pairs
from aligncut_cli.maths.tsne_pairs import NARROW, REACH, NearPairs, find_near_pairs


def cloud(n_dims: int, n_points: int, span: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(n_dims, n_points, generator=torch.Generator().manual_seed(seed)) * span


def pairs_by_loop(coords: torch.Tensor, reach: float) -> set[tuple[int, int]]:
    n_points = coords.shape[1]
    square = (coords[:, :, None] - coords[:, None, :]).square().sum(0)
    return {(i, j) for i in range(n_points) for j in range(i) if float(square[i, j]) <= reach**2}


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize(("span", "reach"), [(0.0, 1.0), (1.0, 3.5), (9.0, 2.0), (40.0, 3.5), (3000.0, 3.5)])
def test_every_pair_within_reach_is_found_once(n_dims: int, span: float, reach: float) -> None:
    coords = cloud(n_dims, 150, span) - span / 3
    found = find_near_pairs(coords, reach, most_candidates=10**6)
    assert found is not None
    named = [(max(pair), min(pair)) for pair in found.T.tolist()]
    assert len(named) == len(set(named))
    assert set(named) == pairs_by_loop(coords, reach)


def test_blocks_of_points_do_not_change_the_pairs() -> None:
    # 9 million candidates make seventy blocks.
    coords = cloud(3, 4000, 6.0)
    found = find_near_pairs(coords, 3.0, most_candidates=10**8)
    assert found is not None
    square = (coords[:, :, None] - coords[:, None, :]).square().sum(0)
    assert found.shape[1] == int(((square <= 9.0).sum() - 4000) // 2)


def test_a_dense_map_is_refused() -> None:
    assert find_near_pairs(cloud(3, 400, 2.0), 3.0, most_candidates=79_799) is None
    assert find_near_pairs(cloud(3, 400, 2.0), 3.0, most_candidates=79_800) is not None


@pytest.mark.parametrize("n_dims", [2, 3])
def test_the_sums_are_those_of_the_narrow_gaussians(n_dims: int) -> None:
    """w = int s^(a - 1) exp(-s (1 + r^2 / dof)) ds / Gamma(a), from dof * NARROW on, by the midpoint rule."""
    dof = n_dims - 1
    coords = cloud(n_dims, 60, 8.0).double().requires_grad_()
    square = (coords[:, :, None] - coords.detach()[:, None, :]).square().sum(0)
    step = 0.01
    scales = dof * NARROW + step * (torch.arange(3000, dtype=torch.float64) + 0.5)
    exponent = (dof + 1) / 2
    weights = step * scales ** (exponent - 1) / torch.lgamma(torch.tensor(exponent, dtype=torch.float64)).exp()
    kernel = (torch.exp(-scales * (1 + square[..., None] / dof)) * weights).sum(-1) * (square <= REACH**2)
    (gradient,) = torch.autograd.grad(kernel.sum(), coords)
    pairs = NearPairs(dof=dof, device=torch.device("cpu"))
    flat = coords.detach().float()
    assert pairs.refresh(flat)
    found, slope = pairs.sum(flat)
    torch.testing.assert_close(found.double(), kernel.sum(1).detach(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(slope.double(), gradient, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(slope.sum(1), torch.zeros(n_dims), rtol=0, atol=1e-4)


def test_the_list_is_kept_while_points_move_little_and_the_sums_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    find = tsne_pairs.find_near_pairs
    monkeypatch.setattr(tsne_pairs, "find_near_pairs", lambda *given, **named: calls.append(1) or find(*given, **named))
    coords = cloud(3, 500, 12.0)
    kept = NearPairs(dof=2, device=coords.device)
    for step in range(6):
        moved = coords + 0.06 * step
        moved[0] += 0.03 * step * torch.sin(moved[1])
        assert kept.refresh(moved)
        fresh = NearPairs(dof=2, device=coords.device)
        calls_before = len(calls)
        assert fresh.refresh(moved)
        del calls[calls_before:]
        for ours, truth in zip(kept.sum(moved), fresh.sum(moved), strict=True):
            torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4)
    assert 1 < len(calls) < 5


def test_a_list_is_looked_for_again_after_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = NearPairs(dof=2, device=torch.device("cpu"))
    monkeypatch.setattr(tsne_pairs, "_MOST_CANDIDATES", 2)
    assert not pairs.refresh(cloud(3, 100, 2.0))
    assert pairs.refresh(cloud(3, 100, 60.0))
    assert not pairs.refresh(cloud(3, 100, 2.0))
