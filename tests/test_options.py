"""Paths and configuration files as people type and write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligncut_cli.options import expand_home
from tests.conftest import TINY, aligncut, done


def test_the_home_folder_is_known_in_every_path_that_is_typed(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "photos").symlink_to(photos)
    (home / "run.toml").write_text('seed = 1\nweights = ["tiny=random"]\noutput = "~/f.zarr"\n')
    output = done("extract", "~/photos", "--config", "~/run.toml", *TINY[:2], "--layers", "0")
    assert output == home / "f.zarr"
    assert (
        "up to date" in aligncut("extract", "~/photos", "-o", "~/f.zarr", "--seed", 1, *TINY[:4], "--layers", "0").err
    )
    missing = aligncut("extract", "~/photos", "-o", "~/g.zarr", *TINY[:2], "--weights", "tiny=~/w.pt")
    assert missing.code == 3
    assert f"{home}/w.pt" in missing.err


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("~/a", "/h/a"),
        (Path("~/a"), Path("/h/a")),
        ("run=~/e.zarr", "run=/h/e.zarr"),
        (["x", "~/y"], ["x", "/h/y"]),
        ("a~b", "a~b"),
        ("x=a~/b", "x=a~/b"),
        ("~nobody-of-this-name/a", "~nobody-of-this-name/a"),
        (3, 3),
        (None, None),
    ],
)
def test_only_what_begins_with_a_tilde_is_expanded(
    value: object, expanded: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert expand_home(value) == expanded


def test_a_byte_order_mark_before_toml_is_no_key(tmp_path: Path, features: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_bytes(b"\xef\xbb\xbf" + b"n-eig = 3\n")
    result = aligncut("eigs", features, "-o", tmp_path / "e.zarr", "-n", "--config", config)
    assert result.code == 0, result.err


def test_a_key_at_the_top_of_a_file_applies_where_it_exists_and_a_word_that_no_command_has_is_refused(
    tmp_path: Path, features: Path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text('n_eig = 3\ndims = 2\nperplexity = 5.0\nalong = ["tiny"]\n')
    result = aligncut("eigs", features, "-o", tmp_path / "e.zarr", "-n", "--config", config)
    assert result.code == 0, result.err
    config.write_text("n_eig = 3\nno_such_option = 2\n")
    assert "no option 'no_such_option'" in aligncut("eigs", features, "-o", tmp_path / "e.zarr", "--config", config).err
    config.write_text("[eigs]\nperplexity = 5.0\n")
    assert aligncut("eigs", features, "-o", tmp_path / "e.zarr", "--config", config).code == 2
