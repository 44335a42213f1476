"""Shares of slot and photo in `compare` against a plain computation; CKA and canonical correlations, and chance."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aligncut_cli.console import Progress
from aligncut_cli.maths.slot_ridge import RowReader
from aligncut_cli.stages.blocks import read_square
from aligncut_cli.stages.compare.relations import SlotRelations
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.read import open_store
from tests.conftest import aligncut, done
from tests.planted import write_features
from tests.stages.made_stores import make_alignment

N_IMAGES, N_TOKENS = 40, 5


def naive_shares(tokens: list[NDArray[np.float64]]) -> dict[str, float]:
    """Shares of (image, token, channel) rows per slot: sums of squares in a plain loop over groups."""
    rows = np.concatenate([slot.reshape(-1, slot.shape[-1]) for slot in tokens])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    slots = np.repeat(np.arange(len(tokens)), N_IMAGES * N_TOKENS)
    photos = np.tile(np.repeat(np.arange(N_IMAGES), N_TOKENS), len(tokens))
    mean, found = rows.mean(axis=0), {}
    for name, labels in (("slot", slots), ("photo", photos)):
        groups = [rows[labels == label] for label in np.unique(labels)]
        between = sum(len(group) * float(np.square(group.mean(axis=0) - mean).sum()) for group in groups)
        found[name] = between / float(np.square(rows - mean).sum())
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, NDArray[np.float64]]]:
    """Two models that see one latent through maps and with means of their own; an alignment that undoes the maps."""
    folder, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    latent = rng.standard_normal((N_IMAGES, 1, 8)) + rng.standard_normal((N_IMAGES, N_TOKENS, 8))
    tokens, maps = {}, {}
    for name in ("one", "two"):
        turns = np.stack([np.linalg.qr(rng.standard_normal((8, 8)))[0] for _ in range(2)])
        offsets = 2 * rng.standard_normal((2, 1, 1, 8))
        tokens[name] = np.einsum("ntd,lde->lnte", latent, turns) + offsets
        maps[name] = ([0, 1], turns.transpose(0, 2, 1))
    features = write_features(folder / "f.zarr", tokens, grid=(2, 2))
    alignment = make_alignment(folder / "a.zarr", maps, np.ones((8, 3)), {}, controls=["shuffle"])
    mapped = {name: np.einsum("lnte,led->lntd", tokens[name], maps[name][1]) for name in tokens}
    return features, alignment, {"before": tokens, "after": mapped}


def test_shares_before_and_after_are_the_naive_ones_in_table_record_and_on_the_terminal(
    tmp_path: Path, world: tuple[Path, Path, dict[str, NDArray[np.float64]]]
) -> None:
    features, alignment, spaces = world
    result = aligncut("compare", features, "--alignment", alignment, "-o", tmp_path / "c", "--json")
    assert result.code == 0, result.err
    lines = list(csv.DictReader((tmp_path / "c" / "shares.csv").read_text().splitlines()))
    assert [line["space"] for line in lines] == ["before", "after"]
    assert [line["control"] for line in lines] == ["", "shuffle"]
    for line in lines:
        tokens = [slot for model in spaces[line["space"]].values() for slot in model]
        expected = naive_shares(tokens)
        for name in ("slot", "photo"):
            assert float(line[name]) == pytest.approx(expected[name], abs=2e-3)
        said = f"between: slots {float(line['slot']):.3f}, photos {float(line['photo']):.3f}"
        assert said in " ".join(result.err.split())


def test_slots_of_different_width_have_no_share(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    tokens = {"wide": rng.standard_normal((1, 6, 5, 12)), "slim": rng.standard_normal((1, 6, 5, 8))}
    features = write_features(tmp_path / "f.zarr", tokens, grid=(2, 2))
    result = aligncut("compare", features, "-o", tmp_path / "c")
    assert result.code == 0, result.err
    assert "slots not defined, photos not defined" in " ".join(result.err.split())
    line = next(csv.DictReader((tmp_path / "c" / "shares.csv").read_text().splitlines()))
    assert (line["slot"], line["photo"]) == ("", "")


CPU = torch.device("cpu")


def read_matrix(folder: Path, name: str) -> NDArray[np.float64]:
    found = read_square(folder / name)
    assert found is not None
    return np.array(found[1], np.float64)


def write_related(path: Path, *, position: float, n_images: int = N_IMAGES) -> Path:
    """Three models: `one`, a rotation of it, and one of another width that knows nothing but, if at all, the place."""
    rng = np.random.default_rng(3)
    place = position * rng.standard_normal((1, 1, N_TOKENS, 6))
    one = rng.standard_normal((1, n_images, N_TOKENS, 6)) + place
    other = np.concatenate([rng.standard_normal((1, n_images, N_TOKENS, 3)), place.repeat(n_images, axis=1)], axis=-1)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    return write_features(path, {"one": one, "turned": 3 * one @ turn + 5, "other": other}, grid=(2, 2))


def test_cka_and_canonical_correlations_are_beside_those_of_exchanged_images(tmp_path: Path) -> None:
    features = write_related(tmp_path / "f.zarr", position=0)
    result = aligncut("compare", features, "-o", tmp_path / "c", "--json")
    assert result.code == 0, result.err
    summary = json.loads(result.out)
    for name in ("cka", "cca"):
        real, chance = read_matrix(tmp_path / "c", f"{name}.csv"), read_matrix(tmp_path / "c", f"{name}-shuffled.csv")
        assert real[0, 1] > 0.998
        assert max(real[0, 2], real[1, 2], *chance[np.triu_indices(3, 1)]) < 0.25
        assert summary[name]["measured"] == pytest.approx(real[np.triu_indices(3, 1)].mean(), abs=1e-5)
        assert summary[name]["shuffled"] == pytest.approx(chance[np.triu_indices(3, 1)].mean(), abs=1e-5)
        assert f"{summary[name]['measured']:.3f}, with images exchanged {summary[name]['shuffled']:.3f}" in " ".join(
            result.err.split()
        )
    assert read_matrix(tmp_path / "c", "cka-shuffled.csv")[0, 1] < 0.1
    assert (tmp_path / "c" / "relations.png").stat().st_size > 1000


def test_what_is_only_position_is_in_the_baseline_too(tmp_path: Path) -> None:
    folder = done("compare", write_related(tmp_path / "f.zarr", position=4), "-o", tmp_path / "c")
    real, chance = read_matrix(folder, "cka.csv"), read_matrix(folder, "cka-shuffled.csv")
    assert chance[0, 2] > 0.5
    assert real[0, 2] == pytest.approx(chance[0, 2], abs=0.05)


def test_a_single_model_is_summed_up_over_its_layers_and_few_images_tell_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    base = rng.standard_normal((N_IMAGES, N_TOKENS, 6))
    features = write_features(tmp_path / "f.zarr", {"one": np.stack([base, -base])}, grid=(2, 2))
    for images, measured, shuffled in ((N_IMAGES, 1, 0), (2, None, None), (4, 1, "some")):
        result = aligncut("compare", features, "-o", tmp_path / f"c{images}", "--images", images, "--json")
        assert result.code == 0, result.err
        found = json.loads(result.out)["cka"]
        assert found["measured"] == (measured if measured is None else pytest.approx(measured, abs=1e-4))
        if shuffled == "some":
            assert found["shuffled"] is not None
        else:
            assert found["shuffled"] == (shuffled if shuffled is None else pytest.approx(shuffled, abs=0.1))


def test_sampled_tokens_depend_on_seed_and_image_but_not_on_blocks(tmp_path: Path) -> None:
    features = write_related(tmp_path / "f.zarr", position=1)
    source = FeatureSpace.of(open_store(features, "features"), None, CPU)
    blocks = [source.features.read_tokens(slot.model, slice(0, N_IMAGES))[0] for slot in source.axes.slots]
    found = {}
    for step, seed in ((1, 0), (7, 0), (N_IMAGES, 0), (N_IMAGES, 1)):
        relations = SlotRelations(source, n_images=N_IMAGES, count=90, seed=seed)
        for start in range(0, N_IMAGES, step):
            images = slice(start, min(start + step, N_IMAGES))
            relations.add(images, [block[images].reshape(-1, block.shape[-1]) for block in blocks])
        for rows, block in zip(relations.values, blocks, strict=True):
            np.testing.assert_array_equal(rows, block[relations.images, relations.places])
        assert len(np.unique(relations.places)) == 90 // 20
        found[step, seed] = relations.result(RowReader(CPU, 50), Progress("relate", "passes", 4))
    for name, relation in found[1, 0].items():
        for step in (7, N_IMAGES):
            np.testing.assert_array_equal(relation.measured, found[step, 0][name].measured)
            np.testing.assert_array_equal(relation.shuffled, found[step, 0][name].shuffled)
        assert not np.array_equal(relation.measured, found[N_IMAGES, 1][name].measured)
