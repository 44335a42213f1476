from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from aligncut_cli.maths.lanes import Lanes
from aligncut_cli.maths.tsne_pairs import NARROW, REACH, NearPairs, find_neighbourhoods


def cloud(n_dims: int, n_points: int, span: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(n_dims, n_points, generator=torch.Generator().manual_seed(seed)) * span


def find_pairs(coords: torch.Tensor, reach: float, most_candidates: int) -> torch.Tensor | None:
    near = find_neighbourhoods(coords, reach, most_candidates=most_candidates)
    if near is None:
        return None
    return torch.cat([near.order[torch.stack(near.find_pairs(block)[:2])] for block in near.blocks], dim=1)


def pairs_by_loop(coords: torch.Tensor, reach: float) -> set[tuple[int, int]]:
    n_points = coords.shape[1]
    square = (coords[:, :, None] - coords[:, None, :]).square().sum(0)
    return {(i, j) for i in range(n_points) for j in range(i) if float(square[i, j]) <= reach**2}


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize(("span", "reach"), [(0.0, 1.0), (1.0, 3.5), (9.0, 2.0), (40.0, 3.5), (3000.0, 3.5)])
def test_every_pair_within_reach_is_found_once(n_dims: int, span: float, reach: float) -> None:
    coords = cloud(n_dims, 150, span) - span / 3
    found = find_pairs(coords, reach, 10**6)
    assert found is not None
    named = [(max(pair), min(pair)) for pair in found.T.tolist()]
    assert len(named) == len(set(named))
    assert set(named) == pairs_by_loop(coords, reach)


def test_blocks_of_points_do_not_change_the_pairs() -> None:
    # 9 million candidates make seventy blocks.
    coords = cloud(3, 4000, 6.0)
    found = find_pairs(coords, 3.0, 10**8)
    assert found is not None
    square = (coords[:, :, None] - coords[:, None, :]).square().sum(0)
    assert found.shape[1] == int(((square <= 9.0).sum() - 4000) // 2)


def test_a_dense_map_is_refused() -> None:
    assert find_pairs(cloud(3, 400, 2.0), 3.0, 79_799) is None
    assert find_pairs(cloud(3, 400, 2.0), 3.0, 79_800) is not None
    assert find_pairs(cloud(3, 100, 2.0), REACH, 200) is None
    assert find_pairs(cloud(3, 100, 60.0), REACH, 200) is not None


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
    near = find_neighbourhoods(flat, REACH, most_candidates=60 * 60)
    assert near is not None
    found, slope = pairs.sum(near)
    torch.testing.assert_close(found.double(), kernel.sum(1).detach(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(slope.double(), gradient, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(slope.sum(1), torch.zeros(n_dims), rtol=0, atol=1e-4)


def test_threads_give_the_bytes_of_none() -> None:
    coords = cloud(3, 3000, 12.0)
    near = find_neighbourhoods(coords, REACH, most_candidates=10**7)
    assert near is not None
    pairs = NearPairs(dof=2, device=coords.device)
    with ThreadPoolExecutor(3) as threads:
        for ours, truth in zip(pairs.sum(near, Lanes(threads)), pairs.sum(near), strict=True):
            assert torch.equal(ours, truth)
