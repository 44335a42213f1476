"""Ended at every single file operation, each time in a process of its own: nothing is lost or left in the way."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput, OutputInTheWay, UsageError
from aligncut_cli.params import RunOptions
from aligncut_cli.store import run as protocol
from aligncut_cli.store.phases import Phase, Stage, run_stage, single_step
from aligncut_cli.store.provenance import Identity, InputRecord, read_record
from aligncut_cli.store.run import Outcome, Plan, Work

N_BLOCKS = 3
KILLED = 9
OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "ctypes.dlopen")


class Pages:
    """A stage that writes a folder of text files, whose content says which run made them."""

    def __init__(self, work: Work, text: str, hook: Callable[[int], None] = lambda index: None) -> None:
        self.work, self.text, self.hook = work, text, hook

    def phases(self) -> Sequence[Phase[Any]]:
        pages: Phase[int] = Phase("pages", range(N_BLOCKS), self._write)
        return [single_step("cover", lambda: self._write(99, 99, None)), pages]

    def _write(self, index: int, number: int, data: None) -> None:
        self.hook(number)
        folder = self.work.staging / "pages"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.txt").write_text(f"{self.text} {number}")

    def plan(self) -> Plan:
        return Plan(0, 0)

    def finish(self) -> Outcome:
        return self.work.finish()


def make(
    output: Path,
    text: str,
    *,
    overwrite: bool = False,
    inputs: Sequence[Path] = (),
    records: Sequence[InputRecord] = (),
    hook: Callable[[int], None] = lambda index: None,
) -> Outcome:
    identity = Identity("pages", 1, "folder", {"text": text}, records)

    def build(work: Work) -> Stage:
        return Pages(work, text, hook)

    options = RunOptions(output=output, overwrite=overwrite)
    return run_stage(identity, options, Console(quiet=True), inputs=list(inputs), build=build)


def content(output: Path) -> dict[str, str]:
    return {
        file.relative_to(output).as_posix(): file.read_text()
        for file in sorted(output.rglob("*"))
        if file.is_file() and file.name != "aligncut.json"
    }


def expected(text: str) -> dict[str, str]:
    return {f"pages/{n}.txt": f"{text} {n}" for n in (*range(N_BLOCKS), 99)}


_armed: dict[str, Any] = {"left": None, "counted": 0, "folder": ""}


def _watch(event: str, args: tuple[object, ...]) -> None:
    if _armed["left"] is None or event not in OPERATIONS:
        return
    if event == "ctypes.dlopen" or _armed["folder"] in str(args[0]):
        _armed["counted"] += 1
        if _armed["counted"] == _armed["left"]:
            os._exit(KILLED)


sys.addaudithook(_watch)


def killed_at(operation: int, folder: Path, action: Callable[[], object]) -> bool:
    """Run an action in a child process that ends, without any cleaning up, before its n-th file operation."""
    child = os.fork()
    if child == 0:
        _armed.update(left=operation, counted=0, folder=str(folder))
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"exit {code} at operation {operation}"
    return code == KILLED


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def exchanged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With the exchange of two names in one step, and as on systems that have none."""
    if not request.param:
        monkeypatch.setattr(protocol, "exchange", lambda new, old: False)
    return bool(request.param)


def each_crash(folder: Path, prepare: Callable[[Path], None], action: Callable[[Path], object]) -> list[Path]:
    """Give the output as it stands after a crash at each operation in turn."""
    outputs = []
    for operation in range(1, 1000):
        output = folder / f"at-{operation}" / "out"
        output.parent.mkdir()
        prepare(output)
        if not killed_at(operation, output.parent, lambda output=output: action(output)):
            break
        outputs.append(output)
    assert len(outputs) > 20
    return outputs


def test_a_first_run_that_is_killed_anywhere_is_finished_by_the_same_command(tmp_path: Path) -> None:
    for output in each_crash(tmp_path, lambda output: None, lambda output: make(output, "a")):
        if output.exists():
            assert content(output) == expected("a")
        make(output, "a")
        assert content(output) == expected("a")
        assert [path.name for path in output.parent.iterdir()] == ["out"], output


def test_an_overwriting_run_that_is_killed_anywhere_leaves_the_old_or_the_new(tmp_path: Path, exchanged: bool) -> None:
    def prepare(output: Path) -> None:
        make(output, "a")

    for output in each_crash(tmp_path, prepare, lambda output: make(output, "b", overwrite=True)):
        if exchanged:
            assert content(output) in (expected("a"), expected("b")), output
        make(output, "b", overwrite=True)
        assert content(output) == expected("b"), output
        assert [path.name for path in output.parent.iterdir()] == ["out"], output


def test_markers_never_outlive_the_data(tmp_path: Path, exchanged: bool) -> None:
    """After a kill anywhere the output is moved away, or asked for anew, or another one is: always whole and right."""

    def prepare(output: Path) -> None:
        make(output, "a")

    crashes = each_crash(tmp_path, prepare, lambda output: make(output, "a", overwrite=True))
    for number, output in enumerate(crashes):
        if number % 3 == 0 and output.exists():
            output.rename(output.with_name("moved"))
            make(output, "a")
        elif number % 3 == 1:
            make(output, "a", overwrite=True)
        else:
            make(output, "c", overwrite=True)
        assert content(output) == expected("c" if number % 3 == 2 else "a"), output
        assert read_record(output)


def test_an_output_that_has_been_replaced_is_never_taken_for_the_new_one(tmp_path: Path) -> None:
    """Both have one digest; the old one was damaged, which is why it is made anew."""

    def prepare(output: Path) -> None:
        make(output, "a")
        (output / "pages" / "0.txt").write_text("damaged")

    for output in each_crash(tmp_path, prepare, lambda output: make(output, "a", overwrite=True)):
        make(output, "a", overwrite=True)
        assert content(output) == expected("a"), output


def test_another_runs_work_that_is_killed_while_it_is_cleared_counts_for_nothing(tmp_path: Path) -> None:
    def stop(index: int) -> None:
        if index == 2:
            raise KeyboardInterrupt

    def prepare(output: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            make(output, "a", hook=stop)

    for number, output in enumerate(each_crash(tmp_path, prepare, lambda output: make(output, "b", overwrite=True))):
        text = "ab"[number % 2]
        make(output, text, overwrite=True)
        assert content(output) == expected(text), output


def test_files_that_go_missing_from_unfinished_work_are_noticed(tmp_path: Path) -> None:
    output = tmp_path / "out"

    def lose(index: int) -> None:
        if index == 2:
            (tmp_path / "out.wip/store/pages/0.txt").unlink()

    with pytest.raises(BadInput, match="lost 1 files"):
        make(output, "a", hook=lose)
    make(output, "a")
    assert content(output) == expected("a")


# what is not ours


@pytest.mark.parametrize("name", ["notes.txt", "pages/notes.txt", "sub/e.zarr/zarr.json", "aligncut.json.bak"])
def test_what_others_put_into_an_output_is_never_deleted(tmp_path: Path, name: str) -> None:
    output = tmp_path / "out"
    make(output, "a")
    mine = output / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(OutputInTheWay, match=name):
        make(output, "b", overwrite=True)
    assert mine.read_text() == "mine"
    assert make(output, "a").state == "up to date"


def test_a_link_in_an_output_is_neither_followed_nor_removed(tmp_path: Path) -> None:
    output, target = tmp_path / "out", tmp_path / "target"
    make(output, "a")
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    shutil.rmtree(output / "pages")
    (output / "pages").symlink_to(target)
    with pytest.raises(OutputInTheWay):
        make(output, "b", overwrite=True)
    assert (target / "thesis.txt").read_text() == "mine"


def test_what_is_put_into_an_output_while_its_successor_is_made_stays(tmp_path: Path) -> None:
    output = tmp_path / "out"
    make(output, "a")
    with pytest.raises(OutputInTheWay, match="late"):
        make(output, "b", overwrite=True, hook=lambda index: (output / "late.txt").write_text("mine"))
    assert (output / "late.txt").read_text() == "mine"
    (output / "late.txt").unlink()
    make(output, "b", overwrite=True)
    assert content(output) == expected("b")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("names", [["thesis.txt"], ["thesis.txt", "record.json"], ["lock"], ["store/zarr.json"]])
def test_a_folder_that_is_called_as_our_place_of_work_is_left_alone(
    tmp_path: Path, names: list[str], overwrite: bool
) -> None:
    for name in names:
        (tmp_path / "out.wip" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out.wip" / name).write_text("mine")
    with pytest.raises(OutputInTheWay):
        make(tmp_path / "out", "a", overwrite=overwrite)
    assert all((tmp_path / "out.wip" / name).read_text() == "mine" for name in names)


def test_an_input_in_the_output_and_an_output_in_an_input_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "a", "a")
    make(tmp_path / "a.wip-not", "a")
    for output, source in [("a", "a"), ("a/b", "a"), (".", "a"), ("x", "x.wip/store"), ("a", "a/inner")]:
        with pytest.raises(UsageError):
            make(tmp_path / output, "b", inputs=[tmp_path / source], overwrite=True)
    for name in ("..", "/", "x.wip", "nul\0"):
        with pytest.raises(UsageError):
            make(Path(name), "a")


# inputs, refusals


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_input_that_is_replaced_while_it_is_read_is_noticed(tmp_path: Path, at: int) -> None:
    make(tmp_path / "input", "x")
    record = tmp_path / "input" / "aligncut.json"
    item = InputRecord(str(tmp_path / "input"), "folder", "d", files=(record,))

    def replace(index: int) -> None:
        if index == at:
            make(tmp_path / "input", "y", overwrite=True)

    with pytest.raises(BadInput, match="replaced or changed"):
        make(tmp_path / "out", "a", records=[item], hook=replace)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / f"out.wip/done/pages.{at}").exists()


def test_a_changed_photo_is_noticed_at_the_end_and_nothing_of_the_run_counts(tmp_path: Path) -> None:
    photos = [tmp_path / "1.png", tmp_path / "2.png"]
    for photo in photos:
        photo.write_text("before")
    item = InputRecord(str(tmp_path), "images", "d", files=tuple(photos))
    with pytest.raises(BadInput, match="replaced or changed"):
        make(tmp_path / "out", "a", records=[item], hook=lambda index: photos[0].write_text("after it"))
    seen: list[int] = []
    make(tmp_path / "out", "a", records=[item], hook=seen.append)
    assert len(seen) == N_BLOCKS + 1


def test_a_refused_stage_leaves_nothing_and_work_without_a_finished_block_is_in_nobodys_way(tmp_path: Path) -> None:
    def refuse(work: Work) -> Stage:
        raise UsageError("no")

    with pytest.raises(UsageError):
        run_stage(
            Identity("pages", 1, "folder", {}),
            RunOptions(output=tmp_path / "out"),
            Console(quiet=True),
            inputs=[],
            build=refuse,
        )
    assert list(tmp_path.iterdir()) == []

    def stop(index: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "out", "a", hook=stop)
    make(tmp_path / "out", "b")
    assert content(tmp_path / "out") == expected("b")


def test_folders_that_are_called_like_our_fragments_stay(tmp_path: Path) -> None:
    def write(index: int) -> None:
        (tmp_path / "out.wip/store/x.partial").mkdir(exist_ok=True)
        (tmp_path / "out.wip/store/x.partial/page.txt").write_text("page")
        if index == 1 and not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "out", "a", hook=write)
    make(tmp_path / "out", "a", hook=write)
    assert content(tmp_path / "out") == expected("a") | {"x.partial/page.txt": "page"}
