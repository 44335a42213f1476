"""`decode` as a whole, on worlds in which it is known what carries the image, and on V4 where the data are there."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import aligncut_cli
from aligncut_cli.maths.split_images import split_into_folds
from aligncut_cli.store.kinds.decoding import (
    BEST,
    EVIDENCE,
    FOLD,
    MAPS,
    NULL,
    RANK,
    REPEAT_CEILING,
    REPEAT_RANK,
    SCORES,
    WRONG,
    Decoding,
    P,
)
from aligncut_cli.store.read import open_store
from tests.conftest import aligncut, array_bytes, done, spawn
from tests.planted import write_features

N, NEURONS = 60, 24
FAST = ["--permutations", 199, "--draws", 50]


def plant(folder: Path, *, noise: float, carriers: int = NEURONS, seed: int = 0) -> tuple[Path, Path]:
    """Write features of two models and responses that are linear in them; only some neurons know the image."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((N, 6))
    tokens = {
        name: (latent[None, :, None] @ rng.standard_normal((layers, 1, 6, width))).repeat(5, axis=2).astype(np.float16)
        for name, layers, width in (("wide", 2, 12), ("slim", 1, 8))
    }
    signal_ = sum(values.astype(np.float64).mean(axis=(0, 2)) @ rng.standard_normal((values.shape[3], NEURONS))
                  for values in tokens.values())  # fmt: skip
    signal_ /= signal_.std(axis=0)
    responses = signal_ + noise * rng.standard_normal((N, NEURONS))
    responses[:, carriers:] = rng.standard_normal((N, NEURONS - carriers))
    responses[:, :carriers] += 3  # those that know the image are also the strongest
    np.save(folder / "responses.npy", responses.astype(np.float32))
    return write_features(folder / "f.zarr", tokens, grid=(2, 2)), folder / "responses.npy"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return plant(tmp_path_factory.mktemp("world"), noise=0.4)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory, world: tuple[Path, Path]) -> Path:
    features, responses = world
    more = ["--candidates", "4,all", "--neurons", "6,12", "--subsets", 19, "--control", "shuffle"]
    folder = tmp_path_factory.mktemp("decoded")
    return done("decode", features, "--responses", responses, "-o", folder / "d.zarr", *more, *FAST)


def test_a_noiseless_linear_world_is_decoded_without_an_error(tmp_path: Path) -> None:
    features, responses = plant(tmp_path, noise=0)
    store = open_store(done("decode", features, "--responses", responses, "-o", tmp_path / "d.zarr", *FAST))
    assert (store.read(RANK.at()) == 1).all()
    assert store.read(SCORES["top1"].at())[0, 0, 0] == 1
    assert store.read(SCORES["median_rank"].at())[0, 0, 0] == 1
    assert store.read(P["top1"].at())[0, 0] == 1 / 200


def test_ranks_are_those_of_scikit_learns_ridge_on_the_same_folds(world: tuple[Path, Path], decoded: Path) -> None:
    from sklearn.linear_model import Ridge

    features, store = open_store(world[0]), open_store(decoded)
    y = np.load(world[1]).astype(np.float64)
    parts = [features.read(f"{name}/tokens").astype(np.float64).mean(axis=2) for name in ("wide", "slim")]
    ranks = np.empty(N)
    runs = store.record["summary"]["runs"]
    for fold, split in enumerate(split_into_folds(N, n_folds=5, validation_share=0.1, seed=0)):
        fitted = np.union1d(split.train, split.validation)
        slots = [slot - slot[fitted].mean(axis=0) for part in parts for slot in part]
        slots = [slot / np.sqrt(np.square(slot[fitted]).sum(axis=1).mean() * len(slots)) for slot in slots]
        x = np.concatenate(slots, axis=1)
        z = (y - y[fitted].mean(axis=0)) / y[fitted].std(axis=0)
        penalty = runs[0]["fits"][fold]["penalty"]
        alpha = penalty * np.linalg.eigvalsh(x[fitted].T @ x[fitted])[-1]
        predicted = Ridge(alpha=alpha).fit(x[fitted], z[fitted]).predict(x[split.test])
        for i, image in enumerate(split.test):
            similar = [np.corrcoef(z[image], other)[0, 1] for other in predicted]
            ranks[image] = 1 + sum(value > similar[i] for value in similar)
            assert store.read(BEST.at())[0, image] == split.test[int(np.argmax(similar))]
            similar[i] = -2
            assert store.read(WRONG.at())[0, image] == split.test[int(np.argmax(similar))]
        assert (store.read(FOLD.at())[split.test] == fold).all()
    np.testing.assert_array_equal(store.read(RANK.at())[0], ranks)
    top1, top5 = (store.read(SCORES[name].at())[0, 1, 0] for name in ("top1", "top5"))
    assert (top1, top5) == (np.mean(ranks == 1), np.mean(ranks <= 5))
    assert store.read(SCORES["pairwise"].at())[0, 1, 0] == pytest.approx(np.mean(1 - (ranks - 1) / 11))
    null = store.read(NULL["top1"].at())[0, 1]
    assert store.read(P["top1"].at())[0, 1] == (1 + (null >= top1).sum()) / 200


def test_the_refitted_shuffled_control_scores_chance_and_its_intervals_hold_it(decoded: Path) -> None:
    store = open_store(decoded)
    assert store.record["runs"] == ["f ridge", "f ridge shuffled"]
    for name, chance in (("top1", 1 / 12), ("top5", 5 / 12), ("pairwise", 0.5)):
        _, low, high = store.read(SCORES[name].at())[1, 1]
        assert low <= chance <= high, name
    assert store.read(SCORES["top1"].at())[0, 1, 1] > 1 / 12
    assert store.read(P["top1"].at())[0, 1] == 1 / 200
    assert store.read(P["top1"].at())[1, 1] > 0.01
    # among fewer candidates guessing is right more often, and so are we
    assert store.read("chance/top1").tolist() == [1 / 4, 1 / 12]
    assert (store.read(SCORES["top1"].at())[:, 0, 0] >= store.read(SCORES["top1"].at())[:, 1, 0]).all()


def test_a_world_in_which_few_neurons_carry_the_image_is_recognised(tmp_path: Path) -> None:
    features, responses = plant(tmp_path, noise=0.2, carriers=5)
    more = ["--neurons", 5, "--subsets", 99]
    store = open_store(done("decode", features, "--responses", responses, "-o", tmp_path / "d.zarr", *FAST, *more))
    run = store.record["summary"]["runs"][0]
    assert 3.5 < run["effective_neurons"] < 6.5
    evidence = store.read(EVIDENCE.at())[0]
    assert evidence[:5].min() > 3 * np.abs(evidence[5:]).max()
    subset = run["neurons"][0]
    assert subset["top"] > 2 * subset["random"]
    assert subset["top"] >= run["top1"][0]
    assert subset["p"] <= 0.02


def test_where_all_neurons_carry_it_the_strong_ones_are_nothing_special(decoded: Path) -> None:
    run = open_store(decoded).record["summary"]["runs"][0]
    assert run["effective_neurons"] > 15
    assert all(subset["p"] > 0.02 for subset in run["neurons"])


def test_categories_are_scored_against_their_own_frequencies(tmp_path: Path, world: tuple[Path, Path]) -> None:
    features, responses = world
    ids = [str(name) for name in open_store(features).read("images/id")]
    table = tmp_path / "categories.csv"
    names = ["rare" if k % 10 == 0 else "common" for k in range(N)]
    table.write_text("image,category\n" + "".join(f"{a},{b}\n" for a, b in zip(ids, names, strict=True)))
    out = done("decode", features, "--responses", responses, "-o", tmp_path / "d.zarr", "--categories", table, *FAST)
    store = open_store(out)
    best, wrong, fold = (store.read(array.at()) for array in (BEST, WRONG, FOLD))
    right = np.mean([names[k] == names[best[0, k]] for k in range(N)])
    near = np.mean([names[k] == names[wrong[0, k]] for k in range(N)])
    others = [[names[j] == names[k] for j in range(N) if fold[j] == fold[k] and j != k] for k in range(N)]
    found = store.record["summary"]["runs"][0]["category"]
    assert found["right"]["share"][0] == pytest.approx(right)
    assert found["nearest_wrong"]["share"][0] == pytest.approx(near)
    assert found["nearest_wrong"]["chance"] == pytest.approx(np.mean([np.mean(row) for row in others]))
    assert found["right"]["chance"] == pytest.approx(np.mean([(sum(row) + 1) / (len(row) + 1) for row in others]))
    bad = aligncut("decode", features, "--responses", responses, "-o", tmp_path / "x.zarr", "--categories", responses)
    assert bad.code == 3


def test_it_goes_on_after_being_killed_and_gives_the_same_bytes(
    tmp_path: Path, world: tuple[Path, Path], decoded: Path
) -> None:
    features, responses = world
    more = ["--candidates", "4,all", "--neurons", "6,12", "--subsets", 19, "--control", "shuffle"]
    words = ["decode", features, "--responses", responses, "-o", tmp_path / "d.zarr", *more, *FAST]
    markers = tmp_path / "d.zarr.wip" / "done"
    with spawn(words) as process:
        while process.poll() is None and not (markers.is_dir() and len(list(markers.glob("fit.*"))) >= 3):
            pass
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "d.zarr").exists()
    done(*words)
    assert array_bytes(tmp_path / "d.zarr") == array_bytes(decoded)
    again = aligncut(*words, "--json")
    assert json.loads(again.out)["state"] == "up to date"


def test_runs_stand_side_by_side_and_need_the_same_images(tmp_path: Path, world: tuple[Path, Path]) -> None:
    features, responses = world
    (tmp_path / "other").mkdir()
    noise, _ = plant(tmp_path / "other", noise=0.4, seed=5)
    out = done("decode", f"all={features}", f"odd={noise}", "--responses", responses, "-o", tmp_path / "d.zarr", *FAST)
    runs = {run["run"]: run for run in open_store(out).record["summary"]["runs"]}
    assert list(runs) == ["all ridge", "odd ridge"]
    assert runs["all ridge"]["top1"][0] > 0.5
    assert runs["odd ridge"]["top1"][1] < 1 / 12 < runs["odd ridge"]["top1"][2]
    twice = aligncut("decode", features, features, "--responses", responses, "-o", tmp_path / "x.zarr")
    assert twice.code == 2
    assert "names" in twice.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--candidates", "13"], 2, "from 2 to 12"),
        (["--candidates", "few"], 2, "from 2 to 12"),
        (["--neurons", "24"], 2, "24 neurons"),
        (["--method", "towers", "--objective", "classes"], 2, "--categories"),
        (["--folds", "1"], 2, "folds"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_to_do(
    tmp_path: Path, world: tuple[Path, Path], words: list[str], code: int, said: str
) -> None:
    result = aligncut("decode", world[0], "--responses", world[1], "-o", tmp_path / "d.zarr", *words)
    assert result.code == code, result.err
    assert said in result.err
    assert not list(tmp_path.glob("d.zarr*"))


def test_export_and_inspect_know_the_store(tmp_path: Path, decoded: Path) -> None:
    file = done("export", decoded, "-o", tmp_path / "scores.csv")
    lines = file.read_text().splitlines()
    assert lines[0].startswith("run,candidates,")
    assert len(lines) == 1 + 2 * 2
    assert "f ridge shuffled,12" in lines[4]
    ranks = done("export", decoded, "-o", tmp_path / "rank.csv", "--array", "rank")
    assert len(ranks.read_text().splitlines()) == 1 + 2
    assert "best_top1" in aligncut("inspect", decoded).out
    assert aligncut("inspect", decoded, "--verify").code == 0


def test_an_alignment_that_has_seen_the_held_out_responses_is_refused(tmp_path: Path, world: tuple[Path, Path]) -> None:
    features, responses = world
    fit = ["--universal-dim", 8, "--epochs", 0, "--eigenvectors", 2, "--nodes", 10]
    seen = done("align", features, "-o", tmp_path / "a.zarr", "--responses", responses, *fit)
    words = ["decode", features, "--responses", responses, *FAST]
    refused = aligncut(*words, "-o", tmp_path / "d.zarr", "--alignment", seen)
    assert refused.code == 3
    assert "--folds 5" in refused.err
    folds = done("align", features, "-o", tmp_path / "b.zarr", "--responses", responses, *fit, "--folds", 5)
    store = open_store(done(*words, "-o", tmp_path / "e.zarr", "--alignment", folds))
    assert store.record["summary"]["best_top1_p"] == 1 / 200
    shared = done("align", features, "-o", tmp_path / "c.zarr", "--target", "consensus", "--universal-dim", 6)
    assert aligncut(*words, "-o", tmp_path / "f.zarr", "--alignment", shared).code == 0


def test_repeats_are_averaged_and_give_a_ceiling_and_what_one_half_tells_of_the_other(
    tmp_path: Path, world: tuple[Path, Path]
) -> None:
    features = world[0]
    ids = [str(name) for name in open_store(features).read("images/id")]
    rng = np.random.default_rng(7)
    signal_ = np.load(world[1])
    trials = np.repeat(signal_, 3, axis=0)[:-2]  # the last image was shown once
    trials += 0.8 * rng.standard_normal(trials.shape)
    (tmp_path / "ids.csv").write_text("image\n" + "\n".join(np.repeat(ids, 3)[:-2]) + "\n")
    np.save(tmp_path / "trials.npy", trials.astype(np.float32))
    words = ["decode", features, "--responses", tmp_path / "trials.npy", "--image-ids", tmp_path / "ids.csv"]
    store = open_store(done(*words, "-o", tmp_path / "d.zarr", *FAST))
    ranks, folds = store.read(REPEAT_RANK.at()), store.read(FOLD.at())
    assert ranks[-1] == 0
    assert (ranks[:-1] > 0).all()
    first = np.array([trials[3 * k : 3 * k + 3][::2].mean(axis=0) for k in range(N - 1)])
    second = np.array([trials[3 * k + 1] for k in range(N - 1)])
    halves = [(half - half.mean(axis=0)) / half.std(axis=0) for half in (first, second)]
    for k in range(N - 1):
        others = [j for j in range(N - 1) if folds[j] == folds[k]]
        similar = [np.corrcoef(halves[0][k], halves[1][j])[0, 1] for j in others]
        assert ranks[k] == 1 + sum(value > similar[others.index(k)] for value in similar)
    repeats = store.record["summary"]["repeats"]
    assert repeats["top1"][0] == np.mean(ranks[:-1] == 1)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(first.T, second.T, strict=True)]
    np.testing.assert_allclose(store.read(REPEAT_CEILING.at()), [2 * x / (1 + x) for x in r], rtol=1e-4)


def plant_photos(folder: Path) -> tuple[Path, Path]:
    """Write photos of coarse patches under fine noise; neurons respond to the patches, so to low frequencies only."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    levels = rng.standard_normal((96, 4, 4))
    for k, level in enumerate(levels):
        coarse = np.kron(level, np.ones((12, 12)))
        fine = 60 * np.sign(rng.standard_normal((48, 48, 1)))
        pixels = np.clip(128 + 30 * coarse[..., None] + fine, 0, 255).astype(np.uint8)
        Image.fromarray(pixels.repeat(3, axis=2)).save(folder / "photos" / f"p{k:03d}.png")
    weights = rng.standard_normal((16, 20))
    responses = levels.reshape(96, 16) @ weights + 0.5 * rng.standard_normal((96, 20))
    np.save(folder / "responses.npy", responses.astype(np.float32))
    return folder / "photos", folder / "responses.npy"


TOWERS = ["--method", "towers", "--image-size", 32, "--channels", 4, "--batch-images", 16]
TOWERS = [*TOWERS, "--folds", 3, "--dropout", 0.1, *FAST]
WHOLE = [*TOWERS, "--epochs", 14]


def test_towers_decode_photos_by_the_band_that_carries_the_image_and_by_no_other(tmp_path: Path) -> None:
    photos, responses = plant_photos(tmp_path)
    scores = {}
    for name, band in (("all", []), ("low", ["--band", "low:0.08"]), ("high", ["--band", "high:0.2"])):
        out = done("decode", photos, "--responses", responses, "-o", tmp_path / f"{name}.zarr", *WHOLE, *band)
        store = open_store(out)
        scores[name] = store.read(SCORES["top1"].at())[0, 0]
        decoding = Decoding(store)
        assert decoding.towers == ["photos towers"]
        maps = store.read(MAPS.at("photos towers"))
        assert maps.shape == (96, 4, 8, 8)
        assert np.isfinite(maps.astype(np.float32)).all()
        assert store.read("towers/photos towers/look").shape == (20, 8, 8)
    assert scores["low"][1] > 3 / 32
    assert scores["low"][0] > scores["high"][2]
    assert scores["high"][0] < 4 / 32
    again = done("decode", photos, "--responses", responses, "-o", tmp_path / "again.zarr", *WHOLE)
    assert array_bytes(again) == array_bytes(tmp_path / "all.zarr")


def test_pictures_and_report_show_what_the_store_says(tmp_path: Path, world: tuple[Path, Path], decoded: Path) -> None:
    features, responses = world
    more = ["--candidates", "4,all", "--neurons", "6,12", "--subsets", 19, "--control", "shuffle"]
    words = ["decode", features, "--responses", responses, "-o", decoded, *more, *FAST]
    done(*words, "--figures", tmp_path / "figures")
    names = {file.name for file in (tmp_path / "figures").iterdir()}
    assert {"scores.csv", "candidates.csv", "candidates.png", "neurons.csv", "neurons.png", "runs.png"} <= names
    store = open_store(decoded)
    with (tmp_path / "figures" / "candidates.csv").open() as stream:
        rows = {int(row["candidates"]): row for row in csv.DictReader(stream)}
    for at, number in enumerate((4, 12)):
        assert number in rows or number == 4
        if number in rows:
            assert float(rows[number]["f ridge"]) == pytest.approx(store.read(SCORES["top1"].at())[0, at, 0])
    if (store.read(RANK.at())[0] > 1).any():
        assert "failures.png" in names
    page = done("report", decoded, "-o", tmp_path / "report")
    text = "".join(file.read_text() for file in page.rglob("*.js")) + (page / "index.html").read_text()
    assert "Which image was seen" in text
    assert "Top-1 by the number of candidates" in text
    assert "f ridge shuffled" in text


@pytest.mark.parametrize("objective", ["regression", "classes"])
def test_other_objectives_train_the_same_towers(tmp_path: Path, objective: str) -> None:
    photos, responses = plant_photos(tmp_path)
    classes = tmp_path / "classes.csv"
    levels = np.random.default_rng(0).standard_normal((96, 4, 4))[:, 0, 0]
    classes.write_text("image,category\n" + "".join(f"p{k:03d},{int(level > 0)}\n" for k, level in enumerate(levels)))
    words = ["decode", photos, "--responses", responses, *TOWERS, "--epochs", 3, "--categories", classes]
    out = done(*words, "-o", tmp_path / "d.zarr", "--objective", objective)
    store = open_store(out)
    assert store.read(MAPS.at("photos towers")).shape == (96, 4, 8, 8)
    assert all(fit["epochs"] <= 3 for fit in store.record["summary"]["runs"][0]["fits"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "ridge"], "extract"),
        (["--method", "towers", "--band", "low"], "no band"),
        (["--method", "towers", "--alignment", "a.zarr"], "--alignment"),
    ],
)
def test_photos_are_refused_where_features_are_needed(
    tmp_path: Path, photos: Path, words: list[str], said: str
) -> None:
    np.save(tmp_path / "r.npy", np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32))
    result = aligncut("decode", photos, "--responses", tmp_path / "r.npy", "-o", tmp_path / "d.zarr", *words)
    assert result.code == 2
    assert said in result.err


def test_memory_of_a_ridge_does_not_grow_with_the_images() -> None:
    """The peak of one fold in a process of its own, from features and responses that are made block by block."""
    code = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
import aligncut_cli
from aligncut_cli.maths.split_images import split_into_folds
from aligncut_cli.stages.decode.ridge import fit_by_ridge

class Made:
    widths = [400]
    def iterate(self, wanted):
        for start in range(0, len(wanted), 256):
            rows = wanted[start : start + 256]
            yield rows, np.random.default_rng(rows[0]).standard_normal((len(rows), 400)).astype(np.float32)

n = int(sys.argv[1])
read = lambda rows: np.random.default_rng(len(rows)).standard_normal((len(rows), 5)).astype(np.float32)
fit_by_ridge(Made(), read, split_into_folds(n, n_folds=20, validation_share=0.1, seed=0)[0], device=torch.device("cpu"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    peaks = []
    for n in (2_000, 30_000):
        run = subprocess.run([sys.executable, "-c", code, str(n)], capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout))
    assert peaks[1] - peaks[0] < 16e6, peaks  # all features at once would be 45 MB more


DATA = Path(os.environ.get("ALIGNCUT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
V4 = DATA / "v4"
"""1,200 photos and 89 neurons of macaque V4 (Cowley et al. 2023), where they lie beside the project."""
needs_v4 = pytest.mark.skipif(not V4.is_dir(), reason="the recordings are not here")


@needs_v4
@pytest.mark.slow
def test_a_small_demo_model_decodes_real_neurons_and_its_shuffled_control_does_not(tmp_path: Path) -> None:
    model = ["--model", "demo-dino", "--save", "pooled", "--workers", 0]
    features = done("extract", V4 / "images", "-o", tmp_path / "f.zarr", *model)
    words = ["--responses", V4 / "responses.npy", "--control", "shuffle", "--permutations", 199, "--draws", 50]
    store = open_store(done("decode", features, "-o", tmp_path / "d.zarr", *words))
    real, control = store.record["summary"]["runs"]
    assert real["top1"][1] > 0.05
    assert real["p"]["top1"] == 1 / 200
    assert control["top1"][1] <= 1 / 240 <= control["top1"][2]
    assert control["pairwise"][1] <= 0.5 <= control["pairwise"][2]


def test_a_recording_and_its_own_images_are_decoded_from_python(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (17, 30, 16)).astype(np.uint8)
    savemat(tmp_path / "images_natimg2800_all.mat", {"imgs": pictures})
    numbers = np.tile([*range(1, 17), 2801], 2)
    responses = rng.standard_normal((17, 60))[numbers % 17] + 0.1 * rng.standard_normal((34, 60))
    stim = {"resp": responses, "istim": numbers[:, None], "spont": rng.standard_normal((50, 60))}
    savemat(tmp_path / "natimg2800_M1.mat", {"stim": stim})
    outcome = aligncut_cli.run(
        "decode",
        tmp_path / "images_natimg2800_all.mat",
        tmp_path / "d.zarr",
        responses=tmp_path / "natimg2800_M1.mat",
        method="towers",
        folds=2,
        epochs=1,
        image_size=16,
        batch_images=4,
        permutations=9,
        draws=20,
    )
    assert outcome.state == "complete"
    assert outcome.summary["images"] == 16
    store = open_store(outcome.path)
    assert store.record["responses"]["form"] == "stringer"
    # 32 components of spontaneous activity are taken out of 60 neurons, and the rest still repeats
    assert store.record["summary"]["repeats"]["images"] == 16
    assert store.record["summary"]["repeats"]["top1"][0] > 3 / 8
