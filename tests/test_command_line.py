"""The command line itself: help, options, configuration, pipes, and what it must not import."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from aligncut_cli import cli
from aligncut_cli.console import Console, Progress, format_table, readable_bytes, readable_seconds
from tests.conftest import TINY, aligncut, done, spawn

COMMANDS = sorted(typer.main.get_command(cli.app).commands)


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
sys.argv = ["aligncut", "--help"]
from aligncut_cli.cli import main
try:
    main()
except SystemExit:
    pass
heavy = {"torch", "timm", "zarr", "faiss", "numpy", "sklearn", "scipy", "matplotlib"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "extract" in process.stdout


def test_an_up_to_date_answer_imports_neither_torch_nor_zarr(features: Path, eigs: Path) -> None:
    code = f"""
import sys
sys.argv = ["aligncut", "eigs", {str(features)!r}, "-o", {str(eigs)!r},
            "--n-eig", "5", "--n-sample", "300", "--neighbors", "10"]
from aligncut_cli.cli import main
try:
    main()
except SystemExit as exit:
    assert exit.code == 0
heavy = {{"torch", "timm", "zarr", "faiss"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "up to date" in process.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_of_its_own(command: str) -> None:
    result = aligncut(command, "-h")
    assert result.code == 0
    assert re.search(rf"Example:\s+aligncut {command}\b", result.out), result.out
    assert all(len(line) <= 80 for line in result.out.splitlines()) or "COLUMNS" in result.out


def test_each_example_in_the_help_is_a_command_line_that_parses() -> None:
    for command in COMMANDS:
        text = re.sub(r"[│\s]+", " ", aligncut(command, "-h").out)
        example = re.search(rf"Example: aligncut {command} (.*?)(?: (?=[A-Z])|$|\. )", text)
        assert example, command
        parser = typer.main.get_command(cli.app).commands[command]
        options = {name for parameter in parser.params for name in parameter.opts}
        used = {word for word in example[1].split() if word.startswith("-") and word != "-"}
        assert used <= options, (command, used - options)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["eigs"], "Missing argument"),
        (["eigs", "f.zarr"], "--output"),
        (["eigs", "f.zarr", "-o", "e.zarr", "--n-eig", "0"], "--n-eig"),
        (["eigs", "f.zarr", "-o", "e.zarr", "--group", "image"], "--group"),
        (["nonsense"], "nonsense"),
        (["tsne", "e.zarr", "-o", "t.zarr", "--dims", "4"], "--dims"),
    ],
)
def test_usage_errors_exit_with_2(args: list[str], words: str) -> None:
    result = aligncut(*args)
    assert result.code == 2
    assert words in result.err


def test_configuration_gives_defaults_and_the_command_line_wins(tmp_path: Path, features: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("seed = 4\n[eigs]\nn-eig = 7\nneighbors = 3\n[tsne]\ndims = 2\n")
    args = ["eigs", features, "-o", tmp_path / "e.zarr", "--config", config, "-n", "--json"]
    assert aligncut(*args).code == 0
    output = done("eigs", features, "-o", tmp_path / "e.zarr", "--config", config, "--n-eig", 3, "--n-sample", 100)
    params = json.loads(aligncut("inspect", output, "--json").out)["params"]
    assert (params["seed"], params["n_eig"], params["neighbors"], params["n_sample"]) == (4, 3, 3, 100)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [("[eigs]\nn_eigs = 7", 2, "n_eigs"), ("n_eig = ", 3, "not a readable TOML"), (None, 3, "no such file")],
)
def test_a_wrong_configuration_is_refused(tmp_path: Path, text: str | None, code: int, words: str) -> None:
    config = tmp_path / "run.toml"
    if text is not None:
        config.write_text(text)
    result = aligncut("eigs", "f.zarr", "-o", tmp_path / "e.zarr", "--config", config)
    assert result.code == code, result.err
    assert words in result.err


def test_a_pipeline_passes_paths_from_stage_to_stage(tmp_path: Path, photos: Path) -> None:
    first = spawn(["extract", photos, "-o", tmp_path / "f.zarr", *TINY])
    second = spawn(["eigs", "-", "-o", tmp_path / "e.zarr", "--n-eig", 3], stdin=first.stdout)
    assert second.communicate()[0].strip() == str(tmp_path / "e.zarr"), second.stderr
    first.communicate()
    assert (tmp_path / "e.zarr" / "zarr.json").exists()


def test_a_failed_upstream_is_said_plainly(tmp_path: Path) -> None:
    result = aligncut("eigs", "-", "-o", tmp_path / "e.zarr", stdin="")
    assert result.code == 3
    assert "no path came through the pipe" in result.err


def test_nothing_heavy_is_imported_while_waiting_for_a_path(tmp_path: Path) -> None:
    code = f"""
import sys, threading
sys.argv = ["aligncut", "eigs", "-", "-o", {str(tmp_path / "e.zarr")!r}]
class Waiting:
    def isatty(self): return False
    def readline(self):
        heavy = {{"torch", "zarr", "faiss"}} & set(sys.modules)
        print("heavy", sorted(heavy), file=sys.stderr)
        return ""
sys.stdin = Waiting()
from aligncut_cli.cli import main
main()
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 3
    assert "heavy []" in process.stderr


def test_stdout_carries_the_result_only(tmp_path: Path, features: Path) -> None:
    result = aligncut("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 3)
    assert result.out == f"{tmp_path / 'e.zarr'}\n"
    as_json = json.loads(aligncut("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 3, "--json").out)
    assert as_json["state"] == "up to date"
    assert as_json["nodes"] == 1224


def test_an_unexpected_error_is_a_bug_and_shows_its_trace_only_when_asked(tmp_path: Path, monkeypatch) -> None:
    from aligncut_cli.stages.eigs import run as eigs

    monkeypatch.setattr(eigs, "run", lambda *args, **more: 1 / 0)
    quiet = aligncut("eigs", "f.zarr", "-o", tmp_path / "e.zarr")
    assert quiet.code == 1
    assert "bug" in quiet.err
    assert "Traceback" not in quiet.err
    assert "Traceback" in aligncut("eigs", "f.zarr", "-o", tmp_path / "e.zarr", "-v").err


def test_progress_says_count_rate_and_time_left(monkeypatch) -> None:
    progress = Progress("carry", "nodes", total=1000, done=200, already=200)
    progress.started -= 10
    progress.advance(100)
    assert progress.line().startswith("carry: 300 of 1,000 nodes, 1")
    assert "1 min 10 s left" in progress.line()


def test_a_heartbeat_is_printed_where_there_is_no_terminal(capsys, monkeypatch) -> None:
    import time

    monkeypatch.setattr("aligncut_cli.console.HEARTBEAT_SECONDS", 0.02)
    with Console().progress("extract", 10, unit="images") as progress:
        progress.advance(3)
        time.sleep(0.2)
    assert "extract: 3 of 10 images" in capsys.readouterr().err


def test_numbers_are_written_as_people_do() -> None:
    assert [readable_bytes(n) for n in (5, 1500, 10_900_000_000)] == ["5 B", "1.5 KB", "10.9 GB"]
    assert [readable_seconds(n) for n in (5, 65, 3700)] == ["5 s", "1 min 5 s", "1 h 1 min"]
    table = format_table(["name", "r"], [["all", 0.19612], ["V1", None]])
    assert table.splitlines() == ["name      r", "----  -----", "all   0.196", "V1        -"]
