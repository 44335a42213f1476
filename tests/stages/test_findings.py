"""`concepts`, `activations` and `eigs --roi` as wholes, against plain loops over tokens."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligncut_cli.store.read import open_store
from tests.conftest import aligncut, array_bytes, done
from tests.stages.made_stores import make_alignment, make_node_store
from tests.stages.test_eigs import all_rows, dense_solution, principal_angles
from tests.stages.test_segment import write_mask

ROIS = {"V1": slice(0, 20), "EBA": slice(20, 30), "empty": slice(0, 0)}


@pytest.fixture(scope="module")
def alignment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of the shared features into 24 universal channels, read out to 40 voxels; V1 hangs on channels 0 to 7.

    Channel 0 hardly varies, so that its readout says little.
    """
    rng = np.random.default_rng(6)
    weights = {name: (range(3), rng.standard_normal((3, 192, 24)) / 14) for name in ("tiny", "pair")}
    readout = rng.standard_normal((24, 40)) * 0.1
    readout[:8, ROIS["V1"]] += 3
    rois = {name: np.isin(np.arange(40), np.arange(40)[part]) for name, part in ROIS.items()}
    deviation = np.where(np.arange(24) == 0, 1e-4, rng.uniform(0.5, 2, 24))
    path = tmp_path_factory.mktemp("alignment") / "a.zarr"
    return make_alignment(path, weights, readout, rois, deviation=deviation)


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def universal(features: Path, alignment: Path, model: str, layer: int) -> np.ndarray:
    """V W of one slot, (image, patch, universal), rounded to float16 as `align --apply` does."""
    tokens = open_store(features).read(f"{model}/tokens")[layer, :, 1:].astype(np.float32)
    return (tokens @ open_store(alignment).read(f"{model}/weight")[layer]).astype(np.float16).astype(float)


# Fig. 2


def test_eigs_of_an_roi_use_the_channels_that_weigh_most_for_it(
    tmp_path: Path, features: Path, alignment: Path
) -> None:
    store = open_store(alignment)
    readout, deviation = store.read("readout/weight"), store.read("readout/deviation")
    weight = [sum(abs(float(b)) for b in row[:20]) / 20 * d for row, d in zip(readout, deviation, strict=True)]
    chosen = sorted(sorted(range(24), key=lambda channel: -weight[channel])[:8])
    assert set(range(1, 8)) < set(chosen)
    assert 0 not in chosen
    args = ["--alignment", alignment, "--n-eig", 3]
    output = done("eigs", features, "-o", tmp_path / "e.zarr", *args, "--roi", "V1", "--top-channels", 8)
    tokens = [
        (open_store(features).read(f"{name}/tokens")[layer].astype(np.float32) @ store.read(f"{name}/weight")[layer])
        .astype(np.float16)
        .reshape(-1, 24)[:, chosen]
        for name in ("tiny", "pair")
        for layer in range(3)
    ]
    values, vectors = dense_solution(np.concatenate(tokens).astype(float), 3)
    np.testing.assert_allclose(open_store(output).read("eigenvalues")[0], values, rtol=1e-4)
    assert principal_angles(all_rows(output, "eigvecs"), vectors).max() < 0.01
    result = aligncut("eigs", features, "-o", tmp_path / "x.zarr", *args, "--roi", "V9", "--top-channels", 8)
    assert result.code == 2
    assert "EBA, V1, empty" in result.err


# Fig. 8


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, tsne: Path, features: Path, alignment: Path) -> Path:
    output = tmp_path_factory.mktemp("concepts") / "out"
    args = ["--concepts", 4, "--patches", 3]
    return done("concepts", tsne, "--features", features, "--alignment", alignment, "-o", output, *args)


def test_concepts_are_described_as_by_a_loop_over_tokens(
    tsne: Path, features: Path, alignment: Path, described: Path
) -> None:
    table = read_csv(described / "concepts.csv")
    beta = open_store(alignment).read("readout/weight").astype(float)
    members: list[list[np.ndarray]] = [[] for _ in table]
    for model in ("tiny", "pair"):
        for layer in range(3):
            coords = open_store(tsne).read(f"{model}/coords")[layer, :, 1:]
            rows = universal(features, alignment, model, layer)
            for image in range(12):
                for token in range(16):
                    for index, row in enumerate(table):
                        centre = [float(row[axis]) for axis in "xyz"]
                        if math.dist(coords[image, token], centre) <= float(row["radius"]):
                            members[index].append(rows[image, token] @ beta)
    mean, deviation = np.load(described / "mean.npy"), np.load(described / "deviation.npy")
    assert sum(map(len, members)) > 50
    for index, (row, found) in enumerate(zip(table, members, strict=True)):
        assert int(row["tokens"]) == len(found)
        np.testing.assert_allclose(mean[index], np.mean(found, axis=0), atol=2e-3)
        np.testing.assert_allclose(deviation[index], np.std(found, axis=0), atol=2e-3)
    rois = {(int(row["concept"]), row["roi"]): row for row in read_csv(described / "rois.csv")}
    assert {roi for _, roi in rois} == {"V1", "EBA"}
    assert float(rois[1, "V1"]["mean"]) == pytest.approx(mean[1, :20].mean())
    assert float(rois[1, "EBA"]["deviation"]) == pytest.approx(deviation[1, 20:30].mean())


def test_without_controls_the_score_is_said_with_what_it_cannot_show(
    tmp_path: Path, tsne: Path, features: Path, alignment: Path, described: Path
) -> None:
    summary = json.loads((described / "aligncut.json").read_text())["aligncut"]["summary"]
    assert summary["roi_correspondence"] > 0.5
    assert summary["roi_p"] is None
    assert summary["control_fits"] == 0
    assert "half the median distance" in summary["radius_rule"]
    assert "--sparse" in summary["centre_rule"]
    assert {row["p"] for row in read_csv(described / "concepts.csv")} == {""}
    assert {row["z"] + row["p"] for row in read_csv(described / "rois.csv")} == {""}
    args = ["concepts", tsne, "--features", features, "--alignment", alignment, "--concepts", 4]
    assert "cannot show that concepts follow the brain" in " ".join(aligncut(*args, "-o", tmp_path / "out").err.split())


def make_controls(path: Path, *, seed: int, voxels: int = 40, effect: float = 0, fits: int = 1, **more: object) -> Path:
    """An alignment, or several in one store, whose V1 hangs on some channels by `effect`."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.standard_normal((fits, 3, 192, 24)) / 14 for name in ("tiny", "pair")}
    readout = rng.standard_normal((fits, 24, voxels)) * 0.1
    readout[:, :8, ROIS["V1"]] += effect
    rois = {name: np.isin(np.arange(voxels), np.arange(voxels)[part]) for name, part in ROIS.items()}
    first = {name: (range(3), weight[0]) for name, weight in weights.items()}
    many = {f"fits/{name}/weight": weight for name, weight in weights.items()} if fits > 1 else {}
    several = many | {"fits/readout/weight": readout} if fits > 1 else {}
    return make_alignment(path, first, readout[0], rois, more_arrays=several, **more)


def test_scores_of_controls_are_those_of_a_loop_over_the_same_members(
    tmp_path: Path, tsne: Path, features: Path, alignment: Path, described: Path
) -> None:
    """The fit stands out against controls without a readout that hangs on ROIs; their fits all count."""
    shuffled = {"controls": ["shuffled pairs"]}
    paths = [make_controls(tmp_path / "c.zarr", seed=1, **shuffled)]
    paths.append(make_controls(tmp_path / "d.zarr", seed=2, fits=3, **shuffled))
    args = ["concepts", tsne, "--features", features, "--alignment", alignment, "--concepts", 4, "--patches", 3]
    out = done(*args, "--controls", paths[0], "--controls", paths[1], "-o", tmp_path / "out")
    summary = json.loads((out / "aligncut.json").read_text())["aligncut"]["summary"]
    before = json.loads((described / "aligncut.json").read_text())["aligncut"]["summary"]
    assert summary["roi_correspondence"] == before["roi_correspondence"]
    assert summary["control_fits"] == 4
    assert summary["roi_p"] == 1 / 5
    table = read_csv(out / "concepts.csv")
    scores = []
    for path, fit in [(paths[0], None), *((paths[1], fit) for fit in range(3))]:
        store = open_store(path)
        shares = []
        for row in table:
            centre = [float(row[axis]) for axis in "xyz"]
            found = []
            for model in ("tiny", "pair"):
                weight = store.read(f"{model}/weight") if fit is None else store.read(f"fits/{model}/weight")[fit]
                for layer in range(3):
                    tokens = open_store(features).read(f"{model}/tokens")[layer, :, 1:].astype(float)
                    coords = open_store(tsne).read(f"{model}/coords")[layer, :, 1:].astype(float)
                    inside = np.sqrt(((coords - centre) ** 2).sum(axis=-1)) <= float(row["radius"])
                    found.append(tokens[inside] @ weight[layer].astype(float))
            beta = store.read("readout/weight") if fit is None else store.read("fits/readout/weight")[fit]
            mean = np.concatenate(found).mean(axis=0) @ beta.astype(float)
            groups = [mean[:20], mean[20:30]]
            both = np.concatenate(groups)
            between = sum(len(group) * (group.mean() - both.mean()) ** 2 for group in groups)
            shares.append(between / ((both - both.mean()) ** 2).sum())
        scores.append(np.mean(shares))
    assert summary["control_correspondence"] == pytest.approx(np.mean(scores), rel=1e-4)
    assert all(float(row["p"]) >= 1 / 5 for row in table)
    assert all(row["z"] and float(row["p"]) >= 1 / 5 for row in read_csv(out / "rois.csv"))


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ({}, 3, "is no control"),
        ({"controls": ["shuffled pairs"], "voxels": 30}, 3, "predicts 30 voxels"),
        ({"controls": ["shuffled pairs"], "twice": True}, 2, "twice"),
    ],
)
def test_what_is_no_control_of_the_fit_is_refused(
    tmp_path: Path, tsne: Path, features: Path, alignment: Path, more: dict[str, object], code: int, words: str
) -> None:
    names = ["--controls", tmp_path / "c.zarr"] * (2 if more.pop("twice", False) else 1)
    make_controls(tmp_path / "c.zarr", seed=1, **more)
    result = aligncut(
        "concepts", tsne, "--features", features, "--alignment", alignment, *names, "-o", tmp_path / "out"
    )
    assert result.code == code, result.err
    assert words in result.err


def test_without_a_readout_concepts_are_patches_and_a_map(
    tmp_path: Path, tsne: Path, features: Path, alignment: Path, described: Path
) -> None:
    weights = {name: (range(3), np.ones((3, 192, 24))) for name in ("tiny", "pair")}
    consensus = make_alignment(tmp_path / "a.zarr", weights, None, {})
    args = ["concepts", tsne, "--concepts", 4, "--patches", 3]
    alone = done(*args, "-o", tmp_path / "alone")
    shared = done(*args, "--features", features, "--alignment", consensus, "-o", tmp_path / "shared")
    for out in (alone, shared):
        names = {path.name for path in out.iterdir()}
        assert names == {"aligncut.json", "concepts.csv", "slots.csv", "patches.csv", "patches.png", "map.png"}
        assert (out / "patches.csv").read_bytes() == (described / "patches.csv").read_bytes()
        ours, theirs = read_csv(out / "concepts.csv"), read_csv(described / "concepts.csv")
        assert [row["tokens"] for row in ours] == [row["tokens"] for row in theirs]
        assert np.asarray(Image.open(out / "map.png")).std() > 5
    result = aligncut(*args, "--controls", alignment, "-o", tmp_path / "x")
    assert result.code == 2
    assert "needs an alignment with a readout" in result.err
    result = aligncut(*args, "--alignment", alignment, "-o", tmp_path / "x")
    assert result.code == 2
    assert "--features" in result.err


def test_concepts_that_rest_on_few_tokens_are_marked(tmp_path: Path, tsne: Path) -> None:
    plain = done("concepts", tsne, "--concepts", 4, "--least-tokens", 1, "-o", tmp_path / "a")
    tokens = [int(row["tokens"]) for row in read_csv(plain / "concepts.csv")]
    least = sorted(tokens)[2]
    out = done("concepts", tsne, "--concepts", 4, "--least-tokens", least, "-o", tmp_path / "b")
    assert [row["few"] for row in read_csv(out / "concepts.csv")] == [str(int(count < least)) for count in tokens]
    by_slot = read_csv(out / "slots.csv")
    assert len(by_slot) == 4 * 6
    for concept in range(4):
        rows = [row for row in by_slot if row["concept"] == str(concept)]
        assert sum(int(row["tokens"]) for row in rows) == tokens[concept]
        assert all(row["few"] == str(int(int(row["tokens"]) < least)) for row in rows)


def test_patches_are_the_nearest_of_different_images(tsne: Path, described: Path) -> None:
    rows, table = read_csv(described / "patches.csv"), read_csv(described / "concepts.csv")
    centre = [float(table[2][axis]) for axis in "xyz"]
    nearest = {}
    for model in ("tiny", "pair"):
        for layer in range(3):
            coords = open_store(tsne).read(f"{model}/coords")[layer, :, 1:]
            for image in range(12):
                for token in range(16):
                    distance = math.dist(coords[image, token], centre)
                    nearest[image] = min(nearest.get(image, math.inf), distance)
    expected = sorted(nearest.values())[:3]
    found = [row for row in rows if row["concept"] == "2"]
    assert [float(row["distance"]) for row in found] == pytest.approx(expected, abs=1e-4)
    assert len({row["image"] for row in found}) == 3
    assert np.asarray(Image.open(described / "patches.png")).shape[1] > 3 * 72


def test_an_interrupted_description_goes_on_to_the_same_bytes(
    tmp_path: Path, tsne: Path, features: Path, alignment: Path, described: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aligncut_cli.stages.concepts.members import Members

    args = ["concepts", tsne, "--features", features, "--alignment", alignment, "-o", tmp_path / "out"]
    args += ["--concepts", 4, "--patches", 3]
    read, calls = Members.load, []

    def stop(self: Members, block: object) -> object:
        calls.append(block)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return read(self, block)

    with monkeypatch.context() as patch:
        patch.setattr(Members, "load", stop)
        assert aligncut(*args).code == 130
    done(*args)
    ours, theirs = array_bytes(tmp_path / "out"), array_bytes(described)
    for name in ("concepts.csv", "rois.csv", "patches.csv", "mean.npy", "deviation.npy", "patches.png"):
        assert ours[name] == theirs[name], name


def test_slots_of_two_maps_have_no_common_concepts(tmp_path: Path, features: Path, alignment: Path) -> None:
    eigs = done("eigs", features, "-o", tmp_path / "e.zarr", "--group", "model", "--n-eig", 3)
    tsne = done("tsne", eigs, "-o", tmp_path / "t.zarr", "--n-sample", 60, "--iterations", 20)
    args = ["concepts", tsne, "--features", features, "--alignment", alignment, "--concepts", 3]
    result = aligncut(*args, "-o", tmp_path / "a")
    assert result.code == 2
    assert "2 maps" in result.err
    done(*args, "-o", tmp_path / "b", "--slot", "pair:1", "--slot", "pair:2")


# Fig. 6, 7 and 16


@pytest.fixture(scope="module")
def figure_ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground") / "masks"
    rng = np.random.default_rng(9)
    for index in range(12):
        mask = rng.integers(0, 2, (6, 5)).repeat(8, axis=0).repeat(11, axis=1)[:, : 48 + index]
        mask = np.pad(mask, ((0, 0), (0, 48 + index - mask.shape[1])))
        mask[:5] = -1
        write_mask(folder / f"photo-{index:03d}.png", mask)
    (folder / "classes.txt").write_text("background\nobject\n")
    return folder


def test_activations_are_means_over_pixels(
    tmp_path: Path, features: Path, alignment: Path, figure_ground: Path
) -> None:
    out = tmp_path / "out"
    result = aligncut("activations", features, "--alignment", alignment, "--masks", figure_ground, "-o", out)
    assert result.code == 0, result.err
    rows = {(row["model"], row["layer"], row["roi"]): row for row in read_csv(out / "activations.csv")}
    assert {roi for _, _, roi in rows} == {"all", "V1", "EBA"}
    beta = open_store(alignment).read("readout/weight").astype(float)
    weight = open_store(alignment).read("pair/weight")[2].astype(float)
    tokens = open_store(features).read("pair/tokens")[2, :, 1:].astype(float)
    total, count = {0: 0.0, 1: 0.0}, {0: 0.0, 1: 0.0}
    for image in range(12):
        mask = np.array(Image.open(figure_ground / f"photo-{image:03d}.png")).astype(int)
        height, width = mask.shape
        activation = (tokens[image] @ weight @ beta)[:, 20:30].mean(axis=1)
        token = [math.floor((y + 0.5) * 4 / height) * 4 + math.floor((x + 0.5) * 4 / width)
                 for y in range(height) for x in range(width)]  # fmt: skip
        size = np.bincount(token, minlength=16)
        for at, label in zip(token, mask.ravel(), strict=True):
            if label != 255:
                total[int(label)] += activation[at] / size[at]
                count[int(label)] += 1 / size[at]
    found = rows["pair", "2", "EBA"]
    assert float(found["foreground"]) == pytest.approx(total[1] / count[1], rel=1e-5)
    assert float(found["background"]) == pytest.approx(total[0] / count[0], rel=1e-5)
    difference = total[1] / count[1] - total[0] / count[0]
    assert float(found["difference"]) == pytest.approx(difference, rel=1e-4)
    assert float(found["difference error"]) > 0
    for name in ("activations.png", "difference.png"):
        assert np.asarray(Image.open(out / name)).std() > 5
    args = ["activations", features, "--alignment", alignment, "--masks", figure_ground, "-o", out]
    assert "up to date" in aligncut(*args).err


def test_similarity_to_a_token_is_a_cosine_over_voxels(tmp_path: Path, features: Path, alignment: Path) -> None:
    args = ["--token", "photo-004:2,1", "--slot", "tiny:1", "--pictures", 3]
    rows = universal(features, alignment, "tiny", 1)
    beta = open_store(alignment).read("readout/weight").astype(float)
    for space, values in (("brain", rows @ beta), ("universal", rows)):
        out = tmp_path / space
        done("activations", features, "--alignment", alignment, "-o", out, *args, "--space", space)
        found = np.load(out / "similarity-photo-004_2,1.npy")
        assert found.shape == (12, 4, 4)
        reference = values[4, 2 * 4 + 1]
        for image in range(12):
            for token in range(16):
                other = values[image, token]
                cosine = other @ reference / math.sqrt((other @ other) * (reference @ reference))
                assert found[image, token // 4, token % 4] == pytest.approx(cosine, abs=1e-4)
        assert found[4, 2, 1] == pytest.approx(1, abs=1e-6)
        assert (out / "similarity-photo-004_2,1.png").exists()
        assert len(read_csv(out / "similarity-photo-004_2,1.csv")) == 12


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--channels", "0"], "--masks DIR"),
        (["--token", "photo-004:2,1"], "go together"),
        (["--slot", "tiny:1"], "go together"),
        (["--token", "photo-004:2,1", "--slot", "tiny:7"], "not a slot"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, features: Path, alignment: Path, more: list[str], words: str
) -> None:
    result = aligncut("activations", features, "--alignment", alignment, "-o", tmp_path / "out", *more)
    assert result.code == 2, result.err
    assert words in result.err


# Fig. 2, left


def test_patches_that_drive_the_channels_of_an_area_are_those_of_a_loop(
    tmp_path: Path, features: Path, alignment: Path
) -> None:
    out = done(
        "activations", features, "--alignment", alignment, "-o", tmp_path / "out", "--channels", 3, "--patches", 4
    )
    rows, store = read_csv(out / "channels.csv"), open_store(alignment)
    beta, deviation = store.read("readout/weight").astype(float), store.read("readout/deviation").astype(float)
    slots = [(model, layer) for model in ("tiny", "pair") for layer in range(3)]
    tokens = {slot: open_store(features).read(f"{slot[0]}/tokens")[slot[1], :, 1:].astype(float) for slot in slots}
    mapped = [tokens[slot] @ store.read(f"{slot[0]}/weight")[slot[1]].astype(float) for slot in slots]
    mean = sum(mapped) / 6  # (image, patch, channel), averaged over slots as in Eq. 2
    assert list(dict.fromkeys(row["roi"] for row in rows)) == ["V1", "EBA"]
    for roi in ("V1", "EBA"):
        voxels = ROIS[roi]
        weight = [sum(abs(b) for b in beta[c, voxels]) / len(beta[c, voxels]) * deviation[c] for c in range(24)]
        wanted = sorted(range(24), key=lambda channel: -weight[channel])[:3]
        mine = [row for row in rows if row["roi"] == roi]
        assert list(dict.fromkeys(int(row["channel"]) for row in mine)) == wanted
        for channel in wanted:
            own = [row for row in mine if int(row["channel"]) == channel]
            sign = 1 if sum(beta[channel, voxels]) >= 0 else -1
            best = sorted(((max(sign * mean[image, :, channel]), image) for image in range(12)), reverse=True)[:4]
            assert [row["image"] for row in own] == [f"photo-{image:03d}" for _, image in best]
            for row, (drive, image) in zip(own, best, strict=True):
                patch = int(row["row"]) * 4 + int(row["column"])
                assert float(row["activation"]) == pytest.approx(sign * drive, abs=1e-4)
                assert mean[image, patch, channel] == pytest.approx(sign * drive, abs=1e-4)
                assert float(row["weight"]) == pytest.approx(weight[channel], rel=1e-5)
    assert np.asarray(Image.open(out / "channels.png")).std() > 5


def test_areas_stand_from_early_to_late() -> None:
    from aligncut_cli.stages.regions import order_regions

    given = ["all", "EBA", "V4", "FBA", "V1", "OPA", "V3", "V2"]
    assert order_regions(given) == ["V1", "V2", "V3", "V4", "EBA", "FBA", "OPA", "all"]


def test_an_alignment_that_cannot_say_which_channels_matter_leaves_the_sheet_out_and_says_so(
    tmp_path: Path, features: Path, figure_ground: Path
) -> None:
    rng = np.random.default_rng(3)
    weights = {name: (range(3), rng.standard_normal((3, 192, 24))) for name in ("tiny", "pair")}
    older = make_alignment(tmp_path / "o.zarr", weights, rng.standard_normal((24, 40)), {})
    consensus = make_alignment(tmp_path / "c.zarr", weights, None, {})
    args = ["activations", features, "-o", tmp_path / "out", "--alignment"]
    result = aligncut(*args, older)
    assert result.code == 2
    assert "nothing says what to compare" in result.err
    result = aligncut(*args, older, "--masks", figure_ground)
    assert result.code == 0, result.err
    assert "no channels.png" in result.err
    assert not (tmp_path / "out" / "channels.png").exists()
    result = aligncut(*args, consensus, "--masks", figure_ground, "--overwrite")
    assert result.code == 3
    assert "has no readout" in result.err
    token = ["--token", "photo-004:2,1", "--slot", "tiny:1"]
    assert aligncut(*args, consensus, *token, "--overwrite").code == 3
    done("activations", features, "--alignment", consensus, "-o", tmp_path / "t", *token, "--space", "universal")


def test_an_interrupted_search_for_patches_goes_on_to_the_same_bytes(
    tmp_path: Path, features: Path, alignment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aligncut_cli.stages.activations.channels import DrivingPatches

    monkeypatch.setattr(DrivingPatches, "images_at_once", 3)
    args = ["activations", features, "--alignment", alignment, "-o"]
    whole = done(*args, tmp_path / "whole")
    find, calls = DrivingPatches.find, []

    def stop(self: DrivingPatches, index: int, images: slice) -> None:
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        find(self, index, images)

    with monkeypatch.context() as patch:
        patch.setattr(DrivingPatches, "find", stop)
        assert aligncut(*args, tmp_path / "out").code == 130
    done(*args, tmp_path / "out")
    ours, theirs = array_bytes(tmp_path / "out"), array_bytes(whole)
    assert len(calls) == 3
    for name in ("channels.csv", "channels.png"):
        assert ours[name] == theirs[name], name


# features that `align --apply` has mapped before


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory, features: Path, alignment: Path) -> Path:
    return done("align", features, "--apply", alignment, "-o", tmp_path_factory.mktemp("mapped") / "u.zarr")


def test_concepts_of_mapped_features_are_those_of_features_mapped_while_reading(
    tmp_path: Path, tsne: Path, mapped: Path, alignment: Path, described: Path
) -> None:
    args = ["--concepts", 4, "--patches", 3]
    out = done("concepts", tsne, "--features", mapped, "--alignment", alignment, "-o", tmp_path / "out", *args)
    ours, theirs = read_csv(out / "concepts.csv"), read_csv(described / "concepts.csv")
    assert [row["tokens"] for row in ours] == [row["tokens"] for row in theirs]
    for name in ("mean.npy", "deviation.npy"):
        np.testing.assert_allclose(np.load(out / name), np.load(described / name), atol=1e-3)


def test_features_that_one_alignment_has_mapped_cannot_be_mapped_by_controls(
    tmp_path: Path, tsne: Path, mapped: Path, alignment: Path
) -> None:
    control = make_controls(tmp_path / "c.zarr", seed=1, controls=["shuffled pairs"])
    args = ["--features", mapped, "--alignment", alignment, "--controls", control, "-o", tmp_path / "out"]
    result = aligncut("concepts", tsne, *args)
    assert result.code == 2, result.err
    assert "as they were extracted" in result.err


def test_activations_of_mapped_features_are_those_of_features_mapped_while_reading(
    tmp_path: Path, features: Path, mapped: Path, alignment: Path, figure_ground: Path
) -> None:
    args = ["--alignment", alignment, "--masks", figure_ground, "--token", "photo-004:2,1", "--slot", "tiny:1"]
    once, before = (done("activations", f, "-o", tmp_path / f.stem, *args) for f in (features, mapped))
    ours, theirs = read_csv(before / "activations.csv"), read_csv(once / "activations.csv")
    assert [row["roi"] for row in ours] == [row["roi"] for row in theirs]
    for name in ("foreground", "background", "difference"):
        found, expected = ([float(row[name]) for row in rows] for rows in (ours, theirs))
        np.testing.assert_allclose(found, expected, atol=1e-3)
    similar = (np.load(folder / "similarity-photo-004_2,1.npy") for folder in (before, once))
    np.testing.assert_allclose(*similar, atol=1e-4)


@pytest.mark.parametrize("command", ["concepts", "activations"])
def test_features_that_another_alignment_has_mapped_are_refused(
    tmp_path: Path, tsne: Path, mapped: Path, alignment: Path, command: str
) -> None:
    weights = {name: (range(3), np.ones((3, 192, 24))) for name in ("tiny", "pair")}
    other = make_alignment(tmp_path / "other.zarr", weights, np.ones((24, 40)), {})
    given = [tsne, "--features", mapped] if command == "concepts" else [mapped, "--token", "photo-004:2,1"]
    more = [] if command == "concepts" else ["--slot", "tiny:1"]
    result = aligncut(command, *given, *more, "--alignment", other, "-o", tmp_path / "out")
    assert result.code == 3, result.err
    assert f"--alignment {alignment}" in " ".join(result.err.split())


def test_a_control_is_said_wherever_its_numbers_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = {"clip": rng.standard_normal((2, 5, 17, 6))}
    features = make_node_store(tmp_path / "f.zarr", "features", tokens, grid=(4, 4))
    coords = {"clip": rng.standard_normal((2, 5, 17, 3))}
    tsne = make_node_store(tmp_path / "t.zarr", "tsne", coords, grid=(4, 4), groups=["all"])
    rois = {"V1": np.arange(9) < 4, "V4": np.arange(9) >= 4}
    control = make_alignment(
        tmp_path / "a.zarr", {"clip": (range(2), rng.standard_normal((2, 6, 5)))}, rng.standard_normal((5, 9)), rois,
        controls=["shuffled pairs"],
    )  # fmt: skip
    for index in range(5):
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", rng.integers(0, 2, (48, 48)))
    concepts = ["concepts", tsne, "--features", features, "--concepts", 3]
    first = aligncut(*concepts, "--alignment", control, "-o", tmp_path / "c")
    second = aligncut(
        "activations", features, "--alignment", control, "--masks", tmp_path / "masks", "-o", tmp_path / "b"
    )
    for result in (first, second):
        assert result.code == 0, result.err
        assert "CONTROL, not the real responses: shuffled pairs" in result.err
    for file in (tmp_path / "c" / "concepts.csv", tmp_path / "c" / "rois.csv", tmp_path / "b" / "activations.csv"):
        assert all(row["control"] == "shuffled pairs" for row in read_csv(file))
    assert "photos were not found" in first.err


def test_photos_that_have_moved_are_found_in_a_folder_which_only_then_is_recorded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gone, moved = tmp_path / "gone", tmp_path / "moved"
    tokens = {"clip": rng.standard_normal((2, 5, 17, 6))}
    features = make_node_store(tmp_path / "f.zarr", "features", tokens, grid=(4, 4), photos=gone)
    coords = {"clip": rng.standard_normal((2, 5, 17, 3))}
    tsne = make_node_store(tmp_path / "t.zarr", "tsne", coords, grid=(4, 4), photos=gone)
    weights = {"clip": (range(2), rng.standard_normal((2, 6, 5)))}
    alignment = make_alignment(tmp_path / "a.zarr", weights, rng.standard_normal((5, 9)), {})
    moved.mkdir()
    for index in range(5):
        Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(moved / f"image-{index:03d}.png")
    concepts = ["concepts", tsne, "--features", features, "--concepts", 3]
    activations = ["activations", features, "--token", "image-001:2,1", "--slot", "clip:1"]
    for command in (concepts, activations):
        plain, with_photos = tmp_path / f"{command[0]}-grey", tmp_path / command[0]
        result = aligncut(*command, "--alignment", alignment, "-o", plain)
        assert result.code == 0, result.err
        assert "photos were not found" in result.err
        result = aligncut(*command, "--alignment", alignment, "-o", with_photos, "--photos", moved)
        assert result.code == 0, result.err
        assert "photos were not found" not in result.err
        extra = [json.loads((out / "aligncut.json").read_text())["aligncut"]["extra"] for out in (plain, with_photos)]
        assert "photos" not in extra[0]
        assert extra[1]["photos"] == str(moved)
        pictures = [next(out.glob("*-image-*.png"), out / "patches.png").read_bytes() for out in (plain, with_photos)]
        assert pictures[0] != pictures[1]


def test_a_comparison_that_was_stopped_before_its_end_says_all_that_an_unbroken_one_says(
    tmp_path: Path, features: Path, alignment: Path, figure_ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aligncut_cli.store.run import Work

    def stop(self: Work, **more: object) -> None:
        raise KeyboardInterrupt

    token = ["--masks", figure_ground, "--token", "photo-004:2,1", "--slot", "tiny:1"]
    for args in (["activations", features, *token], ["compare", features]):
        args += ["--alignment", alignment]
        whole = aligncut(*args, "-o", tmp_path / f"{args[0]}-whole")
        with monkeypatch.context() as patch:
            patch.setattr(Work, "finish", stop)
            assert aligncut(*args, "-o", tmp_path / str(args[0])).code == 130
        again = aligncut(*args, "-o", tmp_path / str(args[0]))
        assert again.code == 0, again.err
        assert again.err == whole.err
        ours, theirs = (array_bytes(tmp_path / name) for name in (str(args[0]), f"{args[0]}-whole"))
        records = [json.loads(files.pop("aligncut.json"))["aligncut"] for files in (ours, theirs)]
        assert records[0]["summary"] == records[1]["summary"]
        assert ours == theirs
