from __future__ import annotations

import numpy as np
import pytest
import torch

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths import neighbours
from aligncut_cli.maths.affinity import unit_rows
from aligncut_cli.maths.neighbours import build_search, choose_search
from aligncut_cli.maths.propagate import propagate_eigenvectors

EXACT = ["flat", "torch"]


def clustered(n: int, dim: int, *, seed: int) -> torch.Tensor:
    centres = torch.randn(20, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    return centres[torch.randint(20, (n,), generator=generator)] + 0.4 * torch.randn(n, dim, generator=generator)


def points(n: int, dim: int, metric: str, *, seed: int) -> torch.Tensor:
    rows = clustered(n, dim, seed=seed)
    return unit_rows(rows) if metric == "cosine" else rows


def search_naively(queries: torch.Tensor, database: torch.Tensor, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    scores, indices = [], []
    rows = database.numpy().astype(np.float64)
    for query in queries.numpy().astype(np.float64):
        badness = -(rows @ query) if metric == "cosine" else ((rows - query) ** 2).sum(axis=1)
        order = np.lexsort((np.arange(len(rows)), badness))[:k]
        indices.append(order)
        scores.append(-badness[order] if metric == "cosine" else badness[order])
    return np.array(scores), np.array(indices)


def build(database: torch.Tensor, method: str, metric: str, seed: int = 0):
    return build_search(database, method=method, metric=metric, seed=seed, device="cpu")


@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("method", EXACT)
def test_exact_search_finds_what_the_naive_loop_finds(monkeypatch, method, metric, k):
    monkeypatch.setattr(neighbours, "_QUERY_TILE", {"cpu": 16})
    monkeypatch.setattr(neighbours, "_DATABASE_TILE", {"cpu": 130})
    database, queries = points(500, 12, metric, seed=0), points(50, 12, metric, seed=1)
    expected, rows = search_naively(queries, database, k, metric)
    score, index = build(database, method, metric).search(queries, k)
    assert score.dtype == torch.float32
    assert index.dtype == torch.int64
    assert np.allclose(score.numpy(), expected, atol=2e-6 if metric == "cosine" else 1e-4)
    assert (index.numpy() == rows).mean() > 0.999


@pytest.mark.parametrize("k", [1, 5, 40])
def test_cells_find_exactly_the_nearest_by_distance(monkeypatch, k):
    monkeypatch.setattr(neighbours, "_FEWEST_CANDIDATES", {"cosine": 80, "euclidean": 80})
    monkeypatch.setattr(neighbours, "_CANDIDATES_PER_NEIGHBOUR", 3)
    database, queries = points(3000, 6, "euclidean", seed=0), points(300, 6, "euclidean", seed=1)
    # Queries far outside have no certain answer in their cell.
    queries[:20] *= 5
    _, rows = search_naively(queries, database, k, "euclidean")
    search = build(database, "ivf", "euclidean")
    _, index = search.search(queries, k)
    assert search.record["cells"] == 30
    assert {len(listed) for listed in search._candidates} == {max(80, 3 * k)}
    assert (index.numpy() == rows).mean() > 0.999


def test_cells_find_most_of_the_nearest_by_cosine_and_their_cosines():
    database, queries = points(4000, 32, "cosine", seed=0), points(300, 32, "cosine", seed=1)
    expected, rows = search_naively(queries, database, 20, "cosine")
    search = build(database, "ivf", "cosine")
    score, index = search.search(queries, 20)
    recall = np.mean([len(np.intersect1d(a, b)) for a, b in zip(index.numpy(), rows, strict=True)]) / 20
    assert recall > 0.95
    true = torch.einsum("qd,qkd->qk", queries, database[index])
    assert float((score - true).abs().max()) < 1e-5
    assert np.all(np.diff(score.numpy()) <= 0)
    assert np.allclose(score.numpy()[:, 0], expected[:, 0], atol=2e-2)
    assert not search.record["exact"]


def test_every_sampled_row_finds_itself_in_cells_and_carries_what_exact_search_carries(monkeypatch):
    monkeypatch.setattr(neighbours, "_FEWEST_CANDIDATES", {"cosine": 20, "euclidean": 20})
    # A large cloud and rows far from every centre: the 20 nearest to a centre leave most members of its cell out.
    lonely = torch.randn(300, 32, generator=torch.Generator().manual_seed(8))
    database = torch.cat([points(2700, 32, "cosine", seed=0), unit_rows(lonely)])
    eigenvectors = torch.randn(3000, 4, generator=torch.Generator().manual_seed(1))
    search = build(database, "ivf", "cosine")
    nearest = torch.cat([search.search(part, 1)[1] for part in database.split(777)])
    _, expected = search_naively(database, database, 1, "cosine")
    assert np.array_equal(nearest.numpy(), expected)
    carried = propagate_eigenvectors(torch.ones(3000, 1), nearest, eigenvectors)
    assert torch.allclose(carried, eigenvectors, atol=1e-6)
    score, index = search.search(database, 7)
    assert torch.equal(index[:, 0], torch.arange(3000))
    assert torch.allclose(score[:, 0], torch.ones(3000), atol=1e-6)
    listed = torch.cat([row.unique() for row in search._candidates])
    assert len(listed) < 2 * len(database)


def test_cells_of_rows_that_are_all_the_same_list_each_row_twice_at_most():
    database = unit_rows(torch.ones(1000, 8))
    search = build(database, "ivf", "cosine")
    score, _ = search.search(database, 3)
    assert torch.allclose(score, torch.ones(1000, 3), atol=1e-6)
    assert sum(map(len, search._candidates)) <= 10 * 512 + 2 * 1000


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("method", ["flat", "torch", "ivf"])
def test_results_do_not_depend_on_the_batch(method, metric):
    database, queries = points(1000, 10, metric, seed=2), points(90, 10, metric, seed=3)
    search = build(database, method, metric)
    whole = search.search(queries, 5)
    parts = [search.search(part, 5) for part in queries.split(23)]
    assert torch.allclose(torch.cat([part[0] for part in parts]), whole[0], atol=1e-5)
    assert float((torch.cat([part[1] for part in parts]) == whole[1]).float().mean()) > 0.999
    assert [tuple(part.shape) for part in search.search(queries[:0], 5)] == [(0, 5), (0, 5)]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("method", ["flat", "torch", "ivf"])
def test_a_database_row_finds_itself_and_its_duplicates_in_order(method, metric):
    rows = points(40, 8, metric, seed=4)
    database = torch.cat([rows, rows, rows])
    _, index = build(database, method, metric).search(rows, 3)
    if (method, metric) == ("ivf", "cosine"):
        index = index.sort(dim=1).values
    assert index.tolist() == [[i, i + 40, i + 80] for i in range(40)]


@pytest.mark.parametrize("method", ["flat", "torch", "ivf"])
def test_zero_and_constant_rows_are_searched_like_any(method):
    database = torch.zeros(30, 4)
    score, index = build(database, method, "cosine").search(torch.zeros(2, 4), 30)
    assert score.tolist() == [[0.0] * 30] * 2
    assert sorted(index[0].tolist()) == list(range(30))
    score, index = build(database + 3, method, "euclidean").search(torch.zeros(2, 4) + 3, 1)
    assert score.tolist() == [[0.0]] * 2


def test_cells_are_the_same_for_the_same_seed():
    database, queries = points(2000, 16, "cosine", seed=5), points(100, 16, "cosine", seed=6)
    first, again = (build(database, "ivf", "cosine", seed=3).search(queries, 10) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_auto_searches_exactly_until_the_cells_are_cheaper():
    def chosen(n_queries: int, n_sample: int, device: str = "cpu") -> str:
        return choose_search(method="auto", n_queries=n_queries, n_sample=n_sample, dim=768, device=device)

    assert chosen(7_092_000, 50_000) == "ivf"
    assert chosen(100_000, 1000) != "ivf"
    assert chosen(100, 50_000) != "ivf"
    assert chosen(50_000, 10_000) == "flat"
    assert chosen(7_092_000, 4000) == "ivf"
    # By distance the cells are exact, so nothing speaks for waiting.
    assert (
        choose_search(method="auto", n_queries=100_000, n_sample=10_000, dim=20, device="cpu", metric="euclidean")
        == "ivf"
    )
    assert chosen(7_092_000, 50_000, "cuda:0") == "torch"
    for method in ("flat", "ivf", "torch"):
        assert choose_search(method=method, n_queries=1, n_sample=1, dim=1, device="cpu") == method


def test_unknown_methods_and_impossible_counts_are_refused():
    with pytest.raises(UsageError, match="auto, flat, ivf, torch"):
        choose_search(method="hnsw", n_queries=1, n_sample=1, dim=1, device="cpu")
    with pytest.raises(UsageError, match="no search method"):
        build(torch.ones(3, 2), "auto", "cosine")
    with pytest.raises(UsageError, match="metric"):
        build(torch.ones(3, 2), "flat", "manhattan")
    with pytest.raises(BadInput, match="no sampled nodes"):
        build(torch.ones(0, 2), "flat", "cosine")
    for method in ("flat", "torch", "ivf"):
        with pytest.raises(BadInput, match="4 nearest of 3"):
            build(torch.ones(3, 2), method, "cosine").search(torch.ones(1, 2), 4)


@pytest.mark.gpu
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_gpu_finds_what_the_cpu_finds(metric):
    database, queries = points(3000, 32, metric, seed=0), points(200, 32, metric, seed=1)
    _, rows = search_naively(queries, database, 10, metric)
    search = build_search(database.cuda(), method="torch", metric=metric, seed=0, device="cuda")
    assert (search.search(queries.cuda(), 10)[1].cpu().numpy() == rows).mean() > 0.999
