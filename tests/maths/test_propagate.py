from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aligncut_cli.errors import BadInput
from aligncut_cli.maths import propagate
from aligncut_cli.maths.affinity import affinity, unit_rows
from aligncut_cli.maths.eigensolve import solve_normalized_cut
from aligncut_cli.maths.neighbours import build_search
from aligncut_cli.maths.propagate import (
    NystromExtension,
    ResidualCheck,
    gram,
    orthogonalizer,
    propagate_eigenvectors,
)
from tests.quality import ExactGraph, SampledGraph


def clustered(n: int, *, seed: int = 0) -> torch.Tensor:
    centres = torch.randn(8, 20, generator=torch.Generator().manual_seed(50))
    generator = torch.Generator().manual_seed(seed)
    return unit_rows(
        centres[torch.randint(8, (n,), generator=generator)] + 0.5 * torch.randn(n, 20, generator=generator)
    )


def solve(unit: torch.Tensor, n_eig: int):
    return solve_normalized_cut(unit, n_eig=n_eig, device="cpu", memory_limit=10**9, seed=0)


def average_naively(weights: np.ndarray, neighbours: np.ndarray, eigenvectors: np.ndarray) -> np.ndarray:
    result = np.zeros((len(weights), eigenvectors.shape[1]))
    for i in range(len(weights)):
        total = 0.0
        for weight, k in zip(weights[i], neighbours[i], strict=True):
            result[i] += float(weight) * eigenvectors[k]
            total += float(weight)
        result[i] /= total
    return result


def extend_naively(queries: np.ndarray, sample: np.ndarray, solution) -> np.ndarray:
    queries, sample = queries.astype(np.float64), sample.astype(np.float64)
    result = np.zeros((len(queries), len(solution.eigenvalues)))
    for i, query in enumerate(queries):
        weights = [math.exp(float(query @ row) - 1) for row in sample]
        degree = sum(weights)
        for k, weight in enumerate(weights):
            result[i] += weight / math.sqrt(degree * solution.degrees[k]) * solution.eigenvectors[k]
    return result / solution.eigenvalues


def extend(queries: torch.Tensor, sample: torch.Tensor, solution) -> torch.Tensor:
    extension = NystromExtension(
        sample,
        eigenvectors=solution.eigenvectors,
        eigenvalues=solution.eigenvalues,
        degrees=solution.degrees,
    )
    return extension.extend(queries)


def test_equation_4_is_the_affinity_weighted_average():
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.1, 1, (40, 7)).astype(np.float32)
    neighbours = rng.integers(0, 30, (40, 7))
    eigenvectors = rng.normal(size=(30, 5)).astype(np.float32)
    found = propagate_eigenvectors(
        torch.from_numpy(weights), torch.from_numpy(neighbours), torch.from_numpy(eigenvectors)
    )
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), average_naively(weights, neighbours, eigenvectors), atol=1e-6)


def test_a_constant_stays_constant_and_rows_stay_within_their_neighbours():
    rng = np.random.default_rng(1)
    weights = torch.from_numpy(rng.uniform(0.1, 1, (60, 9)).astype(np.float32))
    neighbours = torch.from_numpy(rng.integers(0, 30, (60, 9)))
    columns = torch.from_numpy(rng.normal(size=(30, 3)).astype(np.float32))
    columns[:, 0] = 0.25
    found = propagate_eigenvectors(weights, neighbours, columns)
    assert torch.allclose(found[:, 0], torch.full((60,), 0.25), atol=1e-7)
    around = columns[neighbours]
    assert bool((found <= around.amax(dim=1) + 1e-6).all())
    assert bool((found >= around.amin(dim=1) - 1e-6).all())


def test_one_neighbour_is_copied():
    eigenvectors = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    index = torch.arange(19, -1, -1)[:, None]
    found = propagate_eigenvectors(torch.full((20, 1), 0.3), index, eigenvectors)
    assert torch.allclose(found, eigenvectors.flip(0), atol=1e-7)


def test_the_nystrom_extension_is_its_formula(monkeypatch):
    monkeypatch.setattr(propagate, "_QUERY_TILE", 37)
    monkeypatch.setattr(propagate, "_SAMPLE_TILE", {"cpu": 41})
    sample, queries = clustered(150), clustered(90, seed=1)
    queries[3] = 0
    solution = solve(sample, 6)
    found = extend(queries, sample, solution)
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), extend_naively(queries.numpy(), sample.numpy(), solution), atol=2e-6)


def test_a_sampled_node_keeps_its_row_under_the_nystrom_extension():
    sample = clustered(400)
    solution = solve(sample, 8)
    assert np.abs(extend(sample, sample, solution).numpy() - solution.eigenvectors).max() < 2e-6


def test_the_nystrom_extension_does_not_depend_on_the_block():
    sample, queries = clustered(200), clustered(100, seed=1)
    solution = solve(sample, 5)
    parts = torch.cat([extend(part, sample, solution) for part in queries.split(13)])
    assert torch.allclose(parts, extend(queries, sample, solution), atol=1e-6)


def test_compression_keeps_within_its_tolerance_and_gives_up_where_it_cannot():
    generator = torch.Generator().manual_seed(7)
    # Signal in a few directions, and either little or much outside of them.
    signal = torch.randn(1500, 6, generator=generator) @ torch.randn(6, 160, generator=generator)
    for noise, compressed in [(0.02, True), (3.0, False)]:
        unit = unit_rows(signal + noise * torch.randn(1500, 160, generator=generator))
        sample, queries = unit[:500], unit[500:]
        solution = solve(sample, 5)
        parts = {
            "eigenvectors": solution.eigenvectors,
            "eigenvalues": solution.eigenvalues,
            "degrees": solution.degrees,
        }
        extension = NystromExtension(sample, **parts, tolerance=1e-3)
        assert (extension.rank < 160) == compressed
        exact = extend(queries, sample, solution)
        error = (extension.extend(queries) - exact).norm(dim=0) / exact.norm(dim=0)
        assert float(error.max()) <= 1e-3
    assert NystromExtension(sample, **parts).rank == 160


def test_vanishing_eigenvalues_carry_zeros_instead_of_noise():
    sample = unit_rows(torch.ones(50, 4))
    solution = solve(sample, 3)
    found = extend(unit_rows(torch.ones(7, 4)), sample, solution)
    assert torch.allclose(found[:, 0], torch.full((7,), 50**-0.5), atol=1e-6)
    assert torch.equal(found[:, 1:], torch.zeros(7, 2))


def test_parts_of_different_graphs_are_refused():
    solution = solve(clustered(100), 4)
    with pytest.raises(BadInput, match="do not belong together"):
        NystromExtension(
            clustered(90),
            eigenvectors=solution.eigenvectors,
            eigenvalues=solution.eigenvalues,
            degrees=solution.degrees,
        )


def test_columns_become_orthonormal_and_keep_order_sign_and_leading_directions():
    rng = np.random.default_rng(2)
    carried = rng.normal(size=(3000, 6)) @ (np.eye(6) + 0.2 * rng.normal(size=(6, 6))) * [1e3, 1, 1e-4, 5, 5, 5]
    total = sum(gram(torch.from_numpy(part)) for part in np.array_split(carried, 7))
    assert np.allclose(total, carried.T @ carried)
    transform = orthogonalizer(total)
    found = carried @ transform
    assert np.allclose(found.T @ found, np.eye(6), atol=1e-9)
    assert np.allclose(found[:, 0], carried[:, 0] / np.linalg.norm(carried[:, 0]))
    assert np.all((found * carried).sum(axis=0) > 0)
    assert np.allclose(np.tril(transform, -1), 0)


def test_dependent_and_zero_columns_become_zero():
    rng = np.random.default_rng(3)
    carried = rng.normal(size=(500, 5))
    carried[:, 1] = 0
    carried[:, 3] = carried[:, 0] * 2 - carried[:, 2]
    found = carried @ orthogonalizer(gram(torch.from_numpy(carried)))
    assert np.allclose(found.T @ found, np.diag([1, 0, 1, 0, 1]), atol=1e-9)


def test_the_residual_check_over_all_rows_is_the_dense_residual():
    unit = clustered(300)
    solution = solve(unit, 5)
    rng = np.random.default_rng(4)
    carried = solution.eigenvectors * 7.5 + 0.01 * rng.normal(size=(300, 5)).astype(np.float32)
    graph = affinity(unit, unit).double().numpy()
    root = np.sqrt(graph.sum(axis=1))
    image = graph / root[:, None] / root[None, :] @ carried
    check = ResidualCheck(unit, torch.from_numpy(carried), eigenvalues=solution.eigenvalues, n_nodes=300, seed=0)
    total = check.no_sums()
    for part in torch.randperm(300, generator=torch.Generator().manual_seed(0)).split(70):
        sums = check.no_sums()
        check.add(sums, unit[part], torch.from_numpy(carried)[part])
        total.merge(sums)
    report = check.result(total)
    size = np.linalg.norm(carried, axis=0)
    expected = np.linalg.norm(image - carried * solution.eigenvalues, axis=0) / size / solution.eigenvalues
    assert np.allclose(report.residuals, expected, rtol=1e-4)
    assert np.allclose(report.eigenvalues, (image * carried).sum(axis=0) / size**2, rtol=1e-5)
    assert report.n_rows == 300
    assert not report.noise.any()


def test_some_random_rows_estimate_the_residual_of_all():
    unit = clustered(3000)
    solution = solve(unit, 5)
    exact, noisy = torch.from_numpy(solution.eigenvectors), None
    noise = torch.randn(3000, 5, generator=torch.Generator().manual_seed(1))
    noisy = exact + 0.3 * noise / noise.norm(dim=0)
    rows = torch.randperm(3000, generator=torch.Generator().manual_seed(2))[:300]

    def residuals(carried: torch.Tensor) -> np.ndarray:
        check = ResidualCheck(unit[rows], carried[rows], eigenvalues=solution.eigenvalues, n_nodes=3000, seed=0)
        check.add(sums := check.no_sums(), unit, carried)
        return check.result(sums).residuals

    assert residuals(exact).max() < 0.15
    # White noise of norm 0.3 is in the residual as it is: S damps it to nearly nothing.
    assert np.allclose(residuals(noisy)[1:], 0.3, atol=0.1)


def expected_noise_naively(unit: torch.Tensor, solution, n_rows: int) -> np.ndarray:
    """Root mean square residual of exact eigenvectors over 300 draws of rows, in float64 without any of our code."""
    rows = unit.double().numpy()
    graph, x, values = np.exp(rows @ rows.T - 1), solution.eigenvectors.astype(np.float64), solution.eigenvalues
    rng, squares = np.random.default_rng(5), []
    for _ in range(300):
        drawn = rng.choice(len(rows), n_rows, replace=False)
        degrees = len(rows) * graph[drawn].mean(axis=0)
        image = graph[drawn] @ (x / np.sqrt(degrees)[:, None]) / np.sqrt(graph[drawn].sum(axis=1))[:, None]
        residual = np.linalg.norm(image - x[drawn] * values, axis=0) / np.linalg.norm(x[drawn], axis=0) / values
        squares.append(residual**2)
    return np.sqrt(np.mean(squares, axis=0))


@pytest.mark.parametrize("n_rows", [40, 100, 400])
def test_the_noise_floor_is_the_residual_of_an_exact_solution(n_rows):
    unit = clustered(1200)
    solution = solve(unit, 5)
    carried = torch.from_numpy(solution.eigenvectors)
    floors = []
    for seed in range(20):
        rows = torch.randperm(1200, generator=torch.Generator().manual_seed(seed))[:n_rows]
        check = ResidualCheck(unit[rows], carried[rows], eigenvalues=solution.eigenvalues, n_nodes=1200, seed=seed)
        sums = check.no_sums()
        for part in torch.arange(1200).split(500):
            check.add(sums, unit[part], carried[part])
        floors.append(check.result(sums).noise)
    found = np.sqrt(np.square(floors).mean(axis=0))
    assert np.allclose(found, expected_noise_naively(unit, solution, n_rows), rtol=0.15)


def test_perturbed_eigenvectors_lie_clearly_above_the_noise_floor_and_exact_ones_do_not():
    unit = clustered(1200)
    solution = solve(unit, 5)
    exact = torch.from_numpy(solution.eigenvectors)
    noise = torch.randn(1200, 5, generator=torch.Generator().manual_seed(1))
    noisy = exact + 0.3 * noise / noise.norm(dim=0)
    ratios: dict[str, list[np.ndarray]] = {"exact": [], "noisy": []}
    for seed in range(20):
        rows = torch.randperm(1200, generator=torch.Generator().manual_seed(100 + seed))[:100]
        for name, carried in (("exact", exact), ("noisy", noisy)):
            check = ResidualCheck(unit[rows], carried[rows], eigenvalues=solution.eigenvalues, n_nodes=1200, seed=seed)
            check.add(sums := check.no_sums(), unit, carried)
            report = check.result(sums)
            ratios[name].append(report.residuals / report.noise)
    # The error of all degrees has few directions, so single draws scatter about the floor.
    assert np.sqrt(np.square(ratios["exact"]).mean()) == pytest.approx(1, abs=0.2)
    assert np.quantile(ratios["exact"], 0.9) < 2
    assert np.min(ratios["noisy"]) > 2.5


def test_a_residual_check_of_part_of_the_nodes_is_refused():
    unit = clustered(50)
    check = ResidualCheck(unit[:5], torch.ones(5, 2), eigenvalues=np.ones(2), n_nodes=50, seed=0)
    check.add(sums := check.no_sums(), unit[:40], torch.ones(40, 2))
    with pytest.raises(BadInput, match="40 of 50"):
        check.result(sums)
    with pytest.raises(BadInput, match="0 rows"):
        ResidualCheck(unit[:0], torch.ones(0, 2), eigenvalues=np.ones(2), n_nodes=50, seed=0)


def judge_naively(unit: torch.Tensor, carried: np.ndarray, n_eig: int) -> tuple[float, float]:
    rows = unit.numpy().astype(np.float64)
    graph = np.exp(rows @ rows.T - 1)
    root = np.sqrt(graph.sum(axis=1))
    scaled = graph / root[:, None] / root
    values, vectors = np.linalg.eigh(scaled)
    projector = carried @ np.linalg.pinv(carried)
    exact = vectors[:, -n_eig:]
    return np.trace(projector @ scaled) / values[-n_eig:].sum(), np.trace(projector @ exact @ exact.T) / n_eig


def test_the_judge_of_carried_eigenvectors_agrees_with_projectors():
    unit = clustered(500)
    graph = ExactGraph(unit, n_eig=5, memory_limit=10**9)
    exact = graph.solution.eigenvectors
    rotated = exact @ np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0] * 3
    assert tuple(graph.judge(rotated).values()) == pytest.approx((1, 1), abs=1e-5)
    wrong = exact.copy()
    wrong[:, 4] = np.random.default_rng(1).normal(size=500)
    share, overlap = graph.judge(wrong).values()
    assert (share, overlap) == pytest.approx(judge_naively(unit, wrong.astype(np.float64), 5), abs=1e-5)
    assert overlap == pytest.approx(0.8, abs=0.02)
    assert share < 0.995


def test_the_judge_of_large_graphs_is_exact_with_all_rows_and_close_with_some():
    unit = clustered(3000)
    vectors = solve(unit, 5).eigenvectors
    vectors[:, 4] = np.random.default_rng(1).normal(size=3000)
    share, _ = ExactGraph(unit, n_eig=5, memory_limit=10**9).judge(vectors).values()
    exact = share * solve(unit, 5).eigenvalues.sum()
    whole, part = (SampledGraph(unit, n_rows=n).judge(vectors)["trace captured (estimate)"] for n in (3000, 1000))
    assert whole == pytest.approx(exact, rel=1e-5)
    assert part == pytest.approx(exact, rel=0.05)


def test_both_extensions_recover_most_of_a_graph_from_a_sample():
    unit = clustered(1200)
    graph = ExactGraph(unit, n_eig=6, memory_limit=10**9)
    sample = unit[::4]
    solution = solve(sample, 6)
    assert graph.judge(extend(unit, sample, solution).numpy())["share of the exact trace"] > 0.998
    score, index = build_search(sample, method="torch", metric="cosine", seed=0, device="cpu").search(unit, 10)
    averaged = propagate_eigenvectors(torch.exp(score - 1), index, torch.from_numpy(solution.eigenvectors))
    assert graph.judge(averaged.numpy())["share of the exact trace"] > 0.97
