"""The demo from end to end: its world's known truth is recovered, with margins taken from seeds 0, 1 and 2."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligncut_cli.demo.findings import average_over_slots, compare_runs
from aligncut_cli.demo.tour import TARGETS, plan_steps
from aligncut_cli.maths.grid import weigh_tokens_by_class
from aligncut_cli.maths.segmentation import ClassCentres, OracleScore
from aligncut_cli.params import DemoParams
from aligncut_cli.store.read import open_store
from tests.conftest import Result, aligncut


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    result = aligncut("demo", folder, "--images", 120, "--json")
    assert result.code == 0, result.err
    return folder, result


def found(demo: tuple[Path, Result]) -> dict:
    return json.loads(demo[1].out)


def test_every_command_is_printed_as_a_user_would_type_it(demo: tuple[Path, Result]) -> None:
    folder, result = demo
    typed = [line for line in result.err.splitlines() if line.startswith("$ aligncut ")]
    assert [line.split()[2] for line in typed[:2]] == ["extract", "align"]
    assert len(typed) >= 20
    again = aligncut(*typed[0].split()[2:])
    assert "up to date" in again.err
    assert "SYNTHETIC" in result.err
    assert (folder / "report" / "index.html").exists()


def test_the_brain_is_predicted_and_the_controls_do_not(demo: tuple[Path, Result]) -> None:
    scores, targets = found(demo)["brain"], found(demo)["targets"]
    assert scores["PPA"]["r2_of_ceiling"] > 0.3
    assert scores["V4"]["r2_of_ceiling"] > 0.2
    for control in ("shuffled", "random"):
        assert targets[control]["R2"] < 0.02
        assert min(targets[name]["R2"] for name in ("brain", "consensus", "both")) > targets[control]["R2"] + 0.05


def test_models_agree_on_a_token_only_after_alignment(demo: tuple[Path, Result]) -> None:
    means, targets = found(demo)["between_models"], found(demo)["targets"]
    assert abs(means["before"]) < 0.05
    assert means["after"] > means["before"] + 0.15
    assert targets["consensus"]["cosine between models"] > targets["brain"]["cosine between models"] + 0.05
    assert targets["consensus"]["slot share"] < targets["brain"]["slot share"]


def test_the_table_of_targets_is_read_from_their_stores(demo: tuple[Path, Result]) -> None:
    targets = found(demo)["targets"]
    assert list(targets) == list(TARGETS)
    for name, column in targets.items():
        fit, joint = (open_store(demo[0] / f"{path}.zarr").record["summary"] for path in (name, f"{name}-joint"))
        scores = fit["scores"]["all"]
        assert [column["R2"], column["r"]] == [scores["r2"], scores["r"]]
        assert column["slot share"] == joint["shares"]["all"]["slot"]
        run = list(found(demo)["figure"]["miou"]).index(name)
        assert column["figure mIoU"] == pytest.approx(open_store(demo[0] / "figure.zarr").read("runs/miou")[run].mean())
        row = next(line for line in demo[1].err.splitlines() if line.strip().startswith("R2 "))
        assert f"{column['R2']:.3f}" in row
    assert "What each space is worth" in (demo[0] / "report" / "data" / "main.js").read_text(encoding="utf-8")


def test_every_space_stands_beside_the_shown_one(demo: tuple[Path, Result]) -> None:
    for scores in (found(demo)["figure"], found(demo)["classes"]):
        assert list(scores["miou"]) == ["consensus", "brain", "both", "shuffled", "random", "unaligned"]
        for name in list(scores["miou"])[1:]:
            assert compare_runs(scores["miou"], "consensus", name) in demo[1].err
    assert average_over_slots({"a": [0.0, 1.0], "b": [0.5, 0.5]}) == 0.5


def test_fits_differ_in_their_target_alone(demo: tuple[Path, Result]) -> None:
    stores = {name: open_store(demo[0] / f"{name}.zarr") for name in TARGETS}
    for name, store in stores.items():
        wanted = stores["brain"].record["params"]
        differ = {key for key, value in store.record["params"].items() if wanted[key] != value}
        assert differ == {"brain": set(), "consensus": {"target"}, "both": {"target"}}.get(name, {"control"})


def test_each_score_names_the_classes_that_its_masks_have(demo: tuple[Path, Result]) -> None:
    assert open_store(demo[0] / "figure.zarr").record["classes"] == ["ground", "figure"]
    assert len(open_store(demo[0] / "classes.zarr").record["classes"]) == 9
    assert demo[1].err.count("mIoU over 2 classes") == 1
    assert demo[1].err.count("mIoU over 9 classes") == 1


def test_what_is_said_of_two_runs_follows_their_scores() -> None:
    miou = {"after": {"a": [0.5, 0.4], "b": [0.3]}, "before": {"a": [0.4, 0.5], "b": [0.0]}}
    assert (
        compare_runs(miou, "after", "before") == "after is 0.100 above before on average, and higher in 2 of 3 layers."
    )
    assert (
        compare_runs(miou, "before", "after") == "before is 0.100 below after on average, and higher in 1 of 3 layers."
    )


def test_the_commands_of_the_fits_differ_in_their_target_alone(tmp_path: Path) -> None:
    fits = [step.arguments for step in plan_steps(tmp_path, DemoParams()) if step.arguments[0] == "align"]
    kept = [[word for word in words if not word.endswith(".zarr")] for words in fits]
    common = kept[0][: -len(TARGETS["brain"])]
    assert kept == [[*common, *target] for target in TARGETS.values()]


def test_figure_and_ground_part_better_than_by_colour_and_by_other_masks(demo: tuple[Path, Result]) -> None:
    scores = found(demo)["figure"]
    best = max(max(layers) for layers in scores["miou"]["consensus"].values())
    assert best > scores["shuffled"] + 0.05
    assert best > score_of_colours(demo[0] / "world") + 0.03


def score_of_colours(world: Path) -> float:
    """The same oracle on the mean colour of every patch, centred, in place of eigenvectors."""
    names = sorted(path.name for path in (world / "figure").glob("*.png"))
    masks = [np.asarray(Image.open(world / "figure" / name)).astype(np.int16) for name in names]
    colours = []
    for name in names:
        pixels = np.asarray(Image.open(world / "images" / name).convert("RGB"), dtype=np.float64)
        colours.append(pixels.reshape(14, 8, 14, 8, 3).mean(axis=(1, 3)).reshape(196, 3))
    mean = np.concatenate(colours).mean(axis=0)
    rows = [(values - mean)[None] for values in colours]
    centres = ClassCentres(1, 2, 3)
    for values, mask in zip(rows, masks, strict=True):
        centres.add(values, weigh_tokens_by_class(mask, (14, 14), n_classes=2))
    score = OracleScore(centres.finish(), thresholds=np.linspace(0, 1, 10), grid=(14, 14), resolution="tokens")
    for values, mask in zip(rows, masks, strict=True):
        score.add(values, mask)
    return float(score.finish().best_miou[0])


def test_a_second_run_answers_from_the_stores(demo: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch) -> None:
    from aligncut_cli.stages.eigs import phases as eigs_phases
    from aligncut_cli.stages.extract import phases as extract_phases

    monkeypatch.setattr(extract_phases, "ExtractStage", None)
    monkeypatch.setattr(eigs_phases, "EigsStage", None)
    again = aligncut("demo", demo[0], "--images", 120, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["brain"] == found(demo)["brain"]


@pytest.mark.parametrize("damage", [False, True])
def test_a_folder_with_another_world_is_refused_and_left_alone(
    demo: tuple[Path, Result], tmp_path: Path, damage: bool
) -> None:
    world = tmp_path / "d" / "world"
    world.mkdir(parents=True)
    record = (demo[0] / "world" / "world.json").read_text()
    (world / "world.json").write_text(record[:9] if damage else record)
    result = aligncut("demo", tmp_path / "d", "--images", 24)
    assert result.code == 4
    assert "Name another folder" in result.err
    assert [path.name for path in world.iterdir()] == ["world.json"]


def test_the_seed_of_the_training_scenes_is_refused(tmp_path: Path) -> None:
    from aligncut_cli.demo.scenes import TRAINING_SEED

    result = aligncut("demo", tmp_path / "d", "--seed", TRAINING_SEED)
    assert result.code == 2
    assert "trained on" in result.err


def test_the_picture_follows_its_rule_and_shows_the_colours_of_the_store(demo: tuple[Path, Result]) -> None:
    from aligncut_cli.demo.picture import GAP, LABEL, choose_photos, spread_layers
    from aligncut_cli.store.kinds.tsne import Tsne

    classes = [np.array(found) for found in ([0, 2], [0, 1, 2], [0, 1], [1], [0, 2], [0, 2], [0, 3], [0, 1])]
    assert choose_photos(classes) == [2, 7, 0, 4, 6]  # two faces, two persons, the only fish
    assert spread_layers(8) == [0, 4, 7]
    store = Tsne(open_store(demo[0] / "tsne.zarr"))
    names = [str(name) for name in store.images()["id"]]
    masks = [np.unique(np.asarray(Image.open(demo[0] / "world" / "masks" / f"{name}.png"))) for name in names]
    first = choose_photos(masks)[0]
    picture = np.asarray(Image.open(demo[0] / "picture.png"))
    photo = np.asarray(Image.open(demo[0] / "world" / "images" / f"{names[first]}.png").convert("RGB"))
    np.testing.assert_array_equal(picture[:112, LABEL : LABEL + 112], photo)
    rgb = store.read_colours("demo-clip", first, layers=0).reshape(14, 14, 3)
    top = 112 + GAP + 2 * GAP
    np.testing.assert_array_equal(picture[top + 4 : top + 112 : 8, LABEL + 4 : LABEL + 112 : 8], rgb)
    assert (demo[0] / "layers.png").stat().st_size > 10_000


def test_figure_and_categories_are_above_their_controls(demo: tuple[Path, Result]) -> None:
    # With 144 scenes of seeds 0, 1 and 2 the best layers reach at least the second figure.
    for measure, model, least, _ in (
        ("figure", "demo-clip", 0.65, 0.74),
        ("figure", "demo-dino", 0.73, 0.81),
        ("figure", "demo-mae", 0.70, 0.81),
        ("classes", "demo-clip", 0.30, 0.36),
        ("classes", "demo-dino", 0.40, 0.48),
        ("classes", "demo-mae", 0.45, 0.53),
    ):
        scores = found(demo)[measure]
        best = max(max(scores["miou"][run][model]) for run in ("consensus", "brain"))
        assert best > least
        assert best > max(scores["other_masks"][model]) + 0.1
    assert found(demo)["between_models"]["after"] > 0.3
    share = found(demo)["colours"]
    assert share["share"] > share["chance"] + 0.05
    assert f"{share['share']:.0%} of another's" in demo[1].err
