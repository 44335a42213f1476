"""`extract` as a whole, against timm called by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from aligncut_cli.errors import UsageError
from aligncut_cli.stages.extract import layout
from aligncut_cli.stages.extract.batches import Batch
from aligncut_cli.stages.extract.layout import parse_layers
from aligncut_cli.stages.extract.phases import ExtractStage
from aligncut_cli.store.read import open_store
from tests.conftest import TINY, aligncut, array_bytes, done, make_photos


def by_hand(model: torch.nn.Module, photo: Path, size: int) -> np.ndarray:
    """Attention branch of every block for one photo, without hooks."""
    picture = Image.open(photo).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    mean, std = (np.array(model.pretrained_cfg[key]) for key in ("mean", "std"))
    x = torch.from_numpy(((np.asarray(picture) / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
    out = []
    with torch.inference_mode():
        x = model._pos_embed(model.patch_embed(x))
        for block in model.blocks:
            branch = block.ls1(block.attn(block.norm1(x)))
            out.append(branch[0].numpy())
            x = x + branch
            x = x + block.ls2(block.mlp(block.norm2(x)))
    return np.stack(out)


def test_tokens_and_means_are_those_of_the_attention_branch(tmp_path: Path, photos: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    output = done(
        *["extract", photos, "-o", tmp_path / "f.zarr", "--model", "m=vit_tiny_patch16_224@64"],
        *["--weights", f"m={tmp_path / 'w.safetensors'}", "--batch-size", 5],
    )
    store = open_store(output)
    expected = np.stack([by_hand(model, photo, 64) for photo in sorted(photos.glob("*.png"))], axis=1)
    tokens, pooled = store.read("m/tokens"), store.read("m/pooled")
    assert tokens.shape == expected.shape == (12, 12, 17, 192)
    np.testing.assert_allclose(tokens, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_allclose(pooled, expected.mean(axis=2), rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert store.record["models"] == ["m"]
    assert store.axes["m"].grid == (4, 4)
    assert store.axes["m"].class_token is True


def test_layers_and_sampled_tokens_are_those_of_the_whole(tmp_path: Path, photos: Path) -> None:
    whole = open_store(done("extract", photos, "-o", tmp_path / "f.zarr", *TINY)).read("tiny/tokens")
    some = open_store(
        done("extract", photos, "-o", tmp_path / "g.zarr", *TINY[:-1], "0,2", "--sample-tokens", 5, "--seed", 0)
    )
    token = some.read("tiny/token")
    assert token.shape == (12, 5)
    assert (np.diff(token, axis=1) > 0).all()
    assert len(np.unique(token)) > 5
    expected = np.take_along_axis(whole[[0, 2]], token[None, :, :, None], axis=2)
    assert np.array_equal(some.read("tiny/tokens"), expected)
    assert some.axes["tiny"].layers == (0, 2)


def test_sampled_tokens_depend_on_the_seed_and_not_on_the_other_images(tmp_path: Path, photos: Path) -> None:
    few = make_photos(tmp_path / "few", 3)
    chosen = [
        open_store(done("extract", folder, "-o", tmp_path / name, *TINY, "--sample-tokens", 4, "--seed", seed)).read(
            "tiny/token"
        )
        for folder, name, seed in ((photos, "a.zarr", 0), (few, "b.zarr", 0), (few, "c.zarr", 1))
    ]
    assert np.array_equal(chosen[0][:3], chosen[1])
    assert not np.array_equal(chosen[1], chosen[2])


def test_save_chooses_the_arrays(tmp_path: Path, photos: Path) -> None:
    for save, arrays in (("tokens", {"tokens"}), ("pooled", {"pooled"}), ("both", {"pooled", "tokens"})):
        store = open_store(done("extract", photos, "-o", tmp_path / f"{save}.zarr", *TINY, "--save", save))
        assert set(store.names("tiny")) == arrays


def test_workers_and_batches_leave_the_bytes_or_the_values(tmp_path: Path, photos: Path) -> None:
    stores = [
        done("extract", photos, "-o", tmp_path / f"{workers}.zarr", *TINY, "--workers", workers) for workers in (0, 2)
    ]
    assert array_bytes(stores[0]) == array_bytes(stores[1])
    one = done("extract", photos, "-o", tmp_path / "one.zarr", *TINY, "--batch-size", 1)
    a, b = (open_store(store).read("tiny/tokens").astype(np.float32) for store in (stores[0], one))
    np.testing.assert_allclose(a, b, atol=2e-3 * np.abs(a).max())


def test_a_stopped_run_goes_on_with_the_same_batches(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 1)  # a block per image, so that a batch has three
    command = ["extract", photos, *TINY, "--batch-size", 3, "--workers", 0]
    whole = done(*command, "-o", tmp_path / "whole.zarr")
    given: list[slice] = []
    write, select = ExtractStage._write_block, Batch.select

    def stop_at_second(self: ExtractStage, index: int, images: slice, batch: Batch) -> None:
        if index == 1 and not given:
            given.append(batch.images)
            raise KeyboardInterrupt
        write(self, index, images, batch)

    def watch(self: Batch, model: str, images: slice) -> object:
        given.append(self.images)
        return select(self, model, images)

    monkeypatch.setattr(ExtractStage, "_write_block", stop_at_second)
    assert aligncut(*command, "-o", tmp_path / "stopped.zarr").code == 130
    monkeypatch.setattr(Batch, "select", watch)
    stopped = done(*command, "-o", tmp_path / "stopped.zarr")
    assert given[:3] == [slice(0, 3)] * 3
    assert array_bytes(stopped) == array_bytes(whole)


def test_a_bad_image_is_named_before_any_work_and_skipped_when_asked(tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    whole = (folder / "photo-002.png").read_bytes()
    (folder / "photo-002.png").write_bytes(whole[: len(whole) // 2])
    refused = aligncut("extract", folder, "-o", tmp_path / "f.zarr", *TINY)
    assert refused.code == 3
    assert "photo-002.png" in refused.err
    assert "--skip-bad" in refused.err
    output = done("extract", folder, "-o", tmp_path / "f.zarr", *TINY, "--skip-bad", "--overwrite")
    store = open_store(output)
    assert list(store.read("images/id")) == ["photo-000", "photo-001", "photo-003"]
    assert "photo-002.png" in store.group["images"].attrs["skipped"][0]["path"]
    assert store.read("tiny/tokens").shape[1] == 3


def test_changed_pixels_are_noticed_and_a_moved_folder_is_not(tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "photos", 3)
    output = done("extract", folder, "-o", tmp_path / "f.zarr", *TINY)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert "up to date" in aligncut("extract", moved, "-o", output, *TINY).err
    make_photos(moved, 1, seed=5)
    refused = aligncut("extract", moved, "-o", output, *TINY)
    assert refused.code == 4
    assert "inputs" in refused.err


def test_random_weights_are_said_loudly_and_recorded(tmp_path: Path, photos: Path) -> None:
    result = aligncut("extract", photos, "-o", tmp_path / "f.zarr", *TINY, "-q")
    assert "random weights" in result.err
    assert open_store(result.path).axes["tiny"].attributes["weights"]["source"] == "random"


def test_weights_that_overflow_float16_are_named(tmp_path: Path, photos: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0)
    model.blocks[1].attn.proj.weight.data *= 1e8
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    weights = ["--model", "m=vit_tiny_patch16_224@64", "--weights", f"m={tmp_path / 'w.safetensors'}"]
    result = aligncut("extract", photos, "-o", tmp_path / "f.zarr", *weights)
    assert result.code == 3
    assert "model m, layer 1, image photo-000" in result.err


@pytest.mark.parametrize(
    ("text", "layers"),
    [("all", (0, 1, 2, 3)), ("0-2", (0, 1, 2)), ("3,1", (1, 3)), ("0-1, 3", (0, 1, 3)), ("2", (2,))],
)
def test_layers_read_as_people_write_them(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text, 4, "m") == layers


@pytest.mark.parametrize("text", ["4", "0-4", "", "a", "1-", "-1", "2-1"])
def test_layers_that_are_not_there_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_layers(text, 4, "m")


def settings_of(store: Path) -> dict[str, object]:
    attributes = open_store(store).axes["tiny"].attributes
    return {key: attributes[key] for key in ("site", "mean", "std", "interpolation", "image_size")}


def test_how_images_are_prepared_is_said_recorded_and_can_be_set(tmp_path: Path, photos: Path) -> None:
    plain = aligncut("extract", photos, "-o", tmp_path / "f.zarr", *TINY)
    assert "tiny: images 64 x 64, bicubic, mean 0.5 0.5 0.5, deviation 0.5 0.5 0.5" in plain.err
    assert settings_of(plain.path) == {
        "site": "attn", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "image_size": [64, 64]
    }  # fmt: skip
    asked = ["--mean", "0.1,0.2,0.3", "--std", "tiny=1,1,1", "--interpolation", "nearest", "--size", "tiny=80"]
    other = done("extract", photos, "-o", tmp_path / "g.zarr", *TINY, *asked)
    assert settings_of(other) == {
        "site": "attn", "mean": [0.1, 0.2, 0.3], "std": [1.0] * 3, "interpolation": "nearest", "image_size": [80, 80]
    }  # fmt: skip
    refused = aligncut("extract", photos, "-o", other, *TINY)
    assert refused.code == 4
    assert "settings" in refused.err


def test_mean_and_deviation_are_those_that_the_model_sees(tmp_path: Path, photos: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    output = done(
        *["extract", photos, "-o", tmp_path / "f.zarr", "--model", "m=vit_tiny_patch16_224", "--size", 64],
        *["--weights", f"m={tmp_path / 'w.safetensors'}", "--mean", "0.4,0.5,0.6", "--std", "0.3,0.2,0.1"],
    )
    model.pretrained_cfg.update(mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))
    expected = np.stack([by_hand(model, photo, 64) for photo in sorted(photos.glob("*.png"))], axis=1)
    tokens = open_store(output).read("m/tokens")
    np.testing.assert_allclose(tokens, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_a_site_is_recorded_and_the_default_keeps_the_digest(tmp_path: Path, photos: Path) -> None:
    plain = done("extract", photos, "-o", tmp_path / "f.zarr", *TINY)
    attention = aligncut("extract", photos, "-o", plain, *TINY, "--site", "attn")
    assert "up to date" in attention.err
    block = aligncut("extract", photos, "-o", plain, *TINY, "--site", "block")
    assert block.code == 4
    assert "taken at: None -> block" in block.err
    stores = {site: done("extract", photos, "-o", tmp_path / site, *TINY, "--site", site) for site in ("block", "mlp")}
    assert settings_of(stores["mlp"])["site"] == "mlp"
    tokens = {site: open_store(store).read("tiny/tokens").astype(np.float32) for site, store in stores.items()}
    first = open_store(plain).read("tiny/tokens").astype(np.float32)
    added = tokens["block"][1] - tokens["block"][0]
    np.testing.assert_allclose(first[1] + tokens["mlp"][1], added, atol=5e-3 * np.abs(tokens["block"]).max())
    wide = open_store(done("extract", photos, "-o", tmp_path / "qkv", *TINY, "--site", "qkv"))
    assert wide.read("tiny/tokens").shape == (3, 12, 17, 3 * 192)


def test_a_long_tmpdir_does_not_break_the_workers(
    tmp_path: Path, photos: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    output = done("extract", photos, "-o", tmp_path / "f.zarr", *TINY, "--workers", 2)
    assert np.array_equal(open_store(output).read("tiny/tokens"), open_store(features).read("tiny/tokens"))
    assert not list(long.iterdir())


def test_render_gives_no_advice_that_it_does_not_take(tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "photos", 3)
    f = done("extract", folder, "-o", tmp_path / "f.zarr", *TINY)
    e = done("eigs", f, "-o", tmp_path / "e.zarr", "--n-eig", 4)
    t = done("tsne", e, "-o", tmp_path / "t.zarr", "--iterations", 20)
    (folder / "photo-001.png").write_bytes(b"no picture")
    result = aligncut("render", t, "-o", tmp_path / "pictures")
    assert result.code == 3
    assert "photo-001.png" in result.err
    assert "--skip-bad" not in result.err
