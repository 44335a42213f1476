"""SpectralTSNE: scikit-learn's rules, the stage's numbers, and that near rows get near places and colours."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from aligncut_cli.api.normalized_cut import NormalizedCut
from aligncut_cli.api.spectral_tsne import SpectralTSNE
from aligncut_cli.store.read import open_store
from tests.api.test_normalized_cut import blobs
from tests.conftest import done


def test_scikit_learns_checks_pass() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(SpectralTSNE(device="cpu", iterations=20), on_fail=None, on_skip=None)
    assert {r["check_name"] for r in results if r["status"] == "failed"} == set()
    assert sum(r["status"] == "passed" for r in results) > 40


def test_stage_and_estimator_give_the_same_numbers_on_the_same_sample(tmp_path: Path, features: Path) -> None:
    eigs = done("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 4, "--n-sample", 150, "--device", "cpu")
    more = ["--n-sample", 10_000, "--iterations", 30, "--perplexity", 12, "--device", "cpu"]
    opened = open_store(done("tsne", eigs, "-o", tmp_path / "t.zarr", *more))
    rows = opened.read("sample/eigvecs")[0]
    names = opened.record["models"]
    tsne = SpectralTSNE(iterations=30, perplexity=12, device="cpu").fit(rows)
    np.testing.assert_array_equal(tsne.sample_coords_, opened.read("sample/coords")[0])
    for name in names:
        carried = open_store(eigs).array(f"{name}/eigvecs")
        np.testing.assert_array_equal(tsne.transform(carried), opened.read(f"{name}/coords"))
        np.testing.assert_array_equal(tsne.to_rgb(tsne.transform(carried)), opened.read(f"{name}/rgb"))
    assert tsne.kl_divergence_ == opened.record["summary"]["fit"]["all"]["kl_divergence"]
    assert tsne.n_iter_ == opened.record["summary"]["fit"]["all"]["iterations"] == 30


def test_every_row_stands_where_its_nearest_sampled_row_does() -> None:
    rows, _ = blobs()
    tsne = SpectralTSNE(2, n_samples=40, iterations=20, device="cpu").fit(rows)
    sampled = rows[tsne.sample_indices_]
    nearest = [int(((sampled - row) ** 2).sum(axis=1).argmin()) for row in rows]
    np.testing.assert_array_equal(tsne.embedding_, tsne.sample_coords_[nearest])
    np.testing.assert_array_equal(tsne.transform(torch.from_numpy(rows)), tsne.embedding_)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tsne)).transform(rows), tsne.embedding_)


def test_planted_clusters_part_in_the_map_and_in_colour_and_noise_does_not() -> None:
    rows, label = blobs(150, k=3)

    def purity(points: np.ndarray) -> float:
        gaps = ((points[:, None].astype(float) - points[None].astype(float)) ** 2).sum(axis=2)
        np.fill_diagonal(gaps, np.inf)
        return float((label[gaps.argmin(axis=1)] == label).mean())

    both = make_pipeline(NormalizedCut(3, device="cpu"), SpectralTSNE(device="cpu", iterations=150))
    places = both.fit_transform(rows)
    colours = both[-1].to_rgb()
    assert colours.shape == (150, 3)
    assert colours.dtype == np.uint8
    assert purity(places) == 1
    assert purity(colours) > 0.95
    noise = np.random.default_rng(0).standard_normal(rows.shape)
    assert purity(both.fit_transform(noise)) < 0.6


def test_leading_axes_are_kept_and_a_seed_gives_its_bytes() -> None:
    rows = blobs(60)[0].reshape(3, 20, 12)
    one, two, other = (
        SpectralTSNE(n_samples=30, iterations=20, device="cpu", random_state=seed).fit(rows) for seed in (1, 1, 2)
    )
    assert one.embedding_.shape == (3, 20, 3)
    assert one.to_rgb().shape == (3, 20, 3)
    assert one.embedding_.tobytes() == two.embedding_.tobytes()
    assert one.sample_indices_.tolist() != other.sample_indices_.tolist()


def test_what_cannot_be_meant_is_a_value_error() -> None:
    rows, _ = blobs()
    for options in ({"dims": 4}, {"engine": "best"}, {"perplexity": 0.5}, {"clip": 0.7}):
        with pytest.raises(ValueError, match=f"{next(iter(options.values()))}"):
            SpectralTSNE(**options, device="cpu").fit(rows)
    with pytest.raises(ValueError, match="minimum of 5"):
        SpectralTSNE(device="cpu").fit(rows[:4])
    flat = SpectralTSNE(2, iterations=5, device="cpu").fit(rows)
    with pytest.raises(ValueError, match="dims=3"):
        flat.to_rgb()
