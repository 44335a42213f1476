from __future__ import annotations

import pytest
import torch

from aligncut_cli.maths import tsne_fft
from aligncut_cli.maths.tsne_fft import GridRepulsion, degrees_of_freedom, repel_exactly


def cloud(n_dims: int, n_points: int, span: float, seed: int = 0) -> torch.Tensor:
    coords = torch.randn(n_dims, n_points, generator=torch.Generator().manual_seed(seed))
    return coords * (span / (coords.amax(1) - coords.amin(1)).max())


def sum_pairs_by_definition(coords: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Potential in float64, and its gradient by automatic differentiation with the other points held."""
    fixed = coords.double()
    moved = fixed.clone().requires_grad_()
    dof = degrees_of_freedom(len(coords))
    square = (moved[:, :, None] - fixed[:, None, :]).square().sum(0)
    potential = ((1 + square / dof) ** (-(dof + 1) / 2)).sum(1)
    (gradient,) = torch.autograd.grad(potential.sum(), moved)
    return potential.detach(), gradient


def relative_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    return float((value.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize("span", [1e-4, 1e-2, 1.0, 30.0])
def test_the_exact_sum_is_the_definition(n_dims: int, span: float) -> None:
    coords = cloud(n_dims, 301, span)
    potential, gradient = sum_pairs_by_definition(coords)
    found = repel_exactly(coords)
    assert relative_error(found.potential, potential) < 1e-5
    assert relative_error(found.gradient, gradient) < 1e-4


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize("span", [1e-4, 3e-3, 0.1, 1.0, 4.0, 5.7, 8.0, 11.0, 12.5, 23.0, 25.0, 29.0])
def test_forces_on_the_grid_are_within_five_thousandths_of_the_exact_sum(n_dims: int, span: float) -> None:
    coords = cloud(n_dims, 1000, span)
    potential, gradient = sum_pairs_by_definition(coords)
    found = GridRepulsion(n_dims=n_dims, device=coords.device).repel(coords)
    assert found.spacing > 0, "the grid should have been used"
    assert relative_error(found.gradient, gradient) < 5e-3
    normaliser = float(potential.sum()) - coords.shape[1]
    assert float(found.potential.double().sum()) - coords.shape[1] == pytest.approx(normaliser, rel=1e-3)


def thin_map(n_points: int, span: float) -> torch.Tensor:
    """A 3-D map as they come out: points about one apart, in ten clouds, with a few on their own."""
    generator = torch.Generator().manual_seed(0)
    centres = (torch.rand(3, 10, generator=generator) - 0.5) * span * 0.7
    coords = centres[:, torch.randint(10, (n_points,), generator=generator)]
    return coords + 3.5 * torch.randn(3, n_points, generator=generator)


def test_with_near_pairs_the_grid_may_be_wide() -> None:
    coords = thin_map(3000, 50.0)
    potential, gradient = sum_pairs_by_definition(coords)
    found = GridRepulsion(n_dims=3, device=coords.device).repel(coords)
    assert found.spacing == tsne_fft._WITH_PAIRS
    assert relative_error(found.gradient, gradient) < 7e-3
    normaliser = float(potential.sum()) - coords.shape[1]
    assert float(found.potential.double().sum()) - coords.shape[1] == pytest.approx(normaliser, rel=1e-3)


def test_a_map_too_dense_for_pairs_has_a_finer_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    coords = thin_map(2500, 40.0)
    _, gradient = sum_pairs_by_definition(coords)
    monkeypatch.setattr(tsne_fft, "find_neighbourhoods", lambda *given, **named: None)
    found = GridRepulsion(n_dims=3, device=coords.device).repel(coords)
    assert found.spacing == tsne_fft._FINE[3]
    assert relative_error(found.gradient, gradient) < 6e-3
    monkeypatch.setattr(tsne_fft, "_FINE_UP_TO_CELLS", 100)
    found = GridRepulsion(n_dims=3, device=coords.device).repel(coords)
    assert found.spacing == tsne_fft._COARSE
    assert relative_error(found.gradient, gradient) < 2e-2


def test_a_wide_map_gets_a_coarser_grid_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsne_fft, "_MOST_CELLS", {2: 64})
    grid = GridRepulsion(n_dims=2, device=torch.device("cpu"))
    spacings = set()
    for span in torch.linspace(40, 60, 41).tolist():
        found = grid.repel(cloud(2, 200, span))
        assert grid._nodes <= 64 + 16
        spacings.add(found.spacing)
    assert len(spacings) <= 4, "the spectra should be kept for many steps"


@pytest.mark.parametrize("n_dims", [2, 3])
def test_a_grid_that_was_used_for_another_map_gives_the_same_bytes(n_dims: int) -> None:
    first, second = cloud(n_dims, 2000, 40.0), cloud(n_dims, 2000, 3.0, seed=1)
    used = GridRepulsion(n_dims=n_dims, device=first.device)
    for coords in (first, second, first):
        fresh = GridRepulsion(n_dims=n_dims, device=first.device)
        assert torch.equal(used.repel(coords).gradient, fresh.repel(coords).gradient)


@pytest.mark.parametrize("n_dims", [2, 3])
def test_forces_sum_to_nearly_nothing(n_dims: int) -> None:
    coords = cloud(n_dims, 1000, 15.0)
    gradient = GridRepulsion(n_dims=n_dims, device=coords.device).repel(coords).gradient
    assert float(gradient.sum(1).norm() / gradient.norm(dim=0).sum()) < 1e-4


@pytest.mark.parametrize("n_dims", [2, 3])
def test_blocks_of_points_do_not_matter(n_dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    coords = cloud(n_dims, 700, 15.0)
    whole = GridRepulsion(n_dims=n_dims, device=coords.device).repel(coords)
    monkeypatch.setattr(tsne_fft, "_BLOCK", {"cpu": 37})
    parts = GridRepulsion(n_dims=n_dims, device=coords.device).repel(coords)
    assert relative_error(parts.gradient, whole.gradient.double()) < 1e-5


def test_moving_the_map_far_away_hardly_changes_its_forces() -> None:
    coords = cloud(3, 700, 10.0)
    grid = GridRepulsion(n_dims=3, device=coords.device)
    moved = grid.repel(coords + torch.tensor([[31.3], [-77.1], [5.9]])).gradient
    assert relative_error(moved, grid.repel(coords).gradient.double()) < 4e-3


def test_few_points_far_apart_are_summed_pair_by_pair() -> None:
    coords = cloud(3, 50, 100.0)
    found = GridRepulsion(n_dims=3, device=coords.device).repel(coords)
    assert torch.equal(found.gradient, repel_exactly(coords).gradient)


def test_points_in_one_place_have_no_forces() -> None:
    found = GridRepulsion(n_dims=3, device=torch.device("cpu")).repel(torch.full((3, 7), 2.5))
    assert torch.equal(found.gradient, torch.zeros(3, 7))
    assert torch.equal(found.potential, torch.full((7,), 7.0))


def test_the_spline_is_a_partition_of_one_and_its_slope_is_its_derivative() -> None:
    fraction = torch.linspace(0, 0.999, 50, dtype=torch.float64)[None].requires_grad_()
    weights = tsne_fft._spline(fraction)
    torch.testing.assert_close(weights.sum(1), torch.ones_like(fraction))
    for node in range(4):
        (slope,) = torch.autograd.grad(weights[0, node].sum(), fraction, retain_graph=True)
        torch.testing.assert_close(tsne_fft._spline_slope(fraction)[:, node], slope)


def test_coarsening_turns_spline_charges_into_those_of_twice_the_spacing() -> None:
    place = 5.3  # in cells from node 0
    fine = torch.zeros(16, dtype=torch.float64)
    fine[4:8] = tsne_fft._spline(torch.tensor([[place % 1]], dtype=torch.float64))[0, :, 0]
    coarse = tsne_fft._coarsening(16).double() @ fine
    expected = torch.zeros(10, dtype=torch.float64)
    at = int(place / 2) + 1  # coarse node A lies at fine node 2 (A - 1)
    expected[at - 1 : at + 3] = tsne_fft._spline(torch.tensor([[place / 2 % 1]], dtype=torch.float64))[0, :, 0]
    torch.testing.assert_close(coarse, expected)
