from __future__ import annotations

import numpy as np
import pytest
import torch

from aligncut_cli.errors import AlignCutError, BadInput, OutOfResources
from aligncut_cli.maths import eigensolve
from aligncut_cli.maths.affinity import unit_rows
from aligncut_cli.maths.eigensolve import estimate_solver_memory, fix_signs, solve_normalized_cut

PLENTY = 4_000_000_000


def clustered(m: int, *, dim: int = 24, clusters: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, dim, generator=generator) * torch.linspace(2, 0.5, clusters)[:, None]
    rows = centres[torch.randint(clusters, (m,), generator=generator)] + 0.4 * torch.randn(m, dim, generator=generator)
    return unit_rows(rows)


def solve_densely(unit: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = unit.numpy().astype(np.float64)
    graph = np.exp(np.clip(rows @ rows.T, -1, 1) - 1)
    degrees = graph.sum(axis=1)
    scaled = graph / np.sqrt(degrees[:, None] * degrees[None, :])
    values, vectors = np.linalg.eigh(scaled)
    return values[::-1], vectors[:, ::-1], degrees


def solve(unit: torch.Tensor, n_eig: int, *, memory: int = PLENTY, seed: int = 0, device: str = "cpu"):
    return solve_normalized_cut(unit, n_eig=n_eig, device=device, memory_limit=memory, seed=seed)


@pytest.fixture
def iterate_at_any_size(monkeypatch):
    """Take small problems to the iterating solver, in several tiles."""
    monkeypatch.setattr(eigensolve, "_DENSE_UP_TO", 0)
    monkeypatch.setattr(eigensolve, "_TILE", {"cpu": 160})


def assert_solved(solution, unit: torch.Tensor, n_eig: int, *, angle: float = 1e-4, value: float = 1e-6) -> None:
    values, vectors, degrees = solve_densely(unit)
    assert solution.eigenvalues.dtype == np.float64
    assert solution.eigenvectors.dtype == np.float32
    assert solution.eigenvectors.shape == (len(unit), n_eig)
    assert np.all(np.diff(solution.eigenvalues) <= 0)
    assert np.allclose(solution.eigenvalues, values[:n_eig], rtol=value, atol=0)
    assert np.allclose(solution.degrees, degrees, rtol=1e-6)
    assert solution.residuals.max() <= 1e-5
    found = solution.eigenvectors.astype(np.float64)
    assert np.abs(found.T @ found - np.eye(n_eig)).max() < 1e-5
    for c in range(n_eig):
        gap = min(abs(values[c] - values[j]) for j in (c - 1, c + 1) if 0 <= j < len(values))
        if gap > 1e-4:
            sine = np.linalg.norm(found[:, c] - vectors[:, c] * (vectors[:, c] @ found[:, c]))
            assert sine < angle, f"eigenvector {c}: angle {sine:.1e}, gap {gap:.1e}"


@pytest.mark.parametrize("m", [5, 40, 300])
def test_few_nodes_are_solved_as_a_dense_matrix(m):
    unit = clustered(m)
    solution = solve(unit, 5)
    assert solution.iterations == 0
    assert_solved(solution, unit, 5)


def test_tiles_agree_with_the_dense_solution(iterate_at_any_size):
    unit = clustered(620, dim=64)
    solution = solve(unit, 20)
    assert solution.storage == "upper half, float32 tiles"
    assert_solved(solution, unit, 20, angle=2e-6, value=1e-7)
    assert solution.residuals.max() < 1e-9


def test_sums_in_float32_alone_agree_with_the_dense_solution(iterate_at_any_size, monkeypatch):
    monkeypatch.setattr(eigensolve, "_SHARP_UP_TO", 0)
    unit = clustered(700, dim=64)
    solution = solve(unit, 20)
    assert_solved(solution, unit, 20)
    assert solution.residuals.max() < 1e-6


def test_nearly_equal_eigenvalues_are_told_apart(iterate_at_any_size):
    # Two nearly equal halves with nothing in common: each eigenvalue comes twice, 5e-5 apart.
    unit = clustered(400, dim=8, clusters=4)
    other = unit_rows(unit + 0.002 * torch.randn(400, 8, generator=torch.Generator().manual_seed(5)))
    unit = torch.cat([torch.cat([unit, torch.zeros(400, 8)], 1), torch.cat([torch.zeros(400, 8), other], 1)])
    values, vectors, _ = solve_densely(unit)
    gap = values[4] - values[5]
    assert 1e-5 < gap < 1e-4
    found = solve(unit, 6).eigenvectors[:, 4:6].astype(np.float64)
    assert np.abs(np.abs(found.T @ vectors[:, 4:6]) - np.eye(2)).max() < 1e-4


@pytest.mark.parametrize(("share", "name"), [(0.0, "matrix-free"), (0.5, "of the upper half in float32 tiles")])
def test_tiles_that_do_not_fit_are_computed_anew(iterate_at_any_size, share, name):
    unit = clustered(700)
    need = estimate_solver_memory(700, 24, n_eig=6, device="cpu")
    held = solve(unit, 6)
    solution = solve(unit, 6, memory=int(need.matrix_free + share * (need.half - need.matrix_free)))
    assert name in solution.storage
    assert_solved(solution, unit, 6)
    # The tiles are the same numbers, so the result is the same bytes.
    assert np.array_equal(solution.eigenvectors, held.eigenvectors)


def test_too_little_memory_is_refused_with_both_numbers(iterate_at_any_size):
    with pytest.raises(OutOfResources, match=r"(?s)700 nodes needs .* GB .* are allowed.*--n-sample"):
        solve(clustered(700), 6, memory=1000)


def test_more_memory_is_estimated_for_more_nodes():
    small, large = (estimate_solver_memory(m, 768, n_eig=20, device="cpu") for m in (20_000, 50_000))
    assert small.matrix_free < small.half < large.half
    assert 5e9 < large.half < 8e9
    assert large.matrix_free < 1.5e9


def test_the_same_seed_gives_the_same_bytes_and_another_the_same_answer(iterate_at_any_size):
    unit = clustered(700)
    first, again, other = solve(unit, 8), solve(unit, 8), solve(unit, 8, seed=1)
    assert np.array_equal(first.eigenvectors, again.eigenvectors)
    assert np.array_equal(first.eigenvalues, again.eigenvalues)
    assert np.allclose(other.eigenvalues, first.eigenvalues, rtol=1e-9)
    assert np.abs(other.eigenvectors - first.eigenvectors).max() < 1e-5


@pytest.mark.parametrize("iterate", [False, True])
def test_permuting_the_nodes_permutes_the_eigenvectors(request, iterate):
    if iterate:
        request.getfixturevalue("iterate_at_any_size")
    unit = clustered(650)
    order = torch.randperm(650, generator=torch.Generator().manual_seed(3))
    plain, permuted = solve(unit, 6), solve(unit[order], 6)
    assert np.abs(permuted.eigenvectors - plain.eigenvectors[order]).max() < 1e-5


@pytest.mark.parametrize("iterate", [False, True])
@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_constant_and_zero_rows_make_a_graph_of_rank_one(request, iterate, constant):
    if iterate:
        request.getfixturevalue("iterate_at_any_size")
    unit = unit_rows(torch.full((625, 8), constant))
    solution = solve(unit, 5)
    assert np.allclose(solution.eigenvalues, [1, 0, 0, 0, 0], atol=1e-6)
    assert np.allclose(solution.eigenvectors[:, 0], 1 / 25, atol=1e-6)
    found = solution.eigenvectors.astype(np.float64)
    assert np.abs(found.T @ found - np.eye(5)).max() < 1e-5
    assert np.array_equal(solve(unit, 5).eigenvectors, solution.eigenvectors)


def test_a_zero_row_among_others_is_a_node_like_any(iterate_at_any_size):
    unit = clustered(650)
    unit[[4, 600]] = 0
    assert_solved(solve(unit, 6), unit, 6)


@pytest.mark.parametrize("iterate", [False, True])
def test_repeated_eigenvalues_span_the_right_space(request, iterate):
    if iterate:
        request.getfixturevalue("iterate_at_any_size")
    # Six equal groups of equal rows, all at right angles: eigenvalues 1, then five times the same, then zeros.
    unit = torch.eye(6).repeat(100, 1)
    solution = solve(unit, 6)
    values, vectors, _ = solve_densely(unit)
    assert np.ptp(solution.eigenvalues[1:]) < 1e-6
    assert np.allclose(solution.eigenvalues, values[:6], rtol=1e-6)
    overlap = vectors[:, :6].T @ solution.eigenvectors.astype(np.float64)
    assert np.linalg.svd(overlap, compute_uv=False).min() > 1 - 1e-6
    assert np.array_equal(solve(unit, 6).eigenvectors, solution.eigenvectors)


def test_a_sample_may_have_just_as_many_nodes_as_eigenvectors():
    unit = clustered(7)
    assert_solved(solve(unit, 7), unit, 7)
    single = solve(clustered(1), 1)
    assert single.eigenvalues == pytest.approx([1.0])
    assert single.eigenvectors.tolist() == [[1.0]]


def test_more_eigenvectors_than_nodes_are_refused():
    with pytest.raises(BadInput, match=r"(?s)20 eigenvectors asked for from 7 nodes.*--n-eig 7"):
        solve(clustered(7), 20)
    with pytest.raises(BadInput, match="0 eigenvectors"):
        solve(clustered(7), 0)


def test_many_eigenvectors_are_found_too(iterate_at_any_size):
    unit = clustered(750, clusters=40, dim=64)
    assert_solved(solve(unit, 30), unit, 30)


def test_not_converging_is_an_error_with_the_residual(iterate_at_any_size, monkeypatch):
    monkeypatch.setattr(eigensolve, "_MOST_PRODUCTS", 1)
    monkeypatch.setattr(eigensolve, "_FIRST_LOOK", 1)
    with pytest.raises(AlignCutError, match=r"residual of .* after 2 products"):
        solve(clustered(700, dim=64, clusters=40), 20)


def test_progress_counts_tiles_up_to_what_is_expected(iterate_at_any_size):
    seen: list[tuple[int, int]] = []
    solve_normalized_cut(
        clustered(650), n_eig=6, device="cpu", memory_limit=PLENTY, seed=0, progress=lambda *at: seen.append(at)
    )
    done = [at[0] for at in seen]
    assert done == sorted(done)
    assert all(at <= expected for at, expected in seen)


def test_signs_follow_the_skew_and_survive_flips_and_permutations():
    rng = np.random.default_rng(0)
    columns = rng.exponential(size=(500, 4)) - 1
    columns[:, 3] = np.where(np.arange(500) % 2, 1.0, -1.0)
    fixed = fix_signs(columns)
    assert np.all((fixed[:, :3] ** 3).sum(axis=0) > 0)
    assert fixed[0, 3] == 1
    assert np.array_equal(fix_signs(-columns), fixed)
    order = rng.permutation(500)
    assert np.array_equal(fix_signs(-columns[order])[:, :3], fixed[order][:, :3])
    noisy = np.array([[-1.0], [1.0 + 1e-9], [0.5], [-0.5]])
    assert np.array_equal(fix_signs(noisy), -noisy)


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu():
    unit = clustered(12_000, dim=64)
    there, here = solve(unit, 12, device="cuda"), solve(unit, 12)
    assert there.residuals.max() <= 1e-6
    assert np.allclose(there.eigenvalues, here.eigenvalues, rtol=1e-6)
    assert np.linalg.svd(there.eigenvectors.T @ here.eigenvectors, compute_uv=False).min() > 1 - 1e-5
