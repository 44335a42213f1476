from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from aligncut_cli.errors import UsageError
from aligncut_cli.models.backbone import Backbone, Features, check_layers, describe_backbone, load_backbone
from aligncut_cli.models.registry import SHORT_NAMES, ModelSpec, parse_models
from aligncut_cli.models.weights import load_model

CPU = torch.device("cpu")
SMALL = (("embed_dim", 32), ("depth", 4), ("num_heads", 2), ("patch_size", 8))


def tiny(image_size: int = 32, **arch: int | float | bool | str) -> ModelSpec:
    return ModelSpec("tiny", "vit_tiny_patch16_224", image_size, (*SMALL, *arch.items()), "random")


VARIANTS = {
    "plain": tiny(),
    "registers": tiny(reg_tokens=3, no_embed_class=True),
    "layer scale": tiny(init_values=0.3, reg_tokens=2),
    "no class token": tiny(class_token=False, global_pool="avg"),
    "no class token, registers": tiny(class_token=False, global_pool="avg", reg_tokens=2),
    "pre-norm": tiny(pre_norm=True),
}


def images(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def trained(spec: ModelSpec) -> nn.Module:
    """A model whose every parameter matters: biases, norms and layer scales as after training, not as at its start."""
    model, _ = load_model(spec, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.15)
    return model


def attention_branches(model: Any, batch: torch.Tensor, mean: Any, std: Any) -> list[torch.Tensor]:
    """The slow twin: the blocks written out, in double precision."""
    model = model.double()
    mean, std = (torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in (mean, std))
    with torch.no_grad():
        x = (batch.double() / 255 - mean) / std
        x = model.norm_pre(model._pos_embed(model.patch_embed(x)))
        found = []
        for block in model.blocks:
            branch = block.ls1(block.attn(block.norm1(x)))
            found.append(branch)
            x = x + branch
            x = x + block.ls2(block.mlp(block.norm2(x)))
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_are_the_attention_branch_without_registers(variant: str) -> None:
    spec = VARIANTS[variant]
    layers = [0, 2, 3]
    model, info, arch = trained(spec), describe_backbone(spec), dict(spec.arch)
    batch = images(3)
    features = Backbone(trained(spec), info, {}, layers=layers, device=CPU).extract(batch)
    first = int(arch.get("class_token", True))
    assert info.class_token == bool(first)
    assert info.n_register == arch.get("reg_tokens", 0)
    assert info.n_tokens == 16 + first
    branches = attention_branches(model, batch, info.mean, info.std)
    for row, layer in enumerate(layers):
        patches = branches[layer][:, -16:]  # whatever comes before, the patches are the last 4 x 4
        expected = torch.cat([branches[layer][:, :first], patches], dim=1)
        assert expected.abs().median() > 0.05
        torch.testing.assert_close(features.tokens[row].double(), expected, rtol=2**-10, atol=1e-5)
        torch.testing.assert_close(features.pooled[row].double(), expected.mean(1), rtol=1e-4, atol=1e-5)
    assert features.finite.all()


def test_features_have_the_documented_types_and_shapes() -> None:
    features = load_backbone(VARIANTS["registers"], layers=[3, 1], seed=0, device=CPU).extract(images(5))
    assert isinstance(features, Features)
    assert (features.tokens.dtype, features.pooled.dtype, features.finite.dtype) == (
        torch.float16,
        torch.float32,
        torch.bool,
    )
    assert features.tokens.shape == (2, 5, 17, 32)
    assert features.pooled.shape == (2, 5, 32)
    assert features.finite.shape == (2, 5)


def test_a_layers_features_do_not_depend_on_which_others_are_asked_for() -> None:
    spec = VARIANTS["layer scale"]
    every = load_backbone(spec, layers=range(4), seed=0, device=CPU).extract(images(2))
    some = load_backbone(spec, layers=[2, 1], seed=0, device=CPU).extract(images(2))
    assert torch.equal(some.tokens, every.tokens[[2, 1]])
    assert torch.equal(some.pooled, every.pooled[[2, 1]])


def test_blocks_after_the_last_layer_and_its_mlp_are_not_computed() -> None:
    backbone = load_backbone(tiny(), layers=[1], seed=0, device=CPU)
    assert len(backbone._model.blocks) == 2
    assert isinstance(backbone._model.blocks[1].mlp, nn.Identity)
    assert not isinstance(backbone._model.blocks[0].mlp, nn.Identity)


def test_the_batch_and_the_memory_layout_change_nothing_but_rounding() -> None:
    backbone = load_backbone(VARIANTS["registers"], layers=range(4), seed=0, device=CPU)
    batch = images(6)
    whole = backbone.extract(batch)
    parts = [backbone.extract(part) for part in batch.split([1, 3, 2])]
    torch.testing.assert_close(torch.cat([part.tokens for part in parts], 1), whole.tokens, rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(torch.cat([part.pooled for part in parts], 1), whole.pooled, rtol=1e-4, atol=1e-6)
    channels_last = batch.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(backbone.extract(channels_last).tokens, whole.tokens)


def test_values_beyond_float16_are_flagged_in_their_layer_and_image() -> None:
    backbone = load_backbone(tiny(), layers=range(4), seed=0, device=CPU)
    with torch.no_grad():
        backbone._model.blocks[2].attn.proj.bias[4:6] = 65_000.0
    assert backbone.extract(images(3)).finite.all()  # large, but each is within the range
    with torch.no_grad():
        backbone._model.blocks[2].attn.proj.bias[5] = 70_000.0
    found = backbone.extract(images(3))
    assert found.finite.tolist() == [[True] * 3, [True] * 3, [False] * 3, [True] * 3]
    assert torch.isinf(found.tokens[2, 0, 0, 5])
    assert found.pooled[2].isfinite().all()  # float32 has the range


def test_one_image_without_a_finite_value_is_told_from_its_batch() -> None:
    backbone = load_backbone(tiny(), layers=[0], seed=0, device=CPU)
    poison = torch.zeros(3, dtype=torch.bool)

    def spoil(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        output[poison, 4, 7] = float("nan")
        return output

    backbone._model.blocks[0].attn.register_forward_hook(spoil)
    poison[1] = True
    assert backbone.extract(images(3)).finite.tolist() == [[True, False, True]]


def test_what_is_no_image_batch_of_the_models_size_is_refused() -> None:
    backbone = load_backbone(tiny(), layers=[0], seed=0, device=CPU)
    for batch in (images(2, size=40), images(2).float(), images(2).permute(0, 2, 3, 1)):
        with pytest.raises(ValueError, match="not uint8"):
            backbone.extract(batch)


def test_the_description_needs_no_weights_and_agrees_with_the_papers_models() -> None:
    for name, expected_registers in (("clip", 0), ("dino", 4), ("mae", 0)):
        info = describe_backbone(SHORT_NAMES[name])
        assert (info.grid, info.n_tokens, info.n_layers, info.channels) == ((14, 14), 197, 12, 768)
        assert info.class_token
        assert info.n_register == expected_registers
        assert info.image_size == ((196, 196) if name == "dino" else (224, 224))
        assert info.patch_size == (14 if name == "dino" else 16)
    assert describe_backbone(SHORT_NAMES["clip"]).mean == (0.48145466, 0.4578275, 0.40821073)
    siglip = describe_backbone(ModelSpec("s", "vit_base_patch16_siglip_224.webli"))
    assert (siglip.class_token, siglip.n_tokens) == (False, 196)


def test_the_description_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    describe_backbone(SHORT_NAMES["mae"])
    load_model(tiny(), seed=4)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "hiera_tiny_224", "samvit_base_patch16", "beit_base_patch16_224", "vit_base_patch16_dinov3.lvd1689m"],
)
def test_models_without_a_hookable_attention_branch_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"(?s)cannot take features from.*vit_\*.*--model"):
        describe_backbone(ModelSpec("x", name))


def test_unknown_models_and_tags_are_answered_with_those_that_are_close() -> None:
    with pytest.raises(UsageError, match=r"(?s)no model called 'dinno'.*dino"):
        describe_backbone(*parse_models(["dinno"], []))
    with pytest.raises(UsageError, match=r"(?s)no model called.*vit_base_patch16_224"):
        describe_backbone(*parse_models(["vit_bas_patch16_224"], []))
    with pytest.raises(UsageError, match=r"(?s)no weights called 'maee'.*mae.*--model vit_base_patch16_224\.mae"):
        describe_backbone(*parse_models(["vit_base_patch16_224.maee"], []))


def test_an_input_that_cuts_patches_is_refused_with_sizes_that_do_not() -> None:
    with pytest.raises(UsageError, match=r"(?s)200 pixels.*14 pixels wide.*196 and 210"):
        describe_backbone(*parse_models(["dino@200"], []))
    assert describe_backbone(*parse_models(["dino@210"], [])).grid == (15, 15)


def test_layers_that_the_model_does_not_have_are_refused() -> None:
    info = describe_backbone(tiny())
    check_layers(info, [3, 0], name="tiny")
    for layers in ([4], [-1], [0, 0], []):
        with pytest.raises(UsageError, match="layers 0 to 3"):
            check_layers(info, layers, name="tiny")


def test_dinov2_gives_197_tokens_of_full_width() -> None:
    spec = replace(SHORT_NAMES["dino"], weights="random", arch=(("depth", 2),))
    info = describe_backbone(spec)
    model, _ = load_model(spec, seed=0)
    batch = images(1, size=196)
    features = Backbone(copy.deepcopy(model), info, {}, layers=[1], device=CPU).extract(batch)
    assert features.tokens.shape == (1, 1, 197, 768)
    branch = attention_branches(model, batch, info.mean, info.std)[1]
    assert branch.shape == (1, 1 + 4 + 196, 768)
    expected = torch.cat([branch[:, :1], branch[:, 5:]], dim=1)
    torch.testing.assert_close(features.tokens[0].double(), expected, rtol=2**-10, atol=1e-4)
    # Features must use float16's normal range, or cosines between them are noise.
    assert expected.abs().median() > 1e-3


@pytest.mark.gpu
def test_autocast_on_cuda_agrees_with_float32_on_the_cpu() -> None:
    batch = images(8, size=224)
    for name in ("clip", "mae"):
        spec = replace(SHORT_NAMES[name], weights="random")
        on_cpu = load_backbone(spec, layers=range(12), seed=0, device=CPU).extract(batch)
        on_gpu = load_backbone(spec, layers=range(12), seed=0, device=torch.device("cuda")).extract(batch)
        similarity = torch.cosine_similarity(on_gpu.tokens.cpu().float(), on_cpu.tokens.float(), dim=-1)
        assert similarity.min() > 0.999
        assert on_gpu.finite.all()


def test_the_hooked_model_is_timms_own() -> None:
    """The twin above writes timm's forward pass out; here timm's own intermediate outputs say that it is the same."""
    spec = VARIANTS["layer scale"]
    model, _ = load_model(spec, seed=1)
    assert isinstance(model, timm.models.VisionTransformer)
    backbone = Backbone(load_model(spec, seed=1)[0], describe_backbone(spec), {}, layers=range(4), device=CPU)
    batch = images(2)
    x = backbone._normalise(batch)
    outputs: list[torch.Tensor] = []
    for block in model.blocks:
        block.ls1.register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.inference_mode():
        model(x)
    tokens = backbone.extract(batch).tokens
    for layer in range(4):
        assert torch.equal(tokens[layer], torch.cat([outputs[layer][:, :1], outputs[layer][:, 3:]], 1).half())
