"""examples/notebook.md: its blocks run in order as they stand there, and the pictures show what they say."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "notebook.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", NOTEBOOK.read_text(encoding="utf-8"), re.S)


def test_it_is_short() -> None:
    assert sum(bool(line.strip()) for block in blocks() for line in block.splitlines()) <= 40


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_photos_become_colours_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks():
        exec(block, names)
    for name in ("colours.png", "scores.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    found = names["scored"].summary  # type: ignore[attr-defined]
    assert f"{found['best_miou']}" in capfd.readouterr().out
    assert found["best_miou"] > found["shuffled_miou"]
    eigenvectors = np.load("clip.npy")
    assert eigenvectors.dtype == np.float32
    assert len(eigenvectors) == len(Path("clip.npy.ids.csv").read_text().splitlines()) - 1
