"""`transitions` as a whole: planted moves are recovered, and counts are those of a plain loop."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aligncut_cli.maths.transitions import TransitionResult
from aligncut_cli.stages.transitions.layout import Pair
from aligncut_cli.store.phases import Phase, Stage
from aligncut_cli.store.read import open_store
from aligncut_cli.store.run import Outcome, Work
from tests.conftest import aligncut, array_bytes, done
from tests.stages.made_stores import make_node_store

PLACES = np.array([[0, 0], [10, 0], [0, 10]], float)
FIGURE = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.0, 0.6]])
GROUND = np.array([[0.3, 0.1, 0.6], [0.2, 0.7, 0.1], [0.5, 0.5, 0.0]])
NOWHERE = np.array([50.0, 50.0])


def plant(
    folder: Path, *, n_images: int, ground: NDArray[np.floating] = GROUND, seed: int = 0, layers: int = 2, dims: int = 2
) -> tuple[Path, Path]:
    """Tokens that stand at three places and move with known probabilities, which differ for the foreground."""
    rng = np.random.default_rng(seed)
    figure = rng.random((n_images, 16)) < 0.4
    concept = rng.integers(0, 3, (n_images, 16))
    coords = np.zeros((layers, n_images, 17, dims))
    for layer in range(layers):
        if layer:
            for image in range(n_images):
                for token in range(16):
                    table = FIGURE if figure[image, token] else ground
                    row = table[concept[image, token]] if concept[image, token] < 3 else np.zeros(3)
                    concept[image, token] = rng.choice(4, p=[*row, 1 - row.sum()])
        spots = np.concatenate([PLACES, NOWHERE[None]])[concept]
        coords[layer, :, 1:, :2] = spots + rng.normal(0, 0.2, (n_images, 16, 2))
        coords[layer, :, 0] = 1000 + layer  # the class token must not become a concept
    for image in range(n_images):
        mask = figure[image].reshape(4, 4).repeat(12, axis=0).repeat(12, axis=1)
        path = folder / "masks" / f"image-{image:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8)).save(path)
    store = make_node_store(
        folder / "t.zarr", "tsne", {"clip": coords}, grid=(4, 4), groups=["all"], layers=range(3, 3 + layers)
    )
    return store, folder / "masks"


def match(centres: NDArray[np.floating]) -> list[int]:
    """Find which planted place each centre is, 3 = nowhere."""
    spots = np.concatenate([PLACES, NOWHERE[None]])
    return [int(((spots - centre) ** 2).sum(axis=1).argmin()) for centre in centres]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return plant(tmp_path_factory.mktemp("planted"), n_images=120)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory, planted: tuple[Path, Path]) -> Path:
    output = tmp_path_factory.mktemp("moved") / "x.zarr"
    slots = ["--from", "clip:3", "--to", "clip:4", "--concepts", 3, "--radius", 3, "--permutations", 200]
    return done("transitions", planted[0], "-o", output, *slots, "--masks", planted[1])


def test_planted_moves_are_recovered_within_sampling_error(moved: Path) -> None:
    store = open_store(moved)
    before, after = match(store.read("concepts/from")), match(store.read("concepts/to"))
    assert sorted(before) == [0, 1, 2]
    assert len(set(after)) == 3
    for name, table in (("foreground", FIGURE), ("background", GROUND)):
        found, members = store.read(f"probability/{name}"), store.read(f"members/{name}")
        nowhere = store.read(f"nowhere/{name}")
        assert found.dtype == np.float64
        for row, a in enumerate(before):
            full = np.append(table[a], 1 - table[a].sum())
            for column, b in enumerate(after):
                error = 4 * math.sqrt(max(full[b] * (1 - full[b]), 0.01) / members[row])
                assert abs(found[row, column] - full[b]) < error
            assert nowhere[row] == pytest.approx(1 - sum(found[row]), abs=1e-12)
    bifurcation = store.record["summary"]
    assert bifurcation["p"] == pytest.approx(1 / 201)
    assert bifurcation["bifurcation"] > 2 * bifurcation["expected"]


def test_counts_are_those_of_a_plain_loop(planted: tuple[Path, Path], moved: Path) -> None:
    coords, store = open_store(planted[0]).read("clip/coords"), open_store(moved)
    centres = {name: store.read(f"concepts/{name}") for name in ("from", "to")}
    counts = {name: np.zeros((3, 3), int) for name in ("all", "foreground", "background")}
    for image in range(120):
        mask = np.array(Image.open(planted[1] / f"image-{image:03d}.png"))
        for token in range(16):
            kind = "foreground" if mask[(token // 4) * 12 + 6, (token % 4) * 12 + 6] else "background"
            for a in range(3):
                for b in range(3):
                    near_a = math.dist(coords[0, image, 1 + token], centres["from"][a]) <= 3
                    near_b = math.dist(coords[1, image, 1 + token], centres["to"][b]) <= 3
                    if near_a and near_b:
                        counts["all"][a, b] += 1
                        counts[kind][a, b] += 1
    for name, expected in counts.items():
        np.testing.assert_array_equal(store.read(f"counts/{name}"), expected)


def test_foreground_that_moves_like_background_gives_no_small_p(tmp_path: Path) -> None:
    store, masks = plant(tmp_path, n_images=60, ground=FIGURE, seed=4)
    slots = ["--from", "clip:3", "--to", "clip:4", "--concepts", 3, "--radius", 3, "--permutations", 200]
    output = done("transitions", store, "-o", tmp_path / "x.zarr", *slots, "--masks", masks)
    assert open_store(output).record["summary"]["p"] > 0.05


def test_a_radius_is_chosen_by_the_stated_rule_and_recorded(tmp_path: Path, planted: tuple[Path, Path]) -> None:
    args = ["--from", "clip:3", "--to", "clip:4", "--concepts", 3, "--permutations", 10]
    store = open_store(done("transitions", planted[0], "-o", tmp_path / "x.zarr", *args))
    for index, name in enumerate(("from", "to")):
        centres = store.read(f"concepts/{name}").astype(float)
        nearest = [min(math.dist(a, b) for j, b in enumerate(centres) if j != i) for i, a in enumerate(centres)]
        assert store.read("radius")[index] == pytest.approx(sorted(nearest)[1] / 2)
    assert "half the median distance" in store.record["summary"]["radius_rule"]
    assert store.names("probability") == ["all"]


def test_all_layers_give_flows_bifurcations_and_trajectories(tmp_path: Path) -> None:
    planted, masks = plant(tmp_path, n_images=40, layers=4)
    out = tmp_path / "out"
    args = ["--along", "clip", "--concepts", 3, "--radius", 3, "--permutations", 100, "--token", "image-007:2,1"]
    result = aligncut("transitions", planted, "-o", tmp_path / "x.zarr", *args, "--masks", masks, "--figures", out)
    assert result.code == 0, result.err
    store = open_store(tmp_path / "x.zarr")
    assert store.read("clip/probability").shape == (3, 3, 3, 3)
    assert store.read("clip/p").shape == (3,)
    assert (store.read("clip/p_corrected") >= store.read("clip/p")).all()
    assert [test["p_corrected"] for test in store.record["bifurcations"]] == store.read("clip/p_corrected").tolist()
    pair = ["--from", "clip:4", "--to", "clip:5", *args[2:]]
    alone = open_store(done("transitions", planted, "-o", tmp_path / "y.zarr", *pair, "--masks", masks))
    np.testing.assert_array_equal(alone.read("counts/foreground"), store.read("clip/counts")[1, 1])
    np.testing.assert_array_equal(store.read("clip/followed")[0], [7, 2, 1])
    coords = open_store(planted).read("clip/coords")
    np.testing.assert_array_equal(store.read("clip/trajectory")[0], coords[:, 7, 1 + 2 * 4 + 1])
    assert len(store.read("clip/followed")) == 9
    with (out / "transitions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 3 * 9
    for name in ("flow-clip.png", "bifurcations.csv"):
        assert (out / name).stat().st_size > 100


def test_probabilities_that_rest_on_few_tokens_are_marked(tmp_path: Path, planted: tuple[Path, Path]) -> None:
    members = {}
    for least in (1, 500):
        out = tmp_path / str(least)
        args = ["--from", "clip:3", "--to", "clip:4", "--concepts", 3, "--radius", 3, "--permutations", 10]
        args += ["--masks", planted[1], "--least-tokens", least, "--figures", out]
        done("transitions", planted[0], "-o", tmp_path / f"{least}.zarr", *args)
        with (out / "transitions.csv").open() as stream:
            members[least] = [(int(row["of"]), row["few"]) for row in csv.DictReader(stream)]
    assert {few for _, few in members[1]} == {"0"}
    assert [few for _, few in members[500]] == [str(int(of < 500)) for of, _ in members[500]]
    assert {few for _, few in members[500]} == {"0", "1"}
    pictures = [(tmp_path / str(least) / "transitions.png").read_bytes() for least in (1, 500)]
    assert pictures[0] != pictures[1]


def test_centres_lie_where_tokens_are(tmp_path: Path) -> None:
    """Tokens that stand alone far out, one in twenty images, are no concepts."""
    store, _ = plant(tmp_path, n_images=60)
    coords = open_store(store).read("clip/coords").copy()
    coords[:, ::20, 1] = 300 * np.array([[[1, 0], [0, 1], [-1, 0]], [[1, 1], [-1, 1], [-1, -1]]])
    lonely = make_node_store(tmp_path / "l.zarr", "tsne", {"clip": coords}, grid=(4, 4), groups=["all"])
    args = ["--from", "clip:0", "--to", "clip:1", "--concepts", 4, "--permutations", 10]
    found = open_store(done("transitions", lonely, "-o", tmp_path / "x.zarr", *args))
    assert found.read("members/all").min() > 50
    outliers = open_store(done("transitions", lonely, "-o", tmp_path / "y.zarr", *args, "--sparse", 0))
    assert outliers.read("members/all").min() <= 9


def test_a_two_dimensional_map_of_real_stores_is_drawn_with_arrows(tmp_path: Path, eigs: Path) -> None:
    flat = done("tsne", eigs, "-o", tmp_path / "t.zarr", "--dims", 2, "--n-sample", 100, "--iterations", 50)
    out = tmp_path / "out"
    args = ["--from", "tiny:0", "--to", "tiny:1", "--concepts", 3, "--permutations", 10, "--figures", out]
    result = aligncut("transitions", flat, "-o", tmp_path / "x.zarr", *args)
    assert result.code == 0, result.err
    for name in ("transitions.png", "trajectories-tiny.png"):
        assert np.asarray(Image.open(out / name)).std() > 5
    again = aligncut("transitions", flat, "-o", tmp_path / "x.zarr", *args)
    assert "up to date" in again.err


def test_an_interrupted_count_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aligncut_cli.stages.transitions.counting import PairCounter

    planted, masks = plant(tmp_path, n_images=12, layers=4)
    args = ["transitions", planted, "--from", "clip:3", "--to", "clip:5", "--along", "clip", "--masks", masks]
    args += ["--concepts", 3, "--radius", 3, "--permutations", 10]
    whole = done(*args, "-o", tmp_path / "whole.zarr")
    count, calls = PairCounter.count, []

    def stop(self: PairCounter, pair: Pair) -> TransitionResult:
        calls.append(pair)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return count(self, pair)

    with monkeypatch.context() as patch:
        patch.setattr(PairCounter, "count", stop)
        result = aligncut(*args, "-o", tmp_path / "x.zarr")
        assert result.code == 130
        assert "2 of 4 count" in result.err
    assert array_bytes(done(*args, "-o", tmp_path / "x.zarr")) == array_bytes(whole)


def test_blocks_of_a_parallel_phase_need_nothing_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is computed by a stage of its own, as another process would, and from the last to the first."""
    from aligncut_cli.stages.transitions import run as transitions

    planted, masks = plant(tmp_path, n_images=12, layers=4)
    args = ["transitions", planted, "--along", "clip", "--masks", masks, "--concepts", 3, "--permutations", 10]
    whole = done(*args, "-o", tmp_path / "whole.zarr")

    class Scattered:
        def __init__(self, build: Callable[[Work], Stage], work: Work) -> None:
            self.build, self.work = build, work

        def __getattr__(self, name: str) -> Any:
            return getattr(self.build(self.work), name)

        def phases(self) -> list[Phase[Any]]:
            return [self.scatter(at, phase) for at, phase in enumerate(self.build(self.work).phases())]

        def scatter(self, at: int, phase: Phase[Any]) -> Phase[Any]:
            def compute(index: int, block: object, data: object) -> None:
                last_to_first = range(len(phase.blocks))[::-1] if index == 0 else ()
                for place in last_to_first if phase.parallel else [index]:
                    own = self.build(self.work).phases()[at]
                    own.compute(place, own.blocks[place], data)

            return replace(phase, compute=compute)

    def run_stage(*given: Any, build: Callable[[Work], Stage], **more: Any) -> Outcome:
        return run_as_ever(*given, build=lambda work: Scattered(build, work), **more)

    run_as_ever = transitions.run_stage
    monkeypatch.setattr(transitions, "run_stage", run_stage)
    assert array_bytes(done(*args, "-o", tmp_path / "x.zarr")) == array_bytes(whole)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--from", "clip:3"], 2, "go together"),
        ([], 2, "--along"),
        (["--from", "clip:3", "--to", "clip:9"], 2, "not a slot"),
        (["--along", "mae"], 2, "no model 'mae'"),
        (["--along", "clip", "--token", "image-007"], 2, "IMAGE:ROW,COL"),
        (["--along", "clip", "--token", "nobody:1,1"], 2, "no image 'nobody'"),
        (["--along", "clip", "--token", "image-007:4,1"], 2, "outside"),
        (["--along", "clip", "--radius", "0"], 2, "radius"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    tmp_path: Path, planted: tuple[Path, Path], args: list[str], code: int, words: str
) -> None:
    result = aligncut("transitions", planted[0], "-o", tmp_path / "x.zarr", *args)
    assert result.code == code, result.err
    assert words in result.err


def test_a_control_is_said_in_table_csv_and_record(tmp_path: Path, planted: tuple[Path, Path]) -> None:
    coords = open_store(planted[0]).read("clip/coords")
    store = make_node_store(
        tmp_path / "t.zarr",
        "tsne",
        {"clip": coords},
        grid=(4, 4),
        groups=["all"],
        controls=["random targets"],
    )
    out = tmp_path / "out"
    args = ["--from", "clip:0", "--to", "clip:1", "--concepts", 3, "--permutations", 10, "--figures", out, "--json"]
    result = aligncut("transitions", store, "-o", tmp_path / "x.zarr", *args)
    assert result.code == 0, result.err
    assert json.loads(result.out)["concepts"] == 3
    assert "CONTROL" in result.err
    assert "random targets" in (out / "transitions.csv").read_text()
    assert open_store(tmp_path / "x.zarr").record["controls"] == ["random targets"]


def test_a_slot_at_one_place_has_no_concepts_and_stops_nothing(tmp_path: Path) -> None:
    """So are slots that an alignment left out: their nodes are all alike."""
    source, masks = plant(tmp_path, n_images=24, layers=3)
    coords = open_store(source).read("clip/coords")
    coords[2] = 5.0
    source = make_node_store(
        tmp_path / "u.zarr", "tsne", {"clip": coords}, grid=(4, 4), groups=["all"], layers=range(3, 6)
    )
    common = [source, "--concepts", 3, "--masks", masks, "--permutations", 20]
    result = aligncut("transitions", *common, "-o", tmp_path / "x.zarr", "--along", "clip")
    assert result.code == 0, result.err
    assert "without concepts, since all patches lie at fewer than 3 places: clip:5" in result.err
    store = open_store(tmp_path / "x.zarr")
    first, second = store.record["bifurcations"]
    assert first["bifurcation"] > 0.1
    assert second["r_to"] is None
    assert second["bifurcation"] == 0  # all tokens go nowhere, whatever they show
    refused = aligncut("transitions", *common, "-o", tmp_path / "y.zarr", "--from", "clip:4", "--to", "clip:5")
    assert refused.code == 2
    assert "at 1 places" in refused.err
