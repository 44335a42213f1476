from __future__ import annotations

import math

import faiss
import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.manifold import trustworthiness

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths import tsne, tsne_affinities
from aligncut_cli.maths.tsne import TsneFit, attract, divergence_of, fit_tsne, gradient_of
from aligncut_cli.maths.tsne_affinities import (
    Affinities,
    calibrate_perplexity,
    drop_self,
    find_affinities,
    information_of,
    search_all,
    search_lists,
)
from aligncut_cli.maths.tsne_fft import GridRepulsion, degrees_of_freedom, repel_exactly


def clusters(n_points: int, *, seed: int = 0, scale: float = 1e-3) -> np.ndarray:
    """Ten uneven clouds in 20 dimensions, in the unit of eigenvectors."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(10, 20))
    spread = 0.3 * np.exp(-np.arange(20) / 8)
    points = centres[rng.integers(0, 10, n_points)] + spread * rng.normal(size=(n_points, 20))
    return (scale * points).astype(np.float32)


def fit(points: np.ndarray, **changes: object) -> TsneFit:
    knobs = {"n_dims": 2, "perplexity": 10.0, "iterations": 250, "engine": "fft", "device": "cpu", "seed": 0}
    return fit_tsne(points, **(knobs | changes))  # type: ignore[arg-type]


def some_affinities(n_points: int = 120, perplexity: float = 8.0) -> Affinities:
    rows = torch.from_numpy(clusters(n_points, scale=1.0))
    return find_affinities(rows, perplexity, n_neighbors=int(3 * perplexity + 1))


def dense_affinity(affinities: Affinities) -> torch.Tensor:
    """The matrix p_ij = (p_j|i + p_i|j) / 2n, entry by entry."""
    n_points, k = affinities.neighbours.shape
    matrix = torch.zeros(n_points, n_points, dtype=torch.float64)
    for i in range(n_points):
        for slot in range(k):
            j = int(affinities.neighbours[i, slot])
            matrix[i, j] += float(affinities.conditional[i, slot]) / (2 * n_points)
            matrix[j, i] += float(affinities.conditional[i, slot]) / (2 * n_points)
    return matrix


def divergence_by_definition(coords: torch.Tensor, affinity: torch.Tensor) -> torch.Tensor:
    dof = degrees_of_freedom(len(coords))
    square = (coords[:, :, None] - coords[:, None, :]).square().sum(0)
    kernel = (1 + square / dof) ** (-(dof + 1) / 2) * (1 - torch.eye(coords.shape[1], dtype=coords.dtype))
    edges = affinity > 0
    return (affinity[edges] * (affinity[edges] / (kernel / kernel.sum())[edges]).log()).sum()


def neighbour_weights_by_trial(squares: np.ndarray, perplexity: float) -> np.ndarray:
    """One row, by halving beta's interval."""
    low, high = 0.0, 1e12
    for _ in range(200):
        beta = (low + high) / 2
        weights = np.exp(-beta * (squares - squares.min()))
        weights /= weights.sum()
        entropy = -sum(w * math.log(w) for w in weights if w > 0)
        low, high = (beta, high) if entropy > math.log(perplexity) else (low, beta)
    return weights


def test_calibrated_weights_equal_a_search_row_by_row() -> None:
    rng = np.random.default_rng(0)
    squares = rng.random((40, 25)) ** 2 * np.exp(3 * rng.normal(size=(40, 1)))
    weights = calibrate_perplexity(torch.from_numpy(squares), 7.5).numpy()
    for row, found in zip(squares, weights, strict=True):
        np.testing.assert_allclose(found, neighbour_weights_by_trial(row, 7.5), rtol=1e-6, atol=1e-12)
    entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1)
    np.testing.assert_allclose(np.exp(entropy), 7.5, rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_the_unit_of_distances_does_not_change_their_weights(unit: float) -> None:
    squares = torch.from_numpy(np.random.default_rng(0).random((10, 20)))
    torch.testing.assert_close(calibrate_perplexity(unit * squares, 5.0), calibrate_perplexity(squares, 5.0))


def test_rows_that_cannot_have_the_perplexity_share_weight_among_the_nearest() -> None:
    squares = torch.ones(2, 10, dtype=torch.float64)
    squares[0] = 0.0
    squares[1, :6] = 0.0
    weights = calibrate_perplexity(squares, 3.0)
    torch.testing.assert_close(weights[0], torch.full((10,), 0.1, dtype=torch.float64))
    torch.testing.assert_close(weights[1, :6], torch.full((6,), 1 / 6, dtype=torch.float64))
    assert float(weights[1, 6:].sum()) < 1e-12


def test_neighbours_are_the_nearest_other_points() -> None:
    points = torch.from_numpy(clusters(80, scale=1.0))
    found = find_affinities(points, 4.0, n_neighbors=13)
    for i in range(80):
        distance = (points - points[i]).double().norm(dim=1)
        distance[i] = math.inf
        assert set(found.neighbours[i].tolist()) == set(distance.argsort()[:13].tolist())
    torch.testing.assert_close(found.conditional.sum(1), torch.ones(80))


def test_a_point_crowded_out_by_its_equals_is_still_not_its_own_neighbour() -> None:
    found = torch.tensor([[0, 1, 2], [0, 2, 3], [3, 2, 1], [3, 1, 0]])
    assert drop_self(found).tolist() == [[1, 2], [0, 2], [3, 1], [1, 0]]


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize("spread", [1e-4, 1.0, 2.0])
def test_the_gradient_is_the_derivative_of_the_divergence(n_dims: int, spread: float) -> None:
    affinities = some_affinities(400)
    coords = spread * torch.randn(n_dims, 400, generator=torch.Generator().manual_seed(0))
    moved = coords.double().requires_grad_()
    divergence = divergence_by_definition(moved, dense_affinity(affinities))
    (truth,) = torch.autograd.grad(divergence, moved)
    expected = divergence.item()
    on_grid = GridRepulsion(n_dims=n_dims, device=coords.device).repel(coords)
    assert on_grid.spacing > 0
    for repulsion, most in ((repel_exactly(coords), 1e-4), (on_grid, 1e-2)):
        found = gradient_of(attract(coords, affinities), repulsion).double()
        assert float((found - truth).norm() / truth.norm()) < most
        assert divergence_of(coords, affinities, repulsion, information_of(affinities)) == pytest.approx(
            expected, rel=2e-3
        )
        assert float(found.sum(1).norm()) < 1e-5 * float(found.norm(dim=0).sum())


@pytest.mark.parametrize("n_dims", [2, 3])
def test_the_exaggerated_gradient_pulls_that_many_times_harder(n_dims: int) -> None:
    affinities = some_affinities()
    coords = torch.randn(n_dims, 120, generator=torch.Generator().manual_seed(0))
    plain, four, seven = (
        gradient_of(attract(coords, affinities), repel_exactly(coords), exaggeration=factor)
        for factor in (1.0, 4.0, 7.0)
    )
    torch.testing.assert_close(seven - four, four - plain, rtol=1e-4, atol=1e-6)
    pull = attract(coords, affinities) / (2 * 120)
    dof = degrees_of_freedom(n_dims)
    torch.testing.assert_close(four - plain, 3 * 2 * (dof + 1) / dof * pull, rtol=1e-4, atol=1e-6)


def test_blocks_of_edges_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    affinities, coords = some_affinities(), torch.randn(3, 120, generator=torch.Generator().manual_seed(0))
    whole = attract(coords, affinities)
    monkeypatch.setattr(tsne, "_BLOCK", {"cpu": 7})
    torch.testing.assert_close(attract(coords, affinities), whole, rtol=1e-5, atol=1e-6)


def test_the_divergence_in_two_dimensions_is_at_most_that_of_scikit_learn() -> None:
    points = clusters(600)
    reference = fit(points, engine="sklearn", perplexity=20.0, iterations=500)
    for engine in ("fft", "exact"):
        found = fit(points, engine=engine, perplexity=20.0, iterations=500)
        assert found.engine == engine
        assert 0.9 * reference.kl_divergence < found.kl_divergence < 1.01 * reference.kl_divergence
        ours = trustworthiness(points, found.coords, n_neighbors=10)
        assert ours > trustworthiness(points, reference.coords, n_neighbors=10) - 0.01


def test_the_divergence_in_three_dimensions_is_below_scikit_learns() -> None:
    points = clusters(500)
    reference = fit(points, n_dims=3, engine="sklearn", perplexity=20.0, iterations=300)
    found = fit(points, n_dims=3, engine="exact", perplexity=20.0, iterations=300)
    assert found.kl_divergence < reference.kl_divergence
    ours = trustworthiness(points, found.coords, n_neighbors=10)
    assert ours > trustworthiness(points, reference.coords, n_neighbors=10) - 0.01


def test_the_grid_in_three_dimensions_reaches_the_divergence_of_exact_forces(monkeypatch: pytest.MonkeyPatch) -> None:
    points = clusters(1000)
    exact = fit(points, n_dims=3, engine="exact", perplexity=20.0, iterations=200)
    spacings = []
    repel = GridRepulsion.repel
    monkeypatch.setattr(
        GridRepulsion, "repel", lambda self, coords: spacings.append((found := repel(self, coords)).spacing) or found
    )
    found = fit(points, n_dims=3, engine="fft", perplexity=20.0, iterations=200)
    assert np.mean(np.array(spacings) > 0) > 0.9, "the grid should have been used"
    assert found.kl_divergence == pytest.approx(exact.kl_divergence, rel=0.02)


def test_scikit_learns_divergence_of_a_map_is_ours() -> None:
    # Its own figure is of the last map it looked at, so ours of its result can only be close.
    points = clusters(300)
    reference = fit(points, engine="sklearn", iterations=400)
    rows = torch.from_numpy(tsne._standardise(points))
    coords = torch.from_numpy(reference.coords.T.copy())
    affinities = find_affinities(rows, reference.perplexity, n_neighbors=reference.n_neighbors)
    ours = divergence_of(coords, affinities, repel_exactly(coords), information_of(affinities))
    assert ours == pytest.approx(reference.kl_divergence, rel=0.03)


@pytest.mark.parametrize("n_dims", [2, 3])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(n_dims: int) -> None:
    points = clusters(300)
    first, again, other = (fit(points, n_dims=n_dims, iterations=60, seed=seed) for seed in (3, 3, 4))
    assert first.coords.tobytes() == again.coords.tobytes()
    assert first.kl_divergence == again.kl_divergence
    assert first.coords.tobytes() != other.coords.tobytes()
    assert first.coords.dtype == np.float32
    assert first.coords.shape == (300, n_dims)


def test_the_unit_and_the_origin_of_the_input_do_not_matter() -> None:
    points = clusters(300, scale=1.0).astype(np.float64)
    plain = fit(points, iterations=100)
    np.testing.assert_array_equal(fit(points * 2.0**-30, iterations=100).coords, plain.coords)
    moved = fit(points + 0.5, iterations=100)
    assert moved.kl_divergence == pytest.approx(plain.kl_divergence, rel=0.05)
    tiny = fit((points * 1e-150), iterations=100)
    assert tiny.kl_divergence == pytest.approx(plain.kl_divergence, rel=0.05)


@pytest.mark.parametrize("engine", ["fft", "exact"])
@pytest.mark.parametrize("n_dims", [2, 3])
def test_equal_points_give_a_finite_map_and_stay_together(engine: str, n_dims: int) -> None:
    points = clusters(300)
    points[50:150] = points[50]
    found = fit(points, engine=engine, n_dims=n_dims)
    assert np.isfinite(found.coords).all()
    width = np.ptp(found.coords[50:150], axis=0).max()
    assert 0 < width < np.ptp(found.coords, axis=0).max() / 2
    everywhere = fit(np.ones((60, 20), np.float32), engine=engine, n_dims=n_dims, iterations=50)
    assert np.isfinite(everywhere.coords).all()
    assert np.isfinite(everywhere.kl_divergence)


def test_few_points_lower_the_perplexity_and_say_so() -> None:
    found = fit(clusters(40), perplexity=30.0)
    assert found.perplexity == 13.0
    assert found.n_neighbors == 39
    assert np.isfinite(found.coords).all()
    plenty = fit(clusters(200), perplexity=30.0, iterations=20)
    assert (plenty.perplexity, plenty.n_neighbors) == (30.0, 91)
    assert np.isfinite(fit(clusters(5), perplexity=30.0, n_dims=3).coords).all()


@pytest.mark.parametrize("engine", ["fft", "exact"])
@pytest.mark.parametrize("n_points", [5, 8, 20])
def test_a_handful_of_points_does_not_explode(engine: str, n_points: int) -> None:
    for n_dims in (2, 3):
        found = fit(clusters(n_points), engine=engine, n_dims=n_dims, perplexity=5.0, iterations=500)
        assert np.ptp(found.coords) < 1000
        assert found.kl_divergence < 1


def test_fewer_coordinates_than_dimensions_still_make_a_map() -> None:
    found = fit(clusters(100)[:, :1], n_dims=3)
    assert np.isfinite(found.coords).all()
    assert (np.ptp(found.coords, axis=0) > 0).all()


def test_auto_is_exact_for_few_points_and_the_grid_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit(clusters(50), engine="auto", iterations=10).engine == "exact"
    monkeypatch.setattr(tsne, "_EXACT_UP_TO", {2: 49})
    assert fit(clusters(50), engine="auto", iterations=10).engine == "fft"


def test_progress_counts_every_iteration() -> None:
    seen: list[tuple[int, int]] = []
    fit(clusters(50), iterations=7, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(1, 8)]


def test_the_descent_ends_where_the_divergence_hardly_falls_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    points = clusters(600)
    monkeypatch.setattr(tsne, "_LEAST_FALL", -1.0)
    whole = fit(points, engine="exact", perplexity=20.0, iterations=500)
    assert whole.iterations == 500
    monkeypatch.undo()
    seen: list[tuple[int, int]] = []
    early = fit(points, engine="exact", perplexity=20.0, iterations=500, progress=lambda *step: seen.append(step))
    assert 60 < early.iterations < 500
    assert (early.iterations - 60) % 25 == 0
    assert seen[-1] == (early.iterations, early.iterations)
    assert early.kl_divergence < 1.02 * whole.kl_divergence
    monkeypatch.setattr(tsne, "_MANY", 600)
    earlier = fit(points, engine="exact", perplexity=20.0, iterations=500)
    assert 60 < earlier.iterations < early.iterations
    assert early.kl_divergence < earlier.kl_divergence < 1.06 * whole.kl_divergence


def test_lists_hold_nearly_all_neighbours_and_the_same_ones_on_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 8))
    points = (centres[rng.integers(0, 40, 6000)] + 0.5 * rng.normal(size=(6000, 8))).astype(np.float32)
    rows = torch.from_numpy(points)
    exact = search_all(rows, rows, 31)
    monkeypatch.setattr(tsne_affinities, "_CENTRES", 60)
    threads = faiss.omp_get_max_threads()
    found = []
    try:
        for candidates in (6, 25, 25, 200):  # of 2, 8, 8 and all 60 lists
            faiss.omp_set_num_threads(1 + len(found))
            monkeypatch.setattr(tsne_affinities, "_CANDIDATES_PER_NEIGHBOUR", candidates)
            found.append(search_lists(rows, 31))
    finally:
        faiss.omp_set_num_threads(threads)
    shares = [
        np.mean([len(set(a.tolist()) & set(b.tolist())) / 31 for a, b in zip(exact, each, strict=True)])
        for each in found
    ]
    assert torch.equal(found[1], found[2])
    assert shares[0] < shares[1]
    assert shares[1] > 0.97
    assert shares[3] > 0.9999
    few = torch.cat([rows[:200], rows[:3] + 100])  # these have lists of their own, which hold no 31 rows
    monkeypatch.setattr(tsne_affinities, "_CANDIDATES_PER_NEIGHBOUR", 0.1)  # of 1 list
    found.append(search_lists(few, 31))
    assert torch.equal(found[4][-3:], search_all(few[-3:], few, 31))
    monkeypatch.setattr(tsne_affinities, "_EXACT_UP_TO", 5999)
    monkeypatch.setattr(tsne_affinities, "_CANDIDATES_PER_NEIGHBOUR", 200)
    near = find_affinities(rows, 10.0, n_neighbors=30).neighbours
    assert torch.equal(near, drop_self(found[3]).to(torch.int32))
    monkeypatch.setattr(tsne_affinities, "_CANDIDATES_PER_NEIGHBOUR", 25)
    many = zip(search_all(rows, rows, 150), search_lists(rows, 150), strict=True)
    assert np.mean([len(set(a.tolist()) & set(b.tolist())) / 150 for a, b in many]) > 0.97
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("engine", ["exact", "fft"])
def test_any_number_of_threads_gives_the_bytes_of_one(engine: str) -> None:
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(fit(clusters(2500), n_dims=3, iterations=40, engine=engine))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert found[0].coords.tobytes() == other.coords.tobytes()
        assert found[0].kl_divergence == other.kl_divergence


def test_the_local_order_is_a_permutation_that_shortens_steps() -> None:
    rows = clusters(1000)
    order = tsne._local_order(rows)
    assert sorted(order.tolist()) == list(range(1000))
    steps = np.linalg.norm(np.diff(rows[order], axis=0), axis=1).mean()
    assert steps < 0.75 * np.linalg.norm(np.diff(rows, axis=0), axis=1).mean()


def test_the_information_is_that_of_the_symmetric_affinities() -> None:
    affinities = some_affinities()
    matrix = dense_affinity(affinities).numpy()
    total, information = information_of(affinities)
    kept = sparse.csr_array(matrix).data
    assert total == pytest.approx(1.0, rel=1e-6)
    assert information == pytest.approx(float((kept * np.log(kept)).sum()), rel=1e-9)


def test_what_cannot_be_fitted_is_refused() -> None:
    points = clusters(50)
    with pytest.raises(UsageError, match="no t-SNE engine 'magic'"):
        fit(points, engine="magic")
    with pytest.raises(UsageError, match="2 or 3 dimensions, not 4"):
        fit(points, n_dims=4)
    with pytest.raises(UsageError, match="perplexity"):
        fit(points, perplexity=0.5)
    with pytest.raises(UsageError, match="at least 251 iterations"):
        fit(points, engine="sklearn", iterations=100)
    with pytest.raises(UsageError, match="at least 1 iterations"):
        fit(points, iterations=0)
    with pytest.raises(BadInput, match="at least 5 points"):
        fit(points[:4])
    with pytest.raises(BadInput, match="not an array of shape"):
        fit(points[0])
    points[3, 2] = np.nan
    with pytest.raises(BadInput, match="1 of 50 points for t-SNE are not finite"):
        fit(points)


@pytest.mark.gpu
@pytest.mark.parametrize("n_dims", [2, 3])
def test_a_gpu_gives_the_same_gradient_and_as_good_a_map(n_dims: int) -> None:
    affinities = some_affinities(1000)
    coords = 5 * torch.randn(n_dims, 1000, generator=torch.Generator().manual_seed(0))
    here = gradient_of(attract(coords, affinities), GridRepulsion(n_dims=n_dims, device=coords.device).repel(coords))
    there = coords.cuda()
    moved = Affinities(affinities.neighbours.cuda(), affinities.conditional.cuda())
    found = gradient_of(attract(there, moved), GridRepulsion(n_dims=n_dims, device=there.device).repel(there))
    torch.testing.assert_close(found.cpu(), here, rtol=1e-3, atol=1e-5)
    points = clusters(1000)
    cpu, gpu = (fit(points, n_dims=n_dims, iterations=400, device=device) for device in ("cpu", "cuda"))
    assert gpu.kl_divergence == pytest.approx(cpu.kl_divergence, rel=0.03)
