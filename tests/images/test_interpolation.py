"""Photos are resized for each model as timm says its weights want it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from aligncut_cli.images.decode import Copy, decode_image
from aligncut_cli.models.backbone import load_backbone
from aligncut_cli.models.registry import SHORT_NAMES, ModelSpec
from aligncut_cli.stages.extract.run import BILINEAR
from aligncut_cli.store.read import open_store
from tests.conftest import done, make_photos

MIIL = "vit_base_patch16_224_miil"


def stretch(values: NDArray[np.float64], size: int, *, axis: int) -> NDArray[np.float64]:
    """The slow twin of bilinear reduction: a triangle as wide as the reduction, so that it averages; one axis."""
    scale = max(1.0, values.shape[axis] / size)
    places = (np.arange(values.shape[axis]) + 0.5) * size / values.shape[axis]
    rows = []
    for target in range(size):
        weight = np.maximum(0, 1 - np.abs(places - target - 0.5) * values.shape[axis] / size / scale)
        rows.append(np.tensordot(weight / weight.sum(), values, (0, axis)))
    return np.stack(rows, axis)


def test_each_copy_is_resized_by_its_own_interpolation(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    plain, cubic, linear = decode_image(tmp_path / "a.png", [(20, 30), Copy(20, 30), Copy(20, 30, "bilinear")])
    np.testing.assert_array_equal(plain, cubic)
    expected = stretch(stretch(pixels.astype(float), 30, axis=1), 20, axis=0)
    assert np.abs(linear - expected).max() <= 1.0
    assert np.abs(cubic - expected).max() > 5


def test_the_digest_knows_every_vit_of_timm_that_is_not_bicubic() -> None:
    import timm
    from timm.models import get_pretrained_cfg

    names = [
        name
        for name in {*timm.list_models(), *timm.list_models(pretrained=True)}
        if name.startswith(("vit_", "deit", "flexivit"))
    ]
    assert len(names) > 400
    for name in names:
        config = get_pretrained_cfg(name)
        wanted = "bicubic" if config is None else config.interpolation
        known = "bilinear" if name.partition(".")[0].endswith(BILINEAR) else "bicubic"
        assert known == wanted, name
    assert not [spec.timm_name for spec in SHORT_NAMES.values() if spec.timm_name.partition(".")[0].endswith(BILINEAR)]


@pytest.mark.parametrize(("timm_name", "expected"), [(MIIL, "bilinear"), ("vit_base_patch16_224", "bicubic")])
def test_extract_gives_a_model_what_its_weights_want_and_records_it(
    tmp_path: Path, timm_name: str, expected: str
) -> None:
    photos = make_photos(tmp_path / "photos", 2)
    args = ["--model", f"v={timm_name}@32", "--weights", "random", "--layers", "0", "--workers", 0]
    store = open_store(done("extract", photos, "-o", tmp_path / "f.zarr", *args))
    assert store.group["v"].attrs["interpolation"] == expected
    named = store.record["extra"].get("interpolation")
    assert named == ({"v": "bilinear"} if expected == "bilinear" else None)
    spec = ModelSpec("v", timm_name, 32, weights="random")
    backbone = load_backbone(spec, layers=[0], seed=0, device=torch.device("cpu"))
    for how in ("bilinear", "bicubic"):
        paths = [Path(str(path)) for path in store.read("images/path")]
        stack = np.stack([decode_image(path, [Copy(32, 32, how)])[0] for path in paths])
        tokens = backbone.extract(torch.from_numpy(stack).permute(0, 3, 1, 2)).tokens.numpy()
        assert np.allclose(tokens, store.read("v/tokens"), atol=1e-3) == (how == expected), how
