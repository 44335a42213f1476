"""`aligncut_cli.run`: the very stores and errors of the command line, nothing printed; a package that loads at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

import aligncut_cli
from aligncut_cli import cli
from aligncut_cli.api.stages import STAGES
from aligncut_cli.errors import BadInput, OutputInTheWay, UsageError
from tests.conftest import array_bytes, done


def test_it_writes_what_the_command_writes_and_prints_nothing(
    features: Path, eigs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match="without an alignment"):  # which the command says on stderr
        outcome = aligncut_cli.run("eigs", features, tmp_path / "e.zarr", n_eig=5, n_sample=300, neighbors=10)
    assert (outcome.path, outcome.state) == (tmp_path / "e.zarr", "complete")
    assert array_bytes(outcome.path) == array_bytes(eigs)
    with pytest.warns(UserWarning, match="without an alignment"):  # and says again
        again = aligncut_cli.run("eigs", str(features), str(eigs), n_eig=5, n_sample=300, neighbors=10)
    assert again.state == "up to date"
    assert capfd.readouterr() == ("", "")


def test_every_command_that_writes_is_a_stage() -> None:
    commands = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert set(STAGES) == commands - {"demo", "inspect", "params"}


@pytest.mark.filterwarnings("ignore")
def test_further_inputs_go_by_name_through_the_whole_way(
    photos: Path, features: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = aligncut_cli.run
    np.save(tmp_path / "r.npy", np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32))
    (tmp_path / "rois.json").write_text('{"V1": [0, 1]}')
    fit = run(
        *("align", features, tmp_path / "a.zarr"),
        responses=tmp_path / "r.npy",
        rois=tmp_path / "rois.json",
        **{"universal_dim": 8, "epochs": 1, "nodes": 30, "validation_share": 0.2, "test_share": 0.2},
    )
    mapped = run("align", features, tmp_path / "u.zarr", apply=fit.path)
    assert mapped.path == done("align", features, "-o", tmp_path / "u.zarr", "--apply", tmp_path / "a.zarr")
    cut = run("eigs", features, tmp_path / "e.zarr", alignment=str(fit.path), n_eig=4, n_sample=100)
    assert cut.path == done(
        *("eigs", features, "-o", tmp_path / "e.zarr", "--alignment", fit.path, "--n-eig", 4, "--n-sample", 100)
    )
    map_ = run("tsne", cut.path, tmp_path / "t.zarr", n_sample=60, iterations=20)
    assert run("segment", [cut.path], tmp_path / "s.zarr", clusters=3).state == "complete"
    assert run("transitions", map_.path, tmp_path / "x.zarr", from_slot="tiny:0", to_slot="tiny:1").state == "complete"
    assert run("concepts", map_.path, tmp_path / "c", features=features, alignment=fit.path).state == "complete"
    assert run("compare", features, tmp_path / "similarity", n_sample=40).state == "complete"
    assert run("render", map_.path, tmp_path / "pictures", photos=photos, images=2).state == "complete"
    assert run("report", [cut.path, map_.path], tmp_path / "report", images=2, photos=photos).state == "complete"
    assert run("export", cut.path, tmp_path / "x.npy", model="tiny").summary["rows"] == 3 * 12 * 17
    assert capfd.readouterr().out == ""


def test_a_list_or_one_word_gives_a_repeated_option(photos: Path, tmp_path: Path) -> None:
    settings = {"weights": "random", "layers": "0", "workers": 0, "save": "pooled"}
    with pytest.warns(UserWarning, match="random weights"):
        one = aligncut_cli.run("extract", photos, tmp_path / "f.zarr", model="a=vit_tiny_patch16_224@64", **settings)
    assert done(
        *("extract", photos, "-o", one.path, "--model", "a=vit_tiny_patch16_224@64", "--weights", "random"),
        *("--layers", 0, "--workers", 0, "--save", "pooled"),
    )


@pytest.mark.parametrize(
    ("keywords", "error", "said"),
    [
        ({"n_egi": 3}, UsageError, "takes no n_egi"),
        ({"n_eig": 0}, UsageError, "--n-eig 0"),
        ({"n_eig": "3"}, UsageError, "expected int"),
        ({"alignment": "nowhere.zarr"}, BadInput, "no such store: nowhere.zarr"),
        ({"max_memory": "1M", "n_sample": 100}, aligncut_cli.errors.OutOfResources, "may be used"),
    ],
)
def test_errors_are_those_of_the_command_line(
    features: Path, tmp_path: Path, keywords: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        aligncut_cli.run("eigs", features, tmp_path / "e.zarr", **keywords)
    assert not list(tmp_path.iterdir())


def test_outputs_in_the_way_and_inputs_that_would_be_replaced_are_refused(features: Path, eigs: Path) -> None:
    with pytest.raises(OutputInTheWay, match="n_eig: 5 -> 6"):
        aligncut_cli.run("eigs", features, eigs, n_eig=6, n_sample=300, neighbors=10)
    with pytest.raises(UsageError, match="is the output"):
        aligncut_cli.run("eigs", features, features)
    with pytest.raises(UsageError, match="is the output"):
        aligncut_cli.run("eigs", features, eigs, alignment=eigs)


def test_a_wrong_stage_missing_or_surplus_inputs_are_told(features: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no stage 'eig'(.|\n)*extract"):
        aligncut_cli.run("eig", features, tmp_path / "e.zarr")
    with pytest.raises(UsageError, match="needs alignment"):
        aligncut_cli.run("activations", features, tmp_path / "act")
    with pytest.raises(UsageError, match="takes one input, not 2"):
        aligncut_cli.run("eigs", [features, features], tmp_path / "e.zarr")
    with pytest.raises(UsageError, match="go with responses"):
        aligncut_cli.run("align", features, tmp_path / "a.zarr", rois=tmp_path / "rois.json")
    with pytest.raises(UsageError, match="takes no epochs"):
        aligncut_cli.run("align", features, tmp_path / "u.zarr", apply=tmp_path / "a.zarr", epochs=3)


def test_the_package_loads_nothing_before_a_name_is_used() -> None:
    code = (
        "import sys, aligncut_cli\n"
        "print(sorted({'numpy', 'torch', 'xarray', 'zarr', 'typer'} & set(sys.modules)))\n"
        "print(set(aligncut_cli.LAZY) <= set(dir(aligncut_cli)))\n"
        "print(all(callable(getattr(aligncut_cli, name)) for name in aligncut_cli.LAZY))\n"
        "print(hasattr(aligncut_cli, 'nothing'))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["[]", "True", "True", "False"]
