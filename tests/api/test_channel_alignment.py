"""ChannelAlignment: the stage's numbers, a planted space that is found, and shuffled responses that teach nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from aligncut_cli.api.channel_alignment import ChannelAlignment
from aligncut_cli.store.read import open_store
from tests.conftest import done
from tests.planted import CEILING, plant_latent, write_features

FIT = {"epochs": 3, "batch_images": 64, "nodes": 60, "eigenvectors": 4, "device": "cpu"}


def slots_of(tokens: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [layer.astype(np.float16) for values in tokens.values() for layer in values]


@pytest.mark.filterwarnings("ignore:on the 20 validation images")  # ten axes are too few for the ridge's maps
def test_stage_and_estimator_give_the_same_numbers_on_the_same_images(tmp_path: Path) -> None:
    tokens, responses = plant_latent(200)
    rng = np.random.default_rng(0)  # planted tokens fill ten directions; with noise in all of them maps are determined
    tokens = {
        name: (values + rng.normal(0, 0.5, values.shape)).astype(np.float16).astype(np.float32)
        for name, values in tokens.items()
    }
    features = write_features(tmp_path / "f.zarr", tokens, grid=(2, 2))
    np.save(tmp_path / "responses.npy", responses)
    more = ["--epochs", 3, "--batch-images", 64, "--nodes", 60, "--eigenvectors", 4, "--device", "cpu"]
    opened = open_store(features)
    slots = [layer for name in opened.record["models"] for layer in opened.read(f"{name}/tokens")]
    ids = [str(name) for name in opened.read("images/id")]
    for dim in (10, 24):
        fit = ["--responses", tmp_path / "responses.npy", "--universal-dim", dim, *more]
        store = open_store(done("align", features, "-o", tmp_path / f"{dim}.zarr", *fit))
        model = ChannelAlignment(dim, **FIT).fit(slots, responses, image_ids=ids)
        weights = [layer for name in opened.record["models"] for layer in store.read(f"{name}/weight")]
        for ours, stored in zip(model.weights_, weights, strict=True):
            np.testing.assert_allclose(ours, stored, atol=1e-5)
        np.testing.assert_allclose(model.readout_, store.read("readout/weight"), atol=1e-5)
        held_out = model.split_.test
        score = model.score([slot[held_out] for slot in slots], responses[held_out])
        assert score == pytest.approx(store.read("scores/r2").mean(), abs=1e-4)


def test_planted_responses_are_predicted_and_shuffled_ones_are_not() -> None:
    tokens, responses = plant_latent(300)
    slots = slots_of(tokens)
    model = ChannelAlignment(24, **FIT).fit(slots, responses)
    test = model.split_.test
    held_out = [slot[test] for slot in slots]
    assert model.score(held_out, responses[test]) > 0.85 * CEILING
    mapped = [slot.astype(np.float64).mean(axis=1) @ w for slot, w in zip(held_out, model.weights_, strict=True)]
    expected = np.mean(mapped, axis=0) @ model.readout_ + model.bias_
    np.testing.assert_allclose(model.predict(held_out), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        model.transform(held_out)[1], held_out[1].astype(np.float32) @ model.weights_[1], rtol=1e-4, atol=1e-5
    )
    shuffled = np.random.default_rng(0).permutation(responses)
    null = clone(model).fit(slots, shuffled)
    assert null.score(held_out, shuffled[test]) < 0.1


def test_means_alone_are_enough_and_a_seed_gives_its_bytes() -> None:
    tokens, responses = plant_latent(200)
    pooled = [slot.mean(axis=1, dtype=np.float32) for slot in slots_of(tokens)]
    before = responses.copy()
    one, two = (ChannelAlignment(24, **FIT).fit(pooled, responses) for _ in range(2))
    np.testing.assert_array_equal(responses, before)
    assert one.readout_.tobytes() == two.readout_.tobytes()
    test = one.split_.test
    assert one.score([slot[test] for slot in pooled], responses[test]) > 0.8 * CEILING


def test_what_cannot_be_meant_is_a_value_error() -> None:
    tokens, responses = plant_latent(60)
    slots = slots_of(tokens)
    with pytest.raises(ValueError, match="slot 0 has shape"):
        ChannelAlignment(24, **FIT).fit(slots, responses[1:])
    with pytest.raises(ValueError, match="no slot"):
        ChannelAlignment(24, **FIT).fit([], responses)
    with pytest.raises(ValueError, match="universal-dim"):
        ChannelAlignment(1, **FIT).fit(slots, responses)
    with pytest.raises(ValueError, match="no table"):
        ChannelAlignment(24, **FIT).fit(slots, responses * np.nan)
    with pytest.raises(ValueError, match="ids"):
        ChannelAlignment(24, **FIT).fit(slots, responses, image_ids=["a"])
