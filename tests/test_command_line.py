"""The command line itself: help, options, configuration, pipes, and what it must not import."""

from __future__ import annotations

import errno
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
    assert "…" not in result.out, "the name of an option is cut"


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


# streams, signals, errors of the system


def in_a_shell(line: str, store: Path, *, python: str = "") -> subprocess.CompletedProcess[str]:
    """Run a shell line in which CUT stands for the command line and STORE for a store."""
    start = python or f"{sys.executable} -m aligncut_cli"
    line = line.replace("CUT", start).replace("STORE", str(store))
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "line",
    [
        "CUT inspect STORE >&-",
        "CUT inspect STORE 2>&-",
        "CUT inspect STORE >&- 2>&- <&-",
        "CUT inspect STORE > /dev/full",
        "CUT inspect STORE 2> /dev/full",
        "CUT inspect STORE | head -c 0; exit ${PIPESTATUS[0]}",
        "CUT -h | head -c 0; exit ${PIPESTATUS[0]}",
        "CUT nosuch 2>&1 | head -c 0; test ${PIPESTATUS[0]} = 2",
        "PYTHONIOENCODING=ascii CUT inspect STORE",
    ],
)
def test_a_closed_full_or_narrow_stream_is_no_failure(tmp_path: Path, features: Path, line: str) -> None:
    store = tmp_path / "\u00e9t\u00e9.zarr"
    store.symlink_to(features)
    process = in_a_shell(line, store)
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert "Exception ignored" not in process.stderr
    if ">" not in line.replace("2>", "") and "|" not in line:
        assert "\u00e9t\u00e9.zarr: features" in process.stdout


def test_an_error_is_never_printed_as_the_result(tmp_path: Path) -> None:
    for line in ("CUT inspect STORE 2>&-", "CUT inspect STORE 2> /dev/full"):
        process = in_a_shell(line, tmp_path / "none.zarr")
        assert (process.returncode, process.stdout) == (3, "")


def test_a_result_that_cannot_be_printed_is_said_and_the_work_is_done(features: Path, eigs: Path) -> None:
    line = f"CUT eigs {features} -o STORE --n-eig 5 --n-sample 300 --neighbors 10 > /dev/full"
    process = in_a_shell(line, eigs)
    assert process.returncode == 0
    assert "up to date" in process.stderr
    assert "could not be printed" in process.stderr


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.2, 0.4, 0.8])
def test_ctrl_c_at_any_moment_of_the_start_is_no_traceback(features: Path, delay: float) -> None:
    import signal
    import time

    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import sys; print(flush=True);"
    code += f"sys.argv = ['aligncut', 'inspect', {str(features)!r}]; from aligncut_cli.__main__ import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 130, -signal.SIGINT), err  # Python gives the signal back just before its end
    assert "Traceback" not in err


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    code = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from aligncut_cli import cli
def slow(*args, **more):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(60)
cli.app = slow
cli.main()
"""
    import signal

    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for word in ("ready", "cleaning"):
        assert process.stdout.readline().strip() == word
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert "Traceback" not in process.communicate()[1]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), 5, "disk is full"),
        (OSError(errno.EFBIG, "File too large", "x"), 5, "ulimit -f"),
        (OSError(errno.EMFILE, "Too many open files", "x"), 5, "ulimit -n"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 5, "memory ran out"),
        (OSError(errno.EROFS, "Read-only file system", "x/y"), 3, "Read-only file system: x/y"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 3, "File name too long"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), 3, "Not a directory"),
        (FileExistsError(errno.EEXIST, "File exists", "x"), 3, "File exists"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 3, "no permission: x"),
        (ImportError("libx.so: failed to map segment from shared object"), 5, "memory ran out"),
        (RuntimeError("can't start new thread"), 5, "memory ran out"),
        (MemoryError(), 5, "memory ran out"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 3, "Broken pipe"),
    ],
)
def test_an_error_of_the_system_has_its_code_and_says_what_it_is(
    tmp_path: Path, monkeypatch, error: Exception, code: int, words: str
) -> None:
    from aligncut_cli.stages.eigs import run as eigs

    def fail(*args: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(eigs, "run", fail)
    result = aligncut("eigs", "f.zarr", "-o", tmp_path / "e.zarr")
    assert result.code == code
    assert words in result.err
    assert "bug" not in result.err


def test_an_output_under_a_file_or_with_an_endless_name_is_refused_plainly(tmp_path: Path, features: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file" / "e.zarr", tmp_path / ("x" * 300)):
        result = aligncut("eigs", features, "-o", output, "--n-eig", 3)
        assert result.code == 3, result.err


# nothing is claimed before it is checked, and inputs and outputs stay apart


def test_no_refusal_leaves_anything_behind(tmp_path: Path, features: Path, eigs: Path, tsne: Path) -> None:
    commands: list[list[object]] = [
        ["extract", tmp_path / "none", *TINY],
        ["extract", features.parent, *TINY],
        ["extract", eigs, "--model", "clipp"],
        ["eigs", features, "--n-eig", 10**6],
        ["eigs", features, "--roi", "V1"],
        ["eigs", features, "--alignment", features],
        ["eigs", eigs],
        ["tsne", features],
        ["render", eigs],
        ["segment", eigs],
        ["segment", eigs, "--masks", tmp_path],
        ["transitions", tsne, "--from", "nobody:1", "--to", "tiny:2"],
        ["transitions", tsne, "--along", "nobody"],
        ["align", features],
        ["align", features, "--responses", tmp_path],
        ["decode", features],
        ["decode", features, "--responses", tmp_path],
        ["decode", eigs, "--responses", tmp_path],
        ["compare", eigs],
        ["report", tmp_path],
    ]
    before = sorted(tmp_path.iterdir())
    for number, command in enumerate(commands):
        result = aligncut(*command, "-o", tmp_path / f"out-{number}")
        assert result.code in (2, 3, 4), (command, result.err)
        assert sorted(tmp_path.iterdir()) == before, command


@pytest.mark.parametrize("flag", ["--figures", "--photos", "--masks"])
def test_an_input_that_an_output_would_replace_is_refused_whatever_option_names_it(
    tmp_path: Path, eigs: Path, flag: str
) -> None:
    report = done("compare", _features_of(eigs), "-o", tmp_path / "out")
    inner = report / "masks"
    inner.mkdir()
    result = aligncut("segment", eigs, "-o", report, "--clusters", 3, flag, inner, "--overwrite")
    assert result.code == 2, result.err
    assert "lie" in result.err
    assert inner.is_dir()
    same = aligncut("segment", eigs, "-o", tmp_path / "s.zarr", "--clusters", 3, "--figures", eigs, "--overwrite")
    assert same.code == 2, same.err
    assert (eigs / "zarr.json").exists()


def _features_of(eigs: Path) -> Path:
    return Path(json.loads((eigs / "zarr.json").read_text())["attributes"]["aligncut"]["inputs"][0]["path"])
