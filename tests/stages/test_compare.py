"""Shares of slot and photo in `compare`, against a plain computation over unit rows."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import aligncut
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
