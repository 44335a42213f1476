"""The README's commands, as they stand there, on a folder of small photos."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from aligncut_cli.store.kinds.base import IMAGES, Array
from aligncut_cli.store.kinds.every import KINDS
from tests.conftest import aligncut, make_photos

README = Path(__file__).resolve().parents[1] / "README.md"
# The paper's models need a download: the shipped ones stand in for them here, and small samples for large ones.
STAND_INS = {"clip": "demo-clip", "dino": "demo-dino", "mae": "demo-mae"}
SMALLER = {"eigs": ["--n-sample", "300", "--n-eig", "4"], "tsne": ["--n-sample", "200", "--iterations", "30"]}


def blocks() -> list[str]:
    found = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    return [block for block in found if "aligncut" in block and "venv" not in block]


def test_the_readme_has_the_two_commands_for_a_fresh_machine() -> None:
    text = README.read_text(encoding="utf-8")
    assert re.search(r"^python3 -m venv .*aligncut demo$", text, re.M)
    assert re.search(r"^python3 -m venv .*-m pytest$", text, re.M)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    make_photos(folder / "photos", 12, size=112)
    make_photos(folder / "new-photos", 3, seed=1, size=112)
    (folder / "responses").mkdir()
    responses = np.random.default_rng(0).standard_normal((12, 20)).astype(np.float32)
    np.save(folder / "responses" / "responses.npy", responses)
    (folder / "masks").mkdir()
    for photo in (folder / "photos").glob("*.png"):
        with Image.open(photo) as picture:
            mask = np.zeros(picture.size[::-1], dtype=np.uint8)
        mask[:, : mask.shape[1] // 2] = 1
        Image.fromarray(mask).save(folder / "masks" / photo.name)
    model = timm.create_model("vit_small_patch16_224", num_classes=0)
    save_file(model.state_dict(), folder / "checkpoint.safetensors")
    return folder


def test_every_command_block_runs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    count = 0
    for line in (line for block in blocks() for line in block.splitlines()):
        path = ""
        for command in line.split("|"):
            words = shlex.split(command)
            assert words[0] == "aligncut", line
            words = [re.sub(r"^(clip|dino|mae)(?=$|:)", lambda name: STAND_INS[name[1]], word) for word in words[1:]]
            if "--basis" not in words:
                words += SMALLER.get(words[0], [])
            result = aligncut(*words, stdin=path)
            assert result.code == 0, f"{line}\n{result.err}"
            path = result.out
            count += 1
    assert count >= 15
    assert (desk / "pictures" / "overview.png").exists()
    assert len(list((desk / "new-pictures").glob("photo-*.png"))) == 3


def table_of_arrays() -> str:
    """Every array of every kind, as the kinds declare them; `python -m tests.test_readme` prints it for the README."""
    lines = ["| kind | array | type | axes | what it is |", "|---|---|---|---|---|"]

    def add(kind: str, array: Array) -> None:
        name = array.name.replace("{", "<").replace("}", ">")
        about = f"{array.about} ({array.when})" if array.when else array.about
        lines.append(f"| {kind} | `{name}` | {array.dtype} | {', '.join(array.axes)} | {about} |")

    for kind in KINDS.values():
        for array in kind.arrays:
            if array not in IMAGES:
                add(kind.name, array)
    for array in IMAGES:
        add("all but alignment", array)
    return "\n".join(lines)


def test_the_readme_lists_every_array() -> None:
    assert table_of_arrays() in README.read_text(encoding="utf-8"), "python -m tests.test_readme prints the table"


if __name__ == "__main__":
    print(table_of_arrays())
