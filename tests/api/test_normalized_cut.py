"""NormalizedCut: scikit-learn's rules, the stage's numbers, and the properties that any normalized cut must have."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from aligncut_cli.api.arrays import Table
from aligncut_cli.api.normalized_cut import NormalizedCut
from aligncut_cli.errors import AlignCutError, BadInput, UsageError
from aligncut_cli.maths.eigensolve import estimate_solver_memory
from aligncut_cli.maths.sampling import draw_rows
from aligncut_cli.store.read import open_store
from tests.conftest import done

EXTENDS = ("knn", "nystrom")


def tokens_of(store: Path) -> tuple[NDArray[Any], list[zarr.Array[Any]]]:
    """All rows of a features store in node order, and the arrays that hold them."""
    opened = open_store(store)
    arrays = [opened.array(f"{name}/tokens") for name in opened.record["models"]]
    return np.concatenate([array[...].reshape(-1, array.shape[-1]) for array in arrays]), arrays


def blobs(n: int = 150, k: int = 3, dim: int = 12, spread: float = 0.1) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Rows around k orthogonal directions, and which each is around."""
    rng = np.random.default_rng(5)
    label = np.arange(n) % k
    return (np.eye(dim)[label] + spread * rng.standard_normal((n, dim))).astype(np.float32), label


@pytest.mark.parametrize("extend", EXTENDS)
def test_scikit_learns_checks_pass(extend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(NormalizedCut(extend=extend, device="cpu"), on_fail=None, on_skip=None)
    assert {r["check_name"] for r in results if r["status"] == "failed"} == set()
    assert sum(r["status"] == "passed" for r in results) > 40


@pytest.mark.parametrize("extend", EXTENDS)
def test_the_estimator_of_a_store_gives_what_is_stored(tmp_path: Path, features: Path, extend: str) -> None:
    more = ["--n-eig", 4, "--n-sample", 150, "--neighbors", 7, "--extend", extend, "--device", "cpu"]
    store = done("eigs", features, "-o", tmp_path / "e.zarr", *more)
    opened, (_, arrays) = open_store(store), tokens_of(features)
    cut = NormalizedCut.from_store(store, device="cpu")
    for array, name in zip(arrays, opened.record["models"], strict=True):
        np.testing.assert_allclose(cut.transform(array), opened.read(f"{name}/eigvecs"), atol=1e-6)


def test_stage_and_estimator_give_the_same_numbers_on_the_same_sample(tmp_path: Path, features: Path) -> None:
    more = ["--n-eig", 4, "--n-sample", 150, "--neighbors", 7, "--device", "cpu"]
    opened = open_store(done("eigs", features, "-o", tmp_path / "e.zarr", *more))
    rows, _ = tokens_of(features)
    cut = NormalizedCut(4, n_samples=150, n_neighbors=7, device="cpu").fit(rows[opened.read("sample/node")[0]])
    np.testing.assert_array_equal(cut.sample_features_, opened.read("sample/features")[0])
    np.testing.assert_array_equal(cut.eigenvalues_, opened.read("eigenvalues")[0])
    np.testing.assert_array_equal(cut.sample_eigenvectors_, opened.read("sample/eigvecs")[0])
    np.testing.assert_array_equal(cut.degrees_, opened.read("sample/degree")[0])
    np.testing.assert_array_equal(cut.residuals_, opened.read("residual")[0])


@pytest.mark.parametrize("extend", EXTENDS)
def test_where_all_rows_are_sampled_they_keep_their_exact_eigenvectors(
    tmp_path: Path, features: Path, extend: str
) -> None:
    rows, arrays = tokens_of(features)
    opened = open_store(done("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 5, "--extend", extend))
    stored = np.concatenate([opened.read(f"{name}/eigvecs").reshape(-1, 5) for name in opened.record["models"]])
    cut = NormalizedCut(5, extend=extend, device="cpu")
    np.testing.assert_array_equal(cut.fit_transform(rows), stored)
    again = NormalizedCut.from_store(opened.path, device="cpu").transform(arrays[0])
    np.testing.assert_array_equal(again.reshape(-1, 5), stored[: len(again.reshape(-1, 5))])
    near = rows[:3].astype(np.float32) * np.float32(1.001) + np.float32(1e-3)
    assert np.abs(cut.transform(near) - stored[:3]).max() > 0


def test_a_store_of_several_graphs_or_orthogonalized_gives_what_is_stored(tmp_path: Path, features: Path) -> None:
    more = ["--n-eig", 3, "--n-sample", 60, "--device", "cpu"]
    store = done("eigs", features, "-o", tmp_path / "m.zarr", "--group", "model", *more, "--orthogonalize")
    opened, (_, arrays) = open_store(store), tokens_of(features)
    name = opened.record["models"][1]
    found = NormalizedCut.from_store(store, group=name, device="cpu").transform(arrays[1])
    np.testing.assert_allclose(found, opened.read(f"{name}/eigvecs"), atol=1e-6)
    with pytest.raises(UsageError, match="2 graphs"):
        NormalizedCut.from_store(store)
    with pytest.raises(UsageError, match="no graph 'other'"):
        NormalizedCut.from_store(store, group="other")
    centred = done("eigs", features, "-o", tmp_path / "c.zarr", "--centre", "slot", *more)
    with pytest.raises(BadInput, match="centre"):
        NormalizedCut.from_store(centred)


def test_arrays_tensors_and_zarr_arrays_give_the_same_and_zarr_is_read_by_chunk(features: Path) -> None:
    _, arrays = tokens_of(features)
    stored = arrays[0]

    class Watched:
        shape, dtype, chunks = stored.shape, stored.dtype, stored.chunks
        reads: tuple[int, ...] = ()

        def __getitem__(self, where: Any) -> Any:
            values = stored[where]
            self.reads = (*self.reads, values.size)
            return values

    watched, cut = Watched(), NormalizedCut(3, n_samples=40, n_neighbors=5, device="cpu")
    expected = cut.fit_transform(stored[...])
    assert expected.shape == (*stored.shape[:-1], 3)
    np.testing.assert_array_equal(cut.fit_transform(watched), expected)
    assert max(watched.reads) <= np.prod(stored.chunks)
    assert sum(watched.reads) <= 2 * np.prod(stored.shape)
    np.testing.assert_array_equal(cut.fit_transform(torch.from_numpy(stored[...])), expected)
    flat = stored[...].reshape(-1, stored.shape[-1])
    np.testing.assert_array_equal(cut.fit_transform(flat), expected.reshape(-1, 3))


def test_rows_taken_from_a_chunked_array_are_those_of_the_whole(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 7, 5, 4)).astype(np.float32)
    array = zarr.create_array(str(tmp_path / "a.zarr"), data=values, chunks=(1, 3, 2, 4))
    rows = np.array([0, 3, 4, 33, 34, 70, 71, 104])
    np.testing.assert_array_equal(Table(array).take(rows), values.reshape(-1, 4)[rows])
    seen = np.full(values.shape[:-1], 0)
    for where, block in Table(array).blocks():
        seen[where] += 1
        np.testing.assert_array_equal(block, values[where].reshape(-1, 4))
    assert (seen == 1).all()


def test_rows_are_drawn_uniformly_without_replacement() -> None:
    counts = np.zeros(30)
    for seed in range(400):
        drawn = draw_rows(30, 9, seed=seed)
        assert len(set(drawn.tolist())) == 9
        assert (np.diff(drawn) > 0).all()
        counts[drawn] += 1
    # each row is drawn 120 times; the deviation is sqrt(400 x .3 x .7) = 9.2
    assert np.abs(counts - 120).max() < 4.5 * 9.2
    assert ((counts - 120) ** 2).mean() > 20
    np.testing.assert_array_equal(draw_rows(5, 9, seed=0), np.arange(5))
    many = draw_rows(200_000, 1000, seed=1)
    assert abs(many.mean() - 100_000) < 4.5 * 200_000 / np.sqrt(12 * 1000)


def test_eigenvectors_are_those_of_a_dense_matrix() -> None:
    rows, _ = blobs()
    cut = NormalizedCut(4, device="cpu").fit(rows)
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    graph = np.exp(unit @ unit.T - 1)
    values, vectors = np.linalg.eigh(graph / np.sqrt(np.outer(graph.sum(0), graph.sum(0))))
    np.testing.assert_allclose(cut.eigenvalues_, values[::-1][:4], rtol=1e-6)
    overlap = np.abs(cut.sample_eigenvectors_.T @ vectors[:, ::-1][:, :4])
    np.testing.assert_allclose(overlap, np.eye(4), atol=1e-3)
    np.testing.assert_allclose(cut.degrees_, graph.sum(0), rtol=1e-6)


@pytest.mark.parametrize("sampling", ["uniform", "fps"])
@pytest.mark.parametrize("extend", EXTENDS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_sample(sampling: str, extend: str) -> None:
    rows, _ = blobs()

    def fit(seed: int) -> NormalizedCut:
        return NormalizedCut(
            3, n_samples=20, sampling=sampling, extend=extend, n_neighbors=5, device="cpu", random_state=seed
        ).fit(rows)

    one, two = fit(1), fit(1)
    assert one.transform(rows).tobytes() == two.transform(rows).tobytes()
    assert fit(2).sample_indices_.tolist() != one.sample_indices_.tolist()


def test_farthest_points_reach_a_rare_direction_that_chance_misses() -> None:
    rows = np.vstack([np.eye(8)[[0]].repeat(196, 0), np.eye(8)[4:]])
    rows[:196] += 1e-3 * np.random.default_rng(0).standard_normal((196, 8))
    cut = NormalizedCut(2, n_samples=50, sampling="fps", device="cpu").fit(rows)
    assert set(range(196, 200)) <= set(cut.sample_indices_.tolist())


def test_duplicates_share_their_rows_and_a_single_cluster_is_one_constant() -> None:
    rows, _ = blobs(40)
    carried = NormalizedCut(3, device="cpu").fit_transform(np.vstack([rows, rows]))
    np.testing.assert_allclose(carried[:40], carried[40:], atol=1e-6)
    same = NormalizedCut(2, device="cpu").fit(np.ones((30, 5), dtype=np.float32))
    np.testing.assert_allclose(same.sample_eigenvectors_[:, 0], 1 / np.sqrt(30), atol=1e-6)
    np.testing.assert_allclose(same.eigenvalues_, [1, 0], atol=1e-6)
    assert np.isfinite(same.transform(np.ones((4, 5)))).all()


@pytest.mark.parametrize("extend", EXTENDS)
@pytest.mark.parametrize("n_samples", [60, 1000])
def test_clusters_are_the_planted_ones_and_numbered_by_size(extend: str, n_samples: int) -> None:
    rows, label = blobs(150, k=3)
    cut = NormalizedCut(3, n_samples=n_samples, extend=extend, n_neighbors=8, device="cpu").fit(rows)
    found = cut.cluster(3, rows)
    assert adjusted_rand_score(label, found) == 1
    np.testing.assert_array_equal(cut.cluster(3), found[cut.sample_indices_])
    uneven = np.concatenate([rows[label == 0], rows[label == 1][:20], rows[label == 2][:8]])
    sizes = np.bincount(NormalizedCut(3, device="cpu").fit(uneven).cluster(3))
    assert sizes.tolist() == [50, 20, 8]
    noise = np.random.default_rng(1).standard_normal((150, 12)).astype(np.float32)
    assert abs(adjusted_rand_score(label, NormalizedCut(3, device="cpu").fit(noise).cluster(3))) < 0.1


def test_more_components_than_samples_are_reduced_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="7 are kept"):
        carried = NormalizedCut(20, device="cpu").fit_transform(blobs(7)[0])
    assert carried.shape == (7, 7)


def test_half_precision_is_the_same_up_to_its_rounding() -> None:
    rows, _ = blobs()
    wide = NormalizedCut(3, device="cpu").fit(rows).sample_eigenvectors_
    half = NormalizedCut(3, device="cpu").fit_transform(rows.astype(np.float16))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, wide, atol=2e-3)
    assert NormalizedCut(3, device="cpu").fit_transform(torch.from_numpy(rows).bfloat16()).shape == (150, 3)


def test_pipelines_clones_names_and_pickles_work() -> None:
    rows, _ = blobs()
    cut = NormalizedCut(3, n_samples=50, n_neighbors=5, device="cpu")
    assert clone(cut).get_params() == cut.get_params()
    pipe = make_pipeline(StandardScaler(), cut).set_output(transform="pandas")
    frame = pipe.fit_transform(rows)
    assert list(frame.columns) == ["normalizedcut0", "normalizedcut1", "normalizedcut2"]
    expected = cut.fit(rows).set_output(transform="default").transform(rows)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cut)).transform(rows), expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_components": 0}, "n-eig 0"),
        ({"sampling": "best"}, "best"),
        ({"extend": "spline"}, "spline"),
        ({"search": "tree"}, "tree"),
        ({"device": "abacus"}, "abacus"),
        ({"max_memory": "much"}, "much"),
    ],
)
def test_parameters_that_cannot_be_meant_are_value_errors_with_advice(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        NormalizedCut(**options).fit(blobs()[0])
    assert isinstance(caught.value, AlignCutError)


def test_arrays_that_cannot_be_meant_are_value_errors() -> None:
    rows, _ = blobs()
    cut = NormalizedCut(3, device="cpu").fit(torch.from_numpy(rows))
    with pytest.raises(ValueError, match="X has 11 features"):
        cut.transform(torch.from_numpy(rows[:, 1:]))
    rows[3, 2] = np.nan
    for bad in (torch.from_numpy(rows), rows.reshape(3, 50, 12)):
        with pytest.raises(ValueError, match="NaN"):
            cut.transform(bad)
    with pytest.raises(ValueError, match="array"):
        cut.fit(torch.zeros(5))


def test_a_bounded_solver_gives_the_same_eigenvectors() -> None:
    rows = np.random.default_rng(0).standard_normal((1700, 8)).astype(np.float32)
    free = NormalizedCut(3, device="cpu").fit(rows)
    least = estimate_solver_memory(1700, 8, n_eig=3, device="cpu").matrix_free
    bound = NormalizedCut(3, device="cpu", max_memory=least).fit(rows)
    np.testing.assert_allclose(bound.sample_eigenvectors_, free.sample_eigenvectors_, atol=1e-5)
    with pytest.raises(AlignCutError, match="needs"):
        NormalizedCut(3, device="cpu", max_memory=1000).fit(rows)
