"""The plan of the house, held against the code's syntax trees: who may import whom, and who may spell array names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from aligncut_cli.store.kinds.every import KINDS

ROOT = Path(__file__).resolve().parents[1] / "aligncut_cli"
HEAVY = {"torch", "zarr", "numpy", "timm", "faiss", "scipy", "sklearn", "matplotlib"}
FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST, *, lazy: bool = True) -> Iterator[str]:
    """Modules that a tree imports; those only for types and those inside functions are left out on request."""
    for node in ast.iter_child_nodes(tree):
        if not lazy and (is_type_checking(node) or isinstance(node, ast.FunctionDef | ast.ClassDef)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else node.module for name in inside)
        else:
            yield from imports(node, lazy=lazy)


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
OURS = {name: {other for other in imports(tree) if other in FILES} for name, tree in TREES.items()}


def part(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def inside(package: str) -> list[str]:
    return [name for name in FILES if name == package or name.startswith(package + ".")]


def test_there_is_no_circle_even_among_imports_inside_functions() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(OURS[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in FILES:
        visit(name, ())


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("maths", {"maths", "errors", "controls"}),
        ("viz", {"viz", "errors", "controls"}),
        ("images", {"images", "errors", "digests"}),
        ("masks", {"masks", "images", "errors", "digests"}),
        ("brain", {"brain", "images", "errors", "digests"}),
        ("models", {"models", "maths", "errors", "digests"}),
        ("store", {"store", "errors", "controls", "digests", "params", "console", "machine", "__init__"}),
        ("api", {"api", "maths", "viz", "store", "stages", "errors", "params", "console", "machine"}),
        ("params", {"errors", "knobs"}),
        ("knobs", {"errors"}),
        ("console", {"errors"}),
        ("errors", set()),
        ("machine", set()),
        ("controls", set()),
        ("digests", {"errors"}),
    ],
)
def test_each_room_imports_only_what_lies_below_it(package: str, allowed: set[str]) -> None:
    for name in inside(f"aligncut_cli.{package}"):
        for other in OURS[name]:
            room = other.split(".")[1] if "." in other else "__init__"
            assert room in allowed, f"{name} imports {other}"


def test_nothing_imports_the_python_api_which_the_package_looks_up_by_name() -> None:
    for name, others in OURS.items():
        if name not in inside("aligncut_cli.api"):
            assert not others & set(inside("aligncut_cli.api")), name


def test_the_command_line_reaches_stages_through_their_light_files_only() -> None:
    for other in OURS["aligncut_cli.cli"]:
        if other.startswith("aligncut_cli.stages"):
            assert other.endswith(".run") or other == "aligncut_cli.stages.response_paths", other


def test_no_stage_imports_another_except_the_report_their_sections() -> None:
    for name in inside("aligncut_cli.stages"):
        own = part(name, 3)
        for other in OURS[name]:
            if (
                part(other, 2) == "aligncut_cli.stages"
                and FILES[other].parent.name != "stages"
                and part(other, 3) != own
            ):
                assert own == "aligncut_cli.stages.report", f"{name} imports {other}"
                assert other.endswith(".section"), f"{name} imports {other}"


def test_light_files_import_nothing_heavy_at_the_top() -> None:
    light = [name for name in FILES if name.startswith("aligncut_cli.stages.") and name.endswith(".run")]
    light += [f"aligncut_cli.{name}" for name in ("stages.inputs", "stages.response_paths", "params", "knobs")]
    light += inside("aligncut_cli.store.kinds")
    assert len(light) > 15
    for name in light:
        found = {part(other, 1) for other in imports(TREES[name], lazy=False)}
        assert not found & HEAVY, f"{name} imports {found & HEAVY}"


def test_only_the_command_line_and_its_options_know_typer() -> None:
    users = {name for name, tree in TREES.items() if "typer" in {part(other, 1) for other in imports(tree)}}
    assert users == {"aligncut_cli.cli", "aligncut_cli.options"}


def test_only_kinds_spell_array_names() -> None:
    """No text anywhere else is the path of an array, as it stands or after a model's name."""
    arrays = [array.name for kind in KINDS.values() for array in kind.arrays]
    whole = {name for name in arrays if "/" in name and "{" not in name}
    ends = {"/" + name.partition("/")[2] for name in arrays if name.startswith("{model}/") and "{" not in name[7:]}
    for name, tree in TREES.items():
        if name in inside("aligncut_cli.store.kinds"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                last = node.values[-1]
                assert not (isinstance(last, ast.Constant) and last.value in ends), f"{name}:{node.lineno}"
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in whole, f"{name}:{node.lineno}: {node.value}"


def test_no_file_is_longer_than_one_sentence_can_say() -> None:
    for name, path in FILES.items():
        if name not in ("aligncut_cli.cli", "aligncut_cli.demo.scenes"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 400, f"{name} has {lines} lines"
