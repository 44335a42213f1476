"""`params`: the whole chain of a store, as TOML that is read back and as a paragraph that says what was done."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import aligncut, done, make_photos


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain of five commands that deviates from the paper where a test looks."""
    desk = tmp_path_factory.mktemp("chain")
    make_photos(desk / "photos", 12)
    np.save(desk / "r.npy", np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32))
    tiny = ["--model", "tiny=vit_tiny_patch16_224@64", "--weights", "tiny=random", "--layers", "0-1", "--workers", 0]
    done("extract", desk / "photos", "-o", desk / "f.zarr", *tiny)
    fit = ["--universal-dim", 8, "--epochs", 1, "--draws", 20]
    done("align", desk / "f.zarr", "-o", desk / "a.zarr", "--responses", desk / "r.npy", *fit)
    eigs = ["--alignment", desk / "a.zarr", "--n-eig", 4, "--n-sample", 100, "--neighbors", 7]
    done("eigs", desk / "f.zarr", "-o", desk / "e.zarr", *eigs)
    done("tsne", "-", "-o", desk / "t.zarr", "--n-sample", 60, "--iterations", 20, stdin=f"{desk / 'e.zarr'}\n")
    done("concepts", desk / "t.zarr", "--features", desk / "f.zarr", "--concepts", 3, "-o", desk / "concepts")
    return desk


def chain(*args: object) -> dict[str, list[dict[str, object]]]:
    result = aligncut("params", *args)
    assert result.code == 0, result.err
    return tomllib.loads(result.out)


def test_the_chain_holds_every_command_in_order_with_its_record(desk: Path) -> None:
    steps = chain(desk / "concepts")["steps"]
    assert [step["stage"] for step in steps] == ["extract", "align", "eigs", "tsne", "concepts"]
    for step in steps:
        shown = json.loads(aligncut("inspect", step["output"], "--json").out)
        assert step["digest"] == shown["digest"]
        assert step["version"] == shown["version"]
        assert step["software"] == shown["software"]
        assert step["params"] == {name: value for name, value in shown["params"].items() if value is not None}
        assert [item["digest"] for item in step["inputs"]] == [item["digest"] for item in shown["inputs"]]


def test_each_command_is_as_it_was_typed_and_makes_the_same_again(desk: Path) -> None:
    import shlex

    steps = chain(desk / "t.zarr")["steps"]
    for step in steps[:3]:
        words = shlex.split(str(step["command"]))
        again = aligncut(*words[1:])
        assert again.code == 0, again.err
        assert "is up to date" in again.err
    assert str(steps[3]["command"]).startswith("aligncut tsne - -o ")


def test_the_paragraph_says_what_was_done_and_what_deviates(desk: Path) -> None:
    text = aligncut("params", desk / "t.zarr", "--methods").out.strip()
    assert text == chain(desk / "t.zarr")["methods"]
    for part in (
        "Of 12 images,",
        "tiny (random weights)",
        "layers 0-1 only",
        "universal space of D' = 8 (Eq. 1)",
        "the responses of 6 voxels to 12 images (Eq. 2)",
        "(Eq. 10;",
        "D' = 8 in place of 768",
        "not at random",
        "by the 4 leading eigenvectors of the normalized affinity (Eq. 3)",
        "100 sampled nodes in place of 50,000",
        "the K = 7 nearest sampled nodes (Eq. 4)",
        "fitted on 60 sampled nodes",
        "computed by aligncut",
    ):
        assert part in text, part
    assert "lambda" not in text.split("Other than in the paper")[2], "what is as in the paper is no deviation"


def test_a_run_of_the_paper_deviates_in_nothing_but_what_its_formulas_leave_open() -> None:
    from aligncut_cli.params import AlignParams, EigsParams, ExtractParams, TsneParams, as_record
    from aligncut_cli.stages.params.paper import find_deviations

    paper = AlignParams(centre=False, start="random", select="loss")
    record = {"stage": "align", "kind": "alignment", "params": as_record(paper)}
    assert set(find_deviations(record)) == {"Eq. 6", "Eq. 8"}
    for stage, params in (("extract", ExtractParams()), ("eigs", EigsParams()), ("tsne", TsneParams())):
        assert find_deviations({"stage": stage, "kind": stage, "params": as_record(params)}) == {}
    assert set(find_deviations({**record, "params": as_record(AlignParams(control="shuffle"))})) == {
        "start", "select", "centre", "control", "Eq. 6", "Eq. 8",
    }  # fmt: skip


def test_a_chain_that_was_moved_is_found_and_what_is_lost_is_named(tmp_path: Path, desk: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("e.zarr", "t.zarr", "a.zarr"):
        shutil.copytree(desk / name, moved / name)
        record = moved / name / "zarr.json"
        record.write_text(record.read_text().replace(str(desk), "/nowhere"))
    found = chain(moved / "t.zarr")
    assert [step["stage"] for step in found["steps"]] == ["align", "eigs", "tsne"]
    assert [item["path"] for item in found["lost"]] == ["/nowhere/f.zarr"]
    assert "What led to /nowhere/f.zarr is not known" in aligncut("params", moved / "t.zarr", "--methods").out
    assert aligncut("params", tmp_path).code == 3


def test_several_stores_share_their_beginnings_and_json_says_the_same(desk: Path) -> None:
    both = json.loads(aligncut("params", desk / "t.zarr", desk / "concepts", "--json").out)
    assert [step["stage"] for step in both["steps"]] == ["extract", "align", "eigs", "tsne", "concepts"]
    assert both["methods"] == aligncut("params", desk / "t.zarr", desk / "concepts", "--methods").out.strip()
