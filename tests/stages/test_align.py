"""`align`, `align --apply` and `compare` as a whole, on planted truth."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest

from aligncut_cli.errors import UsageError
from aligncut_cli.maths.split_images import split_into_folds
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.read import open_store
from tests.conftest import aligncut, array_bytes, done, spawn
from tests.planted import CEILING, plant_latent, write_features

FIT = ["--universal-dim", 24, "--batch-images", 64, "--learning-rate", 3e-3, "--nodes", 60, "--eigenvectors", 4]
FIT = [*FIT, "--validation-share", 0.15, "--test-share", 0.15]
WHOLE = [*FIT, "--epochs", 12]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A features store and a folder of responses with two ROIs and a noise ceiling."""
    folder = tmp_path_factory.mktemp("planted")
    tokens, responses = plant_latent()
    brain = folder / "brain"
    brain.mkdir()
    np.save(brain / "responses.npy", responses)
    np.save(brain / "ceiling.npy", np.full(40, CEILING, dtype=np.float32))
    (brain / "rois.json").write_text(json.dumps({"V1": list(range(15)), "EBA": list(range(15, 40)), "FFA": []}))
    return write_features(folder / "f.zarr", tokens, grid=(2, 2)), brain


@pytest.fixture(scope="module")
def alignment(tmp_path_factory: pytest.TempPathFactory, planted: tuple[Path, Path]) -> Path:
    features, brain = planted
    more = ["--rois", brain / "rois.json", "--noise-ceiling", brain / "ceiling.npy"]
    return done("align", features, "-o", tmp_path_factory.mktemp("a") / "a.zarr", "--responses", brain, *WHOLE, *more)


def cosines(folder: Path, name: str) -> np.ndarray:
    rows = list(csv.reader((folder / f"similarity-{name}.csv").read_text().splitlines()))
    return np.array([[float(cell) if cell else np.nan for cell in row[1 : len(rows)]] for row in rows[1:]])


def test_planted_responses_are_predicted_up_to_their_ceiling(alignment: Path) -> None:
    store = open_store(alignment)
    assert store.read("scores/r2").mean() >= 0.95 * CEILING
    scores = store.record["summary"]["scores"]
    assert scores["all"]["r2_of_ceiling"] >= 0.95
    assert scores["V1"]["voxels"] == 15
    assert "FFA" not in scores
    assert scores["all"]["r2"] >= scores["all"]["ridge_r2"] - 0.02
    np.testing.assert_allclose(scores["V1"]["r2"], store.read("scores/r2")[:15].mean(), rtol=1e-5)


def test_stored_maps_and_readout_predict_the_stored_scores(planted: tuple[Path, Path], alignment: Path) -> None:
    store, features = open_store(alignment), open_store(planted[0])
    total = sum(
        features.read(f"{name}/tokens")[layer].astype(np.float64) @ store.read(f"{name}/weight")[layer]
        for name in ("wide", "slim")
        for layer in range(2)
    )
    predicted = (total / 4 @ store.read("readout/weight")).mean(axis=1) + store.read("readout/bias")
    measured = np.load(planted[1] / "responses.npy")
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T, measured.T, strict=True)]
    assert np.mean(correlation) > np.sqrt(0.95 * CEILING)
    assert np.abs(predicted.mean(axis=0) - measured.mean(axis=0)).max() < 0.5


def test_the_same_token_meets_across_slots_only_after_alignment_by_real_responses(
    tmp_path: Path, planted: tuple[Path, Path], alignment: Path
) -> None:
    features, brain = planted
    folder = done("compare", features, "--alignment", alignment, "-o", tmp_path / "real")
    before, after = cosines(folder, "before"), cosines(folder, "after")
    apart = ~np.eye(4, dtype=bool)
    assert np.isnan(before[0, 2])
    assert abs(before[0, 1]) < 0.35
    assert after[apart].mean() > 0.7
    assert (folder / "similarity.png").stat().st_size > 1000
    random = done(
        *("align", features, "-o", tmp_path / "r.zarr", "--responses", brain, *FIT),
        *("--control", "random", "--epochs", 2),
    )
    chance = done("compare", features, "--alignment", random, "-o", tmp_path / "control")
    assert abs(cosines(chance, "after")[apart].mean()) < 0.3
    said = {name: (chance / f"similarity-{name}.csv").read_text().splitlines() for name in ("before", "after")}
    assert all(line.endswith((",control", ",random")) for line in said["after"])
    assert not any(line.endswith((",control", ",random")) for line in said["before"])
    assert open_store(random).read("scores/r2").mean() < 0.1


def test_compare_is_the_naive_mean_over_tokens(tmp_path: Path, planted: tuple[Path, Path]) -> None:
    folder = done("compare", planted[0], "-o", tmp_path / "c", "--images", 20)
    tokens = open_store(planted[0]).read("wide/tokens")[:, :20].astype(np.float64).reshape(2, -1, 20)
    total = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(tokens[0], tokens[1], strict=True)]
    assert abs(cosines(folder, "before")[0, 1] - np.mean(total)) < 1e-4


def test_shuffled_pairs_lose_the_brain_score_and_are_flagged_downstream(
    tmp_path: Path, planted: tuple[Path, Path]
) -> None:
    features, brain = planted
    result = aligncut(
        *["align", features, "-o", tmp_path / "s.zarr", "--responses", brain, *FIT],
        *["--control", "shuffle", "--epochs", 2],
    )
    assert result.code == 0, result.err
    assert "CONTROL" in result.err
    store = open_store(result.path)
    assert store.record["controls"] == ["shuffle"]
    assert abs(np.median(store.read("scores/r"))) < 0.2
    eigs = done("eigs", features, "-o", tmp_path / "e.zarr", "--alignment", result.path, "--n-eig", 3)
    tsne = done("tsne", eigs, "-o", tmp_path / "t.zarr", "--n-sample", 200, "--iterations", 20)
    pictures = done("render", tsne, "-o", tmp_path / "pictures", "--images", 1)
    for path in (result.path, eigs, tsne, pictures):
        assert "CONTROL" in aligncut("inspect", path).out


def test_applied_and_streamed_alignments_are_identical(
    tmp_path: Path, planted: tuple[Path, Path], alignment: Path
) -> None:
    features = planted[0]
    applied = done("align", features, "--apply", alignment, "-o", tmp_path / "u.zarr")
    store = open_store(applied)
    assert store.kind == "features"
    assert store.read("slim/tokens").shape == (2, 400, 5, 24)
    common = ["--n-eig", 4, "--n-sample", 500]
    a = done("eigs", applied, "-o", tmp_path / "a.zarr", *common)
    b = done("eigs", features, "-o", tmp_path / "b.zarr", "--alignment", alignment, *common)
    for name in ("wide", "slim"):
        found, expected = (open_store(path).read(f"{name}/eigvecs") for path in (a, b))
        # A product of other shape may round one float16 in ten thousand the other way, and swap a last neighbour.
        assert np.isclose(found, expected, atol=1e-6).mean() > 0.995
        np.testing.assert_allclose(found, expected, atol=1e-3)
    twice = aligncut("eigs", applied, "-o", tmp_path / "c.zarr", "--alignment", alignment)
    assert twice.code == 2
    assert "already mapped" in twice.err


def test_a_killed_fit_goes_on_from_its_checkpoint_with_the_same_bytes(
    tmp_path: Path, planted: tuple[Path, Path]
) -> None:
    command = ["align", planted[0], "--responses", planted[1], *WHOLE, "--seeds", 2]
    process = spawn([*command, "-o", tmp_path / "whole.zarr"])
    assert process.communicate()[1] is not None
    assert process.returncode == 0
    kills, resumed = 0, False
    moments = iter((360, 420, 480, 540))
    while not (tmp_path / "killed.zarr").exists():
        process = spawn([*command, "-o", tmp_path / "killed.zarr"], kill_after=next(moments, None))
        _, err = process.communicate()
        resumed |= "going on after epoch" in err
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 1
    assert resumed
    assert array_bytes(tmp_path / "killed.zarr") == array_bytes(tmp_path / "whole.zarr")
    seeds = open_store(tmp_path / "whole.zarr").read("scores/seed_r2")
    assert seeds.shape == (2, 40)
    assert not np.array_equal(seeds[0], seeds[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values[:-3], "397"),
        (lambda values: np.where(np.arange(40) == 7, np.nan, values), "--drop-nan-voxels"),
        (lambda values: values[:, 0], "voxels"),
    ],
)
def test_responses_that_do_not_fit_are_refused(tmp_path: Path, planted: tuple[Path, Path], change, words: str) -> None:
    np.save(tmp_path / "responses.npy", change(np.load(planted[1] / "responses.npy")))
    result = aligncut("align", planted[0], "-o", tmp_path / "a.zarr", "--responses", tmp_path / "responses.npy")
    assert result.code == 3, result.err
    assert words in result.err


def test_voxels_without_responses_are_dropped_when_asked_and_recorded(
    tmp_path: Path, planted: tuple[Path, Path]
) -> None:
    values = np.load(planted[1] / "responses.npy")
    values[3, 7] = np.nan
    np.save(tmp_path / "responses.npy", values)
    output = done(
        *["align", planted[0], "-o", tmp_path / "a.zarr", "--responses", tmp_path, *FIT],
        *["--epochs", 0, "--drop-nan-voxels"],
    )
    assert open_store(output).read("scores/r2").shape == (39,)
    assert open_store(output).record["responses"]["dropped_voxels"] == 1


def test_align_asks_for_responses_or_a_fit_to_apply(tmp_path: Path, planted: tuple[Path, Path]) -> None:
    for options in ([], ["--apply", "a.zarr", "--responses", planted[1]]):
        assert aligncut("align", planted[0], "-o", tmp_path / "a.zarr", *options).code == 2


def test_the_channels_of_one_roi_can_be_cut_alone(tmp_path: Path, planted: tuple[Path, Path], alignment: Path) -> None:
    features = planted[0]
    output = done(
        *["eigs", features, "-o", tmp_path / "v1.zarr", "--alignment", alignment, "--n-eig", 3],
        *["--roi", "V1", "--top-channels", 6, "--n-sample", 300],
    )
    store = open_store(alignment)
    weight = np.abs(store.read("readout/weight")[:, :15]).mean(axis=1) * store.read("readout/deviation")
    chosen = np.sort(np.argsort(-weight)[:6])
    node = int(open_store(output).read("sample/node")[0, 0])
    token = open_store(features).read("wide/tokens").reshape(-1, 20)[node].astype(np.float32)
    mapped = (token @ store.read("wide/weight")[node // 2000])[chosen]
    row = open_store(output).read("sample/features")[0, 0]
    np.testing.assert_allclose(row, mapped / np.linalg.norm(mapped), atol=2e-3)
    unknown = [
        "eigs",
        features,
        "-o",
        tmp_path / "x.zarr",
        "--alignment",
        alignment,
        "--roi",
        "V9",
        "--top-channels",
        3,
    ]
    result = aligncut(*unknown)
    assert result.code == 2
    assert "EBA, FFA, V1" in result.err


def test_folds_hold_out_every_image_and_all_fits_are_kept(tmp_path: Path, planted: tuple[Path, Path]) -> None:
    features, brain = planted
    command = ["align", features, "--responses", brain, *FIT, "--epochs", 1, "--rois", brain / "rois.json"]
    store = open_store(
        done(*command, "-o", tmp_path / "f.zarr", "--folds", 3, "--seeds", 2, "--figures", tmp_path / "d")
    )
    assert store.record["summary"]["test_images"] == 400
    alignment = Alignment(store)
    assert alignment.n_fits == 6
    assert np.array_equal(store.read("wide/weight"), store.read("fits/wide/weight", (0,)))
    assert not np.array_equal(alignment.read_weight("wide", 0), alignment.read_weight("wide", 0, fit=3))
    scores = store.record["summary"]["scores"]["V1"]
    assert scores["r2_low"] < scores["r2"] < scores["r2_high"]
    assert scores["null_r2"] <= 0
    cut = ["eigs", features, "--alignment", store.path, "--n-eig", 3, "--n-sample", 300]
    first, third = (
        open_store(done(*cut, "-o", tmp_path / f"e{fit}.zarr", "--fit", fit)).read("sample/features") for fit in (0, 3)
    )
    node = int(open_store(tmp_path / "e3.zarr").read("sample/node")[0, 0])
    token = open_store(features).read("wide/tokens").reshape(-1, 20)[node].astype(np.float32)
    mapped = token @ alignment.read_weight("wide", node // 2000, fit=3)
    np.testing.assert_allclose(third[0, 0], mapped / np.linalg.norm(mapped), atol=2e-3)
    assert not np.allclose(first, third, atol=1e-2)
    assert "fits 0 to 5" in aligncut(*cut, "-o", tmp_path / "e9.zarr", "--fit", 9).err
    with pytest.raises(UsageError, match="fits 0 to 5"):
        alignment.read_readout(fit=6)
    layers = list(csv.DictReader((tmp_path / "d" / "layers.csv").read_text().splitlines()))
    assert len(layers) == 4 * 3
    assert all(float(row["r2_low"]) <= float(row["r2"]) <= float(row["r2_high"]) for row in layers)
    assert (tmp_path / "d" / "layers.png").stat().st_size > 1000
    assert (tmp_path / "d" / "scores.csv").exists()


def test_the_score_of_folds_is_that_of_the_predictions_of_the_fold_that_held_the_image_out(
    tmp_path: Path, planted: tuple[Path, Path]
) -> None:
    features, brain = planted
    output = done("align", features, "-o", tmp_path / "f.zarr", "--responses", brain, *FIT, "--epochs", 0, "--folds", 2)
    store, source = open_store(output), open_store(features)
    measured = np.load(brain / "responses.npy").astype(np.float64)
    predicted = np.empty_like(measured)
    for fold, split in enumerate(split_into_folds(400, n_folds=2, validation_share=0.15, seed=0)):
        pooled = [(source.read(f"{m}/pooled"), store.read(f"fits/{m}/weight", (fold,))) for m in ("wide", "slim")]
        total = sum(v[layer] @ w[layer] for v, w in pooled for layer in range(2)) / 4
        every = total @ store.read("fits/readout/weight", (fold,)) + store.read("fits/readout/bias", (fold,))
        predicted[split.test] = every[split.test]
    error = np.square(measured - predicted).sum(axis=0) / np.square(measured - measured.mean(axis=0)).sum(axis=0)
    np.testing.assert_allclose(store.read("scores/r2"), 1 - error, atol=1e-4)


def test_repeated_controls_shuffle_anew_and_another_split_seed_splits_anew(
    tmp_path: Path, planted: tuple[Path, Path]
) -> None:
    features, brain = planted
    command = ["align", features, "--responses", brain, *FIT, "--epochs", 0]
    store = open_store(done(*command, "-o", tmp_path / "c.zarr", "--control", "shuffle", "--repeat", 3))
    readouts = [Alignment(store).read_readout(fit=fit) for fit in range(3)]
    assert not np.array_equal(readouts[0], readouts[1])
    assert not np.array_equal(readouts[1], readouts[2])
    assert store.read("scores/seed_r2").mean(axis=1).max() < 0.1
    plain = open_store(done(*command, "-o", tmp_path / "p.zarr"))
    other = open_store(done(*command, "-o", tmp_path / "q.zarr", "--split-seed", 5))
    assert not np.array_equal(plain.read("scores/r2"), other.read("scores/r2"))


def test_the_papers_fit_starts_at_random_and_keeps_the_lowest_loss(tmp_path: Path, planted: tuple[Path, Path]) -> None:
    features, brain = planted
    more = ["--start", "random", "--select", "loss", "--no-centre", "--epochs", 6]
    result = aligncut("align", features, "-o", tmp_path / "p.zarr", "--responses", brain, *FIT, *more)
    assert result.code == 0, result.err
    states = open_store(result.path).record["summary"]["eq10"]
    assert states["as kept"] == states["lowest"]
    assert states["at the start"]["validation_loss"] > states["lowest"]["validation_loss"]
    assert "as kept" in result.err
