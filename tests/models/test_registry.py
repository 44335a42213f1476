from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.models.registry import SHORT_NAMES, ModelSpec, parse_models, weights_identity
from aligncut_cli.store.kinds.every import reserved_names


def test_the_short_names_are_the_papers_models() -> None:
    clip, dino, mae = parse_models(["clip", "dino", "mae"], [])
    assert clip == ModelSpec("clip", "vit_base_patch16_clip_quickgelu_224.openai", 224, (), "hub")
    assert dino == ModelSpec("dino", "vit_base_patch14_reg4_dinov2.lvd142m", 196, (), "hub")
    assert mae == ModelSpec("mae", "vit_base_patch16_224.mae", 224, (), "hub")
    assert all(name == spec.name for name, spec in SHORT_NAMES.items())


def test_the_registry_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys; import aligncut_cli.models.registry, aligncut_cli.images.workers;"
        "bad = {'torch', 'timm', 'zarr', 'faiss'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_models_can_be_renamed_and_resized() -> None:
    options = ["vit_small_patch16_224", "a=clip", "b=vit_base_patch14_reg4_dinov2.lvd142m@224", "mae@160"]
    specs = parse_models(options, [])
    assert specs == [
        ModelSpec("vit_small_patch16_224", "vit_small_patch16_224"),
        ModelSpec("a", "vit_base_patch16_clip_quickgelu_224.openai", 224),
        ModelSpec("b", "vit_base_patch14_reg4_dinov2.lvd142m", 224),
        ModelSpec("mae", "vit_base_patch16_224.mae", 160),
    ]


@pytest.mark.parametrize(
    ("models", "weights", "expected"),
    [
        (["clip", "dino"], [], ["hub", "hub"]),
        (["clip", "dino"], ["random"], ["random", "random"]),
        (["clip", "dino"], ["dino=random"], ["hub", "random"]),
        (["clip", "dino"], ["random", "dino=d.pth"], ["random", "d.pth"]),
        (["clip", "dino"], ["dino=d.pth", "random"], ["random", "d.pth"]),
        (["clip"], ["w.safetensors"], ["w.safetensors"]),
        (["clip"], ["/data/a=b/w.pt"], ["/data/a=b/w.pt"]),
        (["clip"], ["clip=/data/a=b/w.pt"], ["/data/a=b/w.pt"]),
        (["demo-clip"], ["hub"], ["hub"]),
    ],
)
def test_weights_go_to_the_models_they_name(models: list[str], weights: list[str], expected: list[str]) -> None:
    assert [spec.weights for spec in parse_models(models, weights)] == expected


@pytest.mark.parametrize(
    ("models", "weights", "says"),
    [
        ([], [], "no model"),
        ([""], [], "not a model"),
        (["=clip"], [], "not a model"),
        (["a="], [], "not a model"),
        (["clip", "clip"], [], "two models are called 'clip'"),
        (["a=clip", "a=mae"], [], "two models are called 'a'"),
        (["a/b=clip"], [], "cannot be the name"),
        (["a..b=clip"], [], "cannot be the name"),
        ([".a=clip"], [], "cannot be the name"),
        (["_a=clip"], [], "cannot be the name"),
        (["a b=clip"], [], "cannot be the name"),
        (["hf-hub:timm/x"], [], "not a timm name"),
        (["./model.pt"], [], "not a timm name"),
        (["clip@big"], [], "not an input size"),
        (["clip@0"], [], "not an input size"),
        (["clip"], ["clpi=random"], "did you mean 'clip'"),
        (["clip"], ["clip="], "no file"),
        (["clip", "mae"], ["w.pt"], "which of the models"),
        (["clip"], ["clip=a.pt", "clip=b.pt"], "two entries"),
        (["clip"], ["random", "hub"], "both"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(models: list[str], weights: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_models(models, weights)


@pytest.mark.parametrize("name", sorted(reserved_names()))
def test_reserved_names_are_refused_with_an_alternative_that_works(name: str) -> None:
    with pytest.raises(UsageError, match="taken by a part of the stores") as caught:
        parse_models([f"{name}=mae"], [], reserved=reserved_names())
    alternative = caught.value.do.split("--model ")[1]
    assert parse_models([alternative], [], reserved=reserved_names())[0].timm_name == SHORT_NAMES["mae"].timm_name


def test_the_identity_of_a_file_is_its_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.bin", tmp_path / "b.bin"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    identities = [
        weights_identity(spec, seed=0) for path in (first, second) for spec in parse_models(["clip"], [str(path)])
    ]
    assert identities[0] == identities[1] == {"source": "file", "sha256": hashlib.sha256(b"weights").hexdigest()}
    second.write_bytes(b"other")
    assert weights_identity(parse_models(["clip"], [str(second)])[0], seed=0) != identities[0]


def test_the_identity_of_random_weights_is_the_seed_and_of_hub_weights_the_name() -> None:
    assert weights_identity(parse_models(["mae"], ["random"])[0], seed=3) == {"source": "random", "seed": 3}
    assert weights_identity(parse_models(["mae"], [])[0], seed=3) == {"source": "hub", "id": "vit_base_patch16_224.mae"}


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    spec = parse_models(["mae"], [str(tmp_path / "none.pt")])[0]
    with pytest.raises(BadInput, match=r"(?s)'mae'.*none\.pt.*No such file.*--weights mae=random"):
        weights_identity(spec, seed=0)
