"""Whole stages on a GPU against the same on the CPU, and against themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aligncut_cli.store.read import open_store
from tests.conftest import PAIR, array_bytes, done
from tests.planted import plant_latent, write_features
from tests.stages.test_eigs import all_rows, principal_angles

pytestmark = pytest.mark.gpu
GPU = "cuda"
SAMPLED = ["--n-eig", 4, "--n-sample", 150]


def on_both(tmp_path: Path, name: str, *command: object) -> tuple[Path, Path]:
    """Run a command on the CPU and on the GPU; returns both outputs."""
    here = done(*command, "-o", tmp_path / f"{name}-cpu", "--device", "cpu")
    return here, done(*command, "-o", tmp_path / f"{name}-gpu", "--device", GPU)


def test_features_differ_by_half_precision(tmp_path: Path, photos: Path) -> None:
    here, there = on_both(tmp_path, "f", "extract", photos, *PAIR)
    a, b = all_rows(here, "tokens"), all_rows(there, "tokens")
    assert np.abs(a - b).max() < 0.02 * np.abs(a).max()


@pytest.mark.parametrize(
    "options",
    [
        ["--neighbors", 7, "--search", "torch"],
        ["--neighbors", 7, "--search", "ivf"],
        ["--neighbors", 7, "--search", "flat"],
        ["--extend", "nystrom", "--orthogonalize", "--check", 40],
        ["--group", "layer", "--extend", "nystrom"],
        ["--sample", "fps", "--extend", "nystrom"],
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_eigenvectors_agree(tmp_path: Path, features: Path, options: list[object]) -> None:
    here, there = on_both(tmp_path, "e", "eigs", features, *SAMPLED, *options)
    np.testing.assert_allclose(
        open_store(there).read("eigenvalues"), open_store(here).read("eigenvalues"), rtol=1e-5, atol=1e-7
    )
    a, b = all_rows(here, "eigvecs"), all_rows(there, "eigvecs")
    assert principal_angles(a, b).max() < 1e-3
    again = done("eigs", features, "-o", tmp_path / "again", *SAMPLED, *options, "--device", GPU)
    assert array_bytes(again) == array_bytes(there)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("engine", ["fft", "exact"])
def test_a_map_is_the_same_bytes_every_time(tmp_path: Path, eigs: Path, dims: int, engine: str) -> None:
    command = ["tsne", eigs, "--dims", dims, "--engine", engine, "--iterations", 60, "--perplexity", 10]
    first, second = (done(*command, "-o", tmp_path / name, "--device", GPU) for name in "ab")
    assert array_bytes(first) == array_bytes(second)


def test_alignment_scores_agree_and_maps_apply(tmp_path: Path) -> None:
    tokens, responses = plant_latent(120)
    (tmp_path / "brain").mkdir()
    np.save(tmp_path / "brain" / "responses.npy", responses)
    planted = write_features(tmp_path / "f.zarr", tokens, grid=(2, 2))
    fit = ["--universal-dim", 16, "--epochs", 3, "--batch-images", 40, "--nodes", 40, "--eigenvectors", 3]
    here, there = on_both(tmp_path, "a", "align", planted, "--responses", tmp_path / "brain", *fit)
    a, b = (open_store(path).read("scores/r2") for path in (here, there))
    assert np.abs(a.mean() - b.mean()) < 0.05
    here, there = on_both(tmp_path, "u", "align", planted, "--apply", here)
    np.testing.assert_allclose(all_rows(there, "tokens"), all_rows(here, "tokens"), atol=2e-2)
    on_both(tmp_path, "s", "compare", planted, "--alignment", tmp_path / "a-cpu")
