"""A fit that loses to the ridge keeps the ridge's maps: against dense ridges, and that nothing else is replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aligncut_cli.console import Console
from aligncut_cli.maths.encoding import AlignmentMaps
from aligncut_cli.maths.response_scores import score_r
from aligncut_cli.maths.split_images import ImageSplit, split_images
from aligncut_cli.params import AlignParams
from aligncut_cli.stages.align.data import NodeSample
from aligncut_cli.stages.align.fit import FALLBACK_MARGIN, FitData, choose_fallback, fit_alignment, fit_settings
from aligncut_cli.store.read import open_store
from tests.conftest import aligncut
from tests.planted import plant_latent, write_features

N_IMAGES, N_VOXELS, DIM = 240, 12, 40


class Listener(Console):
    """Keeps what it should warn of."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


def make_data(*, signal: float = 1.0, n_images: int = N_IMAGES) -> tuple[FitData, ImageSplit, Listener]:
    """Two layers of 16 channels with a mean of their own; a response needs both, as neither layer knows it alone."""
    rng = np.random.default_rng(2)
    latent, hidden = rng.standard_normal((n_images, 6, 1)), rng.standard_normal((n_images, 6, 1))
    maps = rng.standard_normal((2, 6, 16))
    halves = np.stack([(latent + 3 * hidden)[..., 0] @ maps[0], (latent - 3 * hidden)[..., 0] @ maps[1]])
    pooled = (halves + 0.3 * rng.standard_normal(halves.shape) + 4 * rng.standard_normal((2, 1, 16))).astype(np.float32)
    responses = signal * latent[..., 0] @ rng.standard_normal((6, N_VOXELS)) + rng.standard_normal((n_images, N_VOXELS))
    split = split_images(n_images, validation_share=0.2, test_share=0.2, seed=0)
    tokens = (pooled[:, :, None] + 0.5 * rng.standard_normal((2, n_images, 4, 16))).astype(np.float16)
    nodes = NodeSample([tokens[:, split.train].reshape(2, -1, 16)], [tokens[:, split.validation].reshape(2, -1, 16)])
    listener = Listener()
    targets, cpu = responses.astype(np.float32), torch.device("cpu")
    data = FitData([pooled], targets, nodes, split, device=cpu, console=listener, warn=listener.warn)
    return data, split, listener


def predict(data: FitData, weights: tuple[torch.Tensor, ...], readout: torch.Tensor, images: np.ndarray) -> np.ndarray:
    """Eq. 2 in a loop over slots, z-scored responses; the bias is what makes the training images' mean exact."""
    total = np.zeros((data.pooled[0].shape[1], readout.shape[1]))
    for layer in range(2):
        total += data.pooled[0][layer].astype(float) @ weights[0][layer].double().numpy() @ readout.double().numpy() / 2
    total -= total[data.split.train].mean(axis=0)
    return total[images]


def test_the_ridges_maps_predict_what_the_ridge_predicts() -> None:
    data, split, _ = make_data()
    start = data.start_from_ridge(universal_dim=DIM, centre=False)
    ours = predict(data, start.weights, start.readout, split.test)
    theirs = (data.predict_by_ridge(split.test) - data.mean) / data.deviation
    assert start.shrunk == 1
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_centred_maps_predict_what_a_dense_ridge_on_centred_features_predicts() -> None:
    """Features x - mu (a' x) of every layer side by side, by numpy's solver with the same penalty."""
    data, split, _ = make_data()
    start = data.start_from_ridge(universal_dim=DIM, centre=True)
    wide = []
    for layer in range(2):
        mean, a = data.centring[0].mean[layer].numpy(), data.centring[0].direction[layer].numpy()
        assert np.abs(mean @ start.weights[0][layer].double().numpy()).max() < 1e-4
        x = data.pooled[0][layer].astype(float)
        x = x - (x @ a)[:, None] * mean
        wide.append(x - x[split.train].mean(axis=0))
    spreads = [np.sqrt((x[split.train] ** 2).sum(axis=1).mean()) for x in wide]
    predictions = []
    for factors in ([1 / np.sqrt(np.mean(np.square(spreads)))] * 2, [1 / spread for spread in spreads]):
        x = np.concatenate([factor * part / np.sqrt(2) for factor, part in zip(factors, wide, strict=True)], axis=1)
        kernel = x[split.train] @ x[split.train].T
        for power in np.arange(-6, 1.01, 0.5):
            penalty = 10**power * np.linalg.eigvalsh(kernel)[-1]
            solved = np.linalg.solve(kernel + penalty * np.eye(len(kernel)), data.targets[split.train])
            predictions.append(x @ x[split.train].T @ solved)
    ours = predict(data, start.weights, start.readout, split.test)
    assert min(np.abs(ours - predicted[split.test]).max() for predicted in predictions) < 5e-3


def median_r(data: FitData, maps: AlignmentMaps, images: np.ndarray) -> float:
    measured = data.restore(data.targets[images])
    return float(np.median(score_r(data.predict(maps, images), measured)))


@pytest.mark.parametrize("centre", [True, False])
def test_a_fit_that_loses_to_the_ridge_is_replaced_and_then_within_two_hundredths_of_it(centre: bool) -> None:
    params = AlignParams(universal_dim=DIM, epochs=0, centre=centre)
    results = {}
    for fallback in (False, True):
        data, split, listener = make_data()
        fit = fit_alignment(
            data,
            fit_settings(params, 0),
            start=lambda data=data: data.start("random", universal_dim=DIM, seed=0),
            centre=centre,
            fallback=choose_fallback(params, data) if fallback else None,
        )
        results[fallback] = median_r(data, fit.best, split.test)
        assert any("the ridge's maps" in text for text in listener.warned) is fallback
    ridge = np.median(score_r(data.predict_by_ridge(split.test), data.measured))
    assert results[False] < ridge - 0.1
    assert results[True] > ridge - 0.02


def test_a_fit_that_does_as_well_as_the_ridge_and_the_papers_own_are_kept() -> None:
    data, _, listener = make_data()
    params = AlignParams(universal_dim=DIM, epochs=2)
    start = data.start("responses", universal_dim=DIM, seed=0)
    fit = fit_alignment(
        data,
        fit_settings(params, 0),
        start=lambda: start,
        centre=False,
        fallback=lambda: pytest.fail("nothing was to be replaced"),  # type: ignore[arg-type, return-value]
    )
    assert fit.best_record.validation_r2**0.5 > data.ridge.validation_r2**0.5 - FALLBACK_MARGIN
    assert not listener.warned
    for paper in (AlignParams(start="random"), AlignParams(select="loss"), AlignParams(target="both")):
        assert choose_fallback(paper, data) is None


def test_the_warning_of_a_shrunk_start_says_what_was_tested() -> None:
    for seed in range(20):
        data, split, listener = make_data(signal=0.12 + 0.02 * seed, n_images=60)
        start = data.start("responses", universal_dim=DIM, seed=0)
        if 0 < start.shrunk < 1:
            break
    assert 0 < start.shrunk < 1
    assert start.gain[0] <= 2 * start.gain[1]
    said = listener.warned[0]
    for part in (f"{len(split.validation)} validation images", f"{start.gain[0]:.3f}", f"{start.gain[1]:.3f}"):
        assert part in said
    assert f"starts at {start.shrunk:.2f}" in said


def test_what_fits_warned_of_is_in_the_record_and_said_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fits start at random maps here, and so lose to the ridge; shrunk starts are of responses without a signal."""
    tokens, responses = plant_latent()
    features = write_features(tmp_path / "f.zarr", tokens, grid=(2, 2))
    np.save(tmp_path / "r.npy", responses)
    np.save(tmp_path / "noise.npy", np.random.default_rng(1).standard_normal(responses.shape).astype(np.float32))
    fit = ["align", features, "--universal-dim", 24, "--nodes", 60, "--eigenvectors", 4, "--epochs", 0, "--draws", 20]
    shrunk = [*fit, "-o", tmp_path / "n.zarr", "--responses", tmp_path / "noise.npy", "--seeds", 2]
    first = aligncut(*shrunk)
    assert first.code == 0, first.err
    (warned,) = (text for text in open_store(tmp_path / "n.zarr").record["warned"] if "tested was" in text)
    assert warned.startswith("2 of 2 fits warn; the first: ")
    real = FitData.start
    monkeypatch.setattr(FitData, "start", lambda self, kind, **given: real(self, "random", **given))
    replaced = [*fit, "-o", tmp_path / "a.zarr", "--responses", tmp_path / "r.npy"]
    said = [aligncut(*replaced).err, aligncut(*replaced).err, aligncut("inspect", tmp_path / "a.zarr").out]
    (warned,) = open_store(tmp_path / "a.zarr").record["warned"]
    assert "the ridge's maps" in warned
    assert [text.count(f"warning: {warned}") for text in said] == [1, 1, 1]
