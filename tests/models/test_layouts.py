"""Checkpoints in the layouts that people have, against the same values loaded under timm's own names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.models.backbone import describe_backbone, load_backbone
from aligncut_cli.models.build import build_model
from aligncut_cli.models.registry import ModelSpec, Preprocessing, parse_models, weights_identity
from aligncut_cli.models.weights import load_checkpoint, load_model, preprocessing_of
from tests.models.test_weights import CLIP, DINO, PLAIN, SIZE, SMALL, another_state, check_loaded, run_advice

State = dict[str, torch.Tensor]
IMAGENET, HALF = (0.485, 0.456, 0.406), (0.5, 0.5, 0.5)
BEIT = ModelSpec("beit", "beit_base_patch16_224", SIZE, SMALL, "random")
DINO3 = ModelSpec("dino3", "vit_small_patch16_dinov3", SIZE, SMALL, "random")
SIGLIP = ModelSpec("siglip", "vit_base_patch16_siglip_224", SIZE, SMALL, "random")
UNTAGGED = ModelSpec("v", "vit_small_patch16_224", SIZE)


def split_qkv(state: State, names: tuple[str, str, str], *, inside: str) -> State:
    """Queries, keys and values as three layers, as Hugging Face has them."""
    out: State = {}
    for key, value in state.items():
        if ".attn.qkv." not in key:
            out[key] = value
            continue
        block, kind = key.split(".attn.qkv.")
        for name, part in zip(names, value.chunk(3), strict=True):
            out[f"{block}.{inside}.{name}.{kind}"] = part.clone()
    return out


def renamed(state: State, *pairs: tuple[str, str]) -> State:
    out: State = {}
    for key, value in state.items():
        for old, new in pairs:
            key = key.replace(old, new)
        out[key] = value
    return out


VIT_NAMES = (
    ("blocks.", "encoder.layer."), ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("cls_token", "embeddings.cls_token"), ("pos_embed", "embeddings.position_embeddings"),
    (".norm1.", ".layernorm_before."), (".norm2.", ".layernorm_after."), (".attn.proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."), (".mlp.fc2.", ".output.dense."),
)  # fmt: skip
QUERY = ("query", "key", "value")


def hugging_face_vit(state: State, start: str = "vit.") -> State:
    named = renamed(split_qkv(state, QUERY, inside="attention.attention"), *VIT_NAMES)
    named = {key: value for key, value in named.items() if not key.startswith("norm.")}
    return {start + key: value for key, value in named.items()} | {"classifier.weight": torch.zeros(3, 16)}


def hugging_face_clip(state: State) -> State:
    names = (
        ("blocks.", "encoder.layers."), ("patch_embed.proj.", "embeddings.patch_embedding."),
        ("pos_embed", "embeddings.position_embedding.weight"), ("cls_token", "embeddings.class_embedding"),
        ("norm_pre.", "pre_layrnorm."), (".norm1.", ".layer_norm1."), (".norm2.", ".layer_norm2."),
        (".attn.proj.", ".self_attn.out_proj."),
    )  # fmt: skip
    named = renamed(split_qkv(state, ("q_proj", "k_proj", "v_proj"), inside="self_attn"), *names)
    named = {key: value for key, value in named.items() if not key.startswith(("norm.", "head", "attn_pool"))}
    for key in ("embeddings.class_embedding", "embeddings.position_embedding.weight"):
        if key in named:
            named[key] = named[key].squeeze(0).squeeze(0) if "class" in key else named[key].squeeze(0)
    named["embeddings.position_ids"] = torch.arange(17)[None]
    text = {"text_model.encoder.layers.0.layer_norm1.weight": torch.zeros(8), "logit_scale": torch.zeros(())}
    return {f"vision_model.{key}": value for key, value in named.items()} | text


def hugging_face_dino(state: State, start: str = "dinov2.") -> State:
    names = (
        *VIT_NAMES[:4],
        *VIT_NAMES[6:7],
        (".ls1.gamma", ".layer_scale1.lambda1"),
        (".ls2.gamma", ".layer_scale2.lambda1"),
    )
    named = renamed(split_qkv(state, QUERY, inside="attention.attention"), *names)
    named["embeddings.register_tokens"] = named.pop("reg_token")
    # timm adds the class token's position to it beforehand, and keeps no place for it.
    positions = named["embeddings.position_embeddings"]
    first = torch.full_like(positions[:, :1], 0.25)
    named["embeddings.position_embeddings"] = torch.cat([first, positions], dim=1)
    named["embeddings.cls_token"] = named["embeddings.cls_token"] - first
    return {start + key: value for key, value in named.items()} | {start + "embeddings.mask_token": torch.zeros(1, 16)}


def hugging_face_beit(state: State) -> State:
    named: State = {}
    for key, value in state.items():
        if key.endswith((".q_bias", ".v_bias")):
            which = "query" if key.endswith("q_bias") else "value"
            key = key[: -len("attn.q_bias")] + f"attention.attention.{which}.bias"
        named[key] = value
    named = renamed(
        split_qkv(named, QUERY, inside="attention.attention"),
        (
            ".attn.relative_position_bias_table",
            ".attention.attention.relative_position_bias.relative_position_bias_table",
        ),
        (".gamma_", ".lambda_"),
        *VIT_NAMES,
    )
    return {f"beit.{key}": value for key, value in named.items()}


def hugging_face_dino3(state: State) -> State:
    names = (
        ("blocks.", "layer."), ("patch_embed.proj.", "embeddings.patch_embeddings."),
        ("cls_token", "embeddings.cls_token"), ("reg_token", "embeddings.register_tokens"),
        (".gamma_1", ".layer_scale1.lambda1"), (".gamma_2", ".layer_scale2.lambda1"),
        (".attn.proj.", ".attention.o_proj."), (".mlp.fc1.", ".mlp.up_proj."), (".mlp.fc2.", ".mlp.down_proj."),
    )  # fmt: skip
    named = renamed(split_qkv(state, ("q_proj", "k_proj", "v_proj"), inside="attention"), *names)
    return named | {"embeddings.mask_token": torch.zeros(1, 1, 16)}


def chunked(state: State, size: int = 1) -> State:
    """DINOv2's training code: blocks in chunks, each numbered on from the one before."""
    out: State = {}
    for key, value in state.items():
        first, *rest = key.split(".")
        out[".".join([first, str(int(rest[0]) // size), *rest]) if first == "blocks" else key] = value
    return out


LAYOUTS: dict[str, tuple[ModelSpec, Any]] = {
    "huggingface ViT": (PLAIN, hugging_face_vit),
    "huggingface ViT without prefix": (PLAIN, lambda state: hugging_face_vit(state, "")),
    "huggingface MAE": (
        PLAIN,
        lambda state: hugging_face_vit(state) | {"decoder.decoder_pos_embed": torch.zeros(1, 17, 8)},
    ),
    "huggingface CLIP": (CLIP, hugging_face_clip),
    "huggingface SigLIP": (SIGLIP, hugging_face_clip),
    "huggingface DINOv2": (DINO, hugging_face_dino),
    "huggingface DINOv2 model": (DINO, lambda state: hugging_face_dino(state, "")),
    "huggingface BEiT": (BEIT, hugging_face_beit),
    "huggingface DINOv3": (DINO3, hugging_face_dino3),
    "DINOv2 chunks": (PLAIN, lambda state: {"teacher": {f"backbone.{k}": v for k, v in chunked(state).items()}}),
    "DINOv2 chunks of two": (PLAIN, lambda state: chunked(state, 2)),
    **{
        f"under {word}": (PLAIN, lambda state, word=word: {"epoch": 1, word: state})
        for word in ("model_state_dict", "net", "backbone", "student", "whatever_it_is")
    },
    "under two": (
        PLAIN,
        lambda state: {"checkpoint": {"model_state_dict": {f"module.{k}": v for k, v in state.items()}}},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_values_that_timms_own_names_give(tmp_path: Path, layout: str) -> None:
    spec, write = LAYOUTS[layout]
    state = another_state(spec)
    torch.save(write(state), tmp_path / "w.pth")
    model = build_model(spec)
    load_checkpoint(model, tmp_path / "w.pth", name="x")
    for key, value in model.state_dict().items():
        if not key.startswith(("norm.", "fc_norm.", "attn_pool.", "head")):
            torch.testing.assert_close(value, state[key], rtol=0, atol=1e-6, msg=f"{layout}: {key}")


def test_of_two_equal_models_in_a_file_the_user_says_which(tmp_path: Path) -> None:
    """MoCo's checkpoint."""
    path, state, other = tmp_path / "moco.pth.tar", another_state(PLAIN), build_model(PLAIN).state_dict()
    both = {f"module.base_encoder.{key}": value for key, value in state.items()}
    both |= {f"module.momentum_encoder.{key}": value for key, value in other.items()}
    torch.save({"epoch": 300, "state_dict": both | {"module.predictor.0.weight": torch.zeros(2)}}, path)
    with pytest.raises(BadInput, match=r"(?s)holds 2 models.*base_encoder, momentum_encoder") as caught:
        load_checkpoint(build_model(PLAIN), path, name="v")
    assert f"--weights v={path}::base_encoder\n--weights v={path}::momentum_encoder" == caught.value.do
    for part, values in (("base_encoder", state), ("momentum_encoder", other)):
        spec = parse_models(["v=vit_base_patch16_224.mae"], [f"v={path}::{part}"])[0]
        model, record = load_model(replace(spec, image_size=SIZE, arch=SMALL), seed=0)
        check_loaded(model, values)
        assert record["file"] == f"moco.pth.tar::{part}"
        assert weights_identity(spec, seed=0)["part"] == part
    spec = replace(PLAIN, weights=f"{path}::encoder_k")
    with pytest.raises(BadInput, match=r"(?s)no model called 'encoder_k'.*base_encoder"):
        load_model(spec, seed=0)


def test_a_pickled_model_is_refused_with_an_advice_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = build_model(PLAIN), tmp_path / "whole model's.pt"
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    monkeypatch.chdir(tmp_path)
    for content in (model, {"epoch": 1, "model": model}, {"state_dict": model.state_dict(), "hook": print}):
        torch.save(content, path)
        with pytest.raises(BadInput, match="hold more than tensors and are refused") as caught:
            load_checkpoint(build_model(PLAIN), path, name="v")
        assert "\x1b" not in str(caught.value)
        assert caught.value.do.endswith("--weights v=whole model's-state.pt")
        run_advice(caught.value.do)
        fresh = build_model(replace(PLAIN, name="fresh"), seed=5)
        load_checkpoint(fresh, tmp_path / "whole model's-state.pt", name="v")
        check_loaded(fresh, expected)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda value: value.to(torch.int8), "holds int8, not floating-point"),
        (lambda value: value > 0, "holds bool, not floating-point"),
        (lambda value: value.to(torch.complex64), "holds complex64, not floating-point"),
        (lambda value: value.to_sparse(), "sparse"),
        (lambda value: value * float("nan"), "not finite"),
        (lambda value: torch.zeros(1).expand(value.shape), "stores fewer"),
    ],
)
def test_weights_that_are_no_real_numbers_are_named(tmp_path: Path, spoil: Any, says: str) -> None:
    state = another_state(PLAIN)
    state["blocks.1.mlp.fc2.weight"] = spoil(state["blocks.1.mlp.fc2.weight"])
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(BadInput, match=rf"(?s)cannot be used for 'v'.*blocks\.1\.mlp\.fc2\.weight.*{says}"):
        load_checkpoint(build_model(PLAIN), tmp_path / "w.pt", name="v")
    half = {key: value.to(torch.bfloat16) for key, value in another_state(PLAIN).items()}
    torch.save(half, tmp_path / "half.pt")
    model = build_model(PLAIN)
    load_checkpoint(model, tmp_path / "half.pt", name="v")
    check_loaded(model, half)


def test_what_claims_more_than_it_holds_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02}.")
        archive.writestr("bomb/data/0", bytes(50_000_000))
    with pytest.raises(BadInput, match=r"claim 50,\d+,\d+ bytes in a file of"):
        load_checkpoint(build_model(PLAIN), path, name="v")


def test_a_dict_that_holds_itself_and_odd_keys_do_no_harm(tmp_path: Path) -> None:
    state = another_state(PLAIN)
    content: dict[Any, Any] = {"model": dict(state), 3: {"x": torch.zeros(1)}, "\x1b[31mred": torch.zeros(1)}
    content["model"]["again"] = content
    torch.save(content, tmp_path / "w.pt")
    model = build_model(PLAIN)
    load_checkpoint(model, tmp_path / "w.pt", name="v")
    check_loaded(model, state)
    torch.save({"\x1b[31mred": torch.zeros(1)}, tmp_path / "odd.pt")
    with pytest.raises(BadInput, match="The file has: red") as caught:
        load_checkpoint(build_model(PLAIN), tmp_path / "odd.pt", name="v")
    assert str(caught.value).replace("\n", "").isprintable()


def test_a_file_of_another_size_is_described(tmp_path: Path) -> None:
    torch.save(another_state(replace(PLAIN, arch=(*SMALL[:1], ("depth", 3), *SMALL[2:]))), tmp_path / "w.pt")
    with pytest.raises(BadInput, match="It is a ViT of 3 blocks of 16 channels, patches of 8 pixels"):
        load_checkpoint(build_model(PLAIN), tmp_path / "w.pt", name="v")


def test_only_files_and_folders_are_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for weights in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(BadInput, match="neither a file nor a folder"):
            weights_identity(replace(PLAIN, weights=str(weights)), seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no file of weights"):
        weights_identity(replace(PLAIN, weights=str(tmp_path / "empty")), seed=0)


# ---- folders, and what weights say of themselves


def write_folder(folder: Path, state: State, **configs: Any) -> Path:
    folder.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors")
    for name, content in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_folder_says_how_its_images_are_prepared(tmp_path: Path) -> None:
    state = another_state(PLAIN)
    odd = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}
    own = {
        "architecture": "x",
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"},
    }
    expected = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")
    for number, configs in enumerate((
        {"preprocessor_config": odd, "config": {"model_type": "vit"}},
        {"config": own},
        {"open_clip_config": {"preprocess_cfg": own["pretrained_cfg"]}},
    )):  # fmt: skip
        folder = write_folder(tmp_path / str(number), state, **configs)
        spec = replace(PLAIN, weights=str(folder))
        backbone = load_backbone(spec, layers=[0], seed=0, device=torch.device("cpu"))
        assert Preprocessing(backbone.info.mean, backbone.info.std, backbone.info.interpolation) == expected
        chosen = replace(spec, preprocessing=(("mean", HALF),))
        assert preprocessing_of(load_model(chosen, seed=0)[0], chosen) == expected._replace(mean=HALF)
    before = weights_identity(spec, seed=0)
    (folder / "open_clip_config.json").write_text("{}")
    assert weights_identity(spec, seed=0) != before
    (folder / "open_clip_config.json").write_text('{"preprocess_cfg": {"std": [1, 0, 1]}}')
    with pytest.raises(BadInput, match=r"the std of its images is \[1, 0, 1\]"):
        load_model(spec, seed=0)


def test_a_folder_of_the_hubs_cache_and_shards_are_weights_too(tmp_path: Path) -> None:
    state = another_state(PLAIN)
    cache = tmp_path / "models--org--name"
    write_folder(cache / "snapshots" / "abc", state)
    write_folder(cache / "snapshots" / "old", another_state(CLIP))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    check_loaded(load_model(replace(PLAIN, weights=str(cache)), seed=0)[0], state)
    shards = tmp_path / "shards"
    shards.mkdir()
    half = len(state) // 2
    weight_map = {}
    for number, keys in enumerate((list(state)[:half], list(state)[half:])):
        save_file({key: state[key] for key in keys}, shards / f"model-{number}.safetensors")
        weight_map |= dict.fromkeys(keys, f"model-{number}.safetensors")
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    check_loaded(load_model(replace(PLAIN, weights=str(shards)), seed=0)[0], state)
    (shards / "model-1.safetensors").unlink()
    with pytest.raises(BadInput, match=r"lacks model-1\.safetensors"):
        load_model(replace(PLAIN, weights=str(shards)), seed=0)


def openai_state() -> State:
    from tests.models.test_weights import OpenAIVisual

    return {f"visual.{key}": value for key, value in OpenAIVisual().state_dict().items()}


def activation(model: nn.Module) -> str:
    return type(model.get_submodule("blocks.0.mlp.act")).__name__


def test_openais_clip_brings_its_activation_and_open_clips_does_not(tmp_path: Path) -> None:
    plain = replace(CLIP, timm_name="vit_base_patch16_clip_224", weights=str(tmp_path / "clip.pt"))
    said: list[str] = []
    for content, expected in (
        (openai_state(), "GELU"),
        (openai_state() | {"input_resolution": torch.tensor(224), "context_length": torch.tensor(77)}, "QuickGELU"),
        ({key: value.half() for key, value in openai_state().items()}, "QuickGELU"),
    ):
        torch.save(content, tmp_path / "clip.pt")
        said.clear()
        model, _ = load_model(plain, seed=0, announce=said.append)
        assert activation(model) == expected
        assert any("QuickGELU" in line for line in said) == (expected == "QuickGELU")
    state = hugging_face_clip(another_state(CLIP))
    config = {"model_type": "clip", "vision_config": {"hidden_act": "quick_gelu"}}
    folder = write_folder(tmp_path / "hf", state, config=config)
    assert activation(load_model(replace(plain, weights=str(folder)), seed=0)[0]) == "QuickGELU"


def test_a_name_without_a_tag_follows_the_weights_or_says_what_it_took(tmp_path: Path) -> None:
    spec = replace(UNTAGGED, weights=str(tmp_path / "w.pt"))
    state = another_state(replace(UNTAGGED, image_size=SIZE))
    torch.save(state, tmp_path / "w.pt")
    said: list[str] = []
    model, _ = load_model(spec, seed=0, announce=said.append)
    assert preprocessing_of(model, spec).mean == HALF
    assert "does not say how its images are normalised" in said[0]
    assert "vit_small_patch16_224.dino has 0.485 0.456 0.406" in said[0]
    told = replace(spec, preprocessing=(("mean", IMAGENET), ("std", HALF)))
    said.clear()
    assert preprocessing_of(load_model(told, seed=0, announce=said.append)[0], told).mean == IMAGENET
    assert not said
    torch.save({"teacher": {f"backbone.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "w.pt")
    model, _ = load_model(spec, seed=0, announce=said.append)
    assert preprocessing_of(model, spec).mean == IMAGENET
    assert "ImageNet's" in said[0]
    tagged = replace(spec, timm_name="vit_small_patch16_224.dino")
    assert describe_backbone(tagged).mean == IMAGENET


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mean": ["0.5"]}, "three numbers"),
        ({"mean": ["0.5,0.5,nan"]}, "three numbers"),
        ({"std": ["0.5,0,0.5"]}, "above 0"),
        ({"mean": ["x=1,1,1"]}, "no model is called 'x'"),
        ({"size": ["big"]}, "no number of pixels"),
        ({"interpolation": ["cubic"]}, "Choose of"),
        ({"size": ["64", "32"]}, "given twice"),
    ],
)
def test_settings_that_cannot_be_meant_are_usage_errors(settings: dict[str, list[str]], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_models(["clip", "mae"], [], settings=settings)


def test_settings_are_for_all_models_or_the_one_they_name() -> None:
    settings = {"mean": ["0.5,0.5,0.5", "mae=0,0,0"], "size": ["mae=160"], "interpolation": ["bilinear"]}
    clip, mae = parse_models(["clip", "mae"], [], settings=settings)
    assert (clip.image_size, mae.image_size) == (224, 160)
    assert dict(clip.preprocessing) == {"mean": HALF, "interpolation": "bilinear"}
    assert dict(mae.preprocessing) == {"mean": (0.0, 0.0, 0.0), "interpolation": "bilinear"}


def test_nothing_is_printed_on_stdout_by_conversions(tmp_path: Path) -> None:
    """timm's conversion of DINOv3 prints; stdout carries a command's result only."""
    code = (
        "import torch; from aligncut_cli.models.build import build_model;"
        "from aligncut_cli.models.weights import load_checkpoint; from pathlib import Path;"
        "from tests.models.test_layouts import DINO3, another_state;"
        "s = another_state(DINO3); s['storage_tokens'] = s.pop('reg_token');"
        "s['blocks.0.attn.qkv.bias'] = torch.zeros(48);"
        f"p = Path({str(tmp_path / 'w.pt')!r}); torch.save(s, p); load_checkpoint(build_model(DINO3), p, name='x')"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
