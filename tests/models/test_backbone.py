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
    called: list[str] = []
    for name, module in backbone._model.named_modules():
        module.register_forward_hook(lambda module, args, output, name=name: called.append(name))
    backbone.extract(images(1))
    assert "blocks.0.mlp" in called
    assert "blocks.1.attn" in called
    assert not {"blocks.1.norm2", "blocks.1.mlp", "norm"} & set(called)


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
    ("name", "why"),
    [
        ("resnet18", "a ResNet,.*it has no attention"),
        ("mixer_s32_224", "a MlpMixer,"),
        ("hiera_tiny_224", "a Hiera,"),
        ("swin_tiny_patch4_window7_224", "a SwinTransformer,.*one grid"),
        ("volo_d1_224", "a VOLO,.*one grid"),
        ("convit_tiny", "a ConVit,.*196 and 197 tokens"),
    ],
)
def test_models_whose_layers_share_no_grid_of_tokens_are_refused_by_what_they_are(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=rf"(?s){why}.*vit_\*.*--model vit_small_patch14_dinov2\.lvd142m"):
        describe_backbone(ModelSpec("x", name))


DEEP2 = (("depth", 2),)
# A model of every family: name, input side or None, architecture, prefix tokens, class token.
FAMILY_MODELS = {
    "beit": ("beit_base_patch16_224", None, (*DEEP2, ("embed_dim", 48), ("num_heads", 3)), 1, True),
    "beit without scale": ("beit_base_patch16_224", None, (*DEEP2, ("embed_dim", 48), ("init_values", 0.0)), 1, True),
    "eva02": ("eva02_tiny_patch14_224", None, DEEP2, 1, True),
    "eva02 post-norm": ("eva02_enormous_patch14_clip_224", 28, (*DEEP2, ("embed_dim", 64), ("num_heads", 4)), 1, True),
    "dinov3": ("vit_small_patch16_dinov3", 64, DEEP2, 5, True),
    "perception encoder": ("vit_pe_core_tiny_patch16_384", 64, DEEP2, 1, True),
    "rotary": ("vit_medium_patch16_rope_reg1_gap_256", 64, (*DEEP2, ("embed_dim", 64), ("num_heads", 4)), 1, False),
    "relative positions": ("vit_relpos_small_patch16_224", 64, DEEP2, 0, False),
    "post-norm": ("vit_base_patch16_rpn_224", 64, (*DEEP2, ("embed_dim", 48), ("num_heads", 3)), 0, False),
    "siglip": ("vit_base_patch16_siglip_224", 64, (*DEEP2, ("embed_dim", 48), ("num_heads", 3)), 0, False),
    "distilled": ("deit_tiny_distilled_patch16_224", 64, DEEP2, 2, True),
    "registers": ("vit_base_patch14_reg4_dinov2", 56, (*DEEP2, ("embed_dim", 48), ("num_heads", 3)), 5, True),
    "hybrid": ("vit_tiny_r_s16_p8_224", 64, DEEP2, 1, True),
}


@torch.no_grad()
def streams(model: Any, batch: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The slow twin for models of every family: the residual stream before a block, after its attention, and after it.

    A block's MLP branch is made nothing to see the stream after its attention: no module of it is listened to.
    """
    calls: list[tuple[Any, torch.Tensor, dict[str, Any], torch.Tensor]] = []
    hooks = [
        block.register_forward_hook(
            lambda module, args, kwargs, output: calls.append((module, args[0].clone(), kwargs, output)),
            with_kwargs=True,
        )
        for block in model.blocks
    ]
    model.forward_features(batch)
    for hook in hooks:
        hook.remove()
    found = []
    for block, before, kwargs, after in calls:
        half = copy.deepcopy(block)
        silent = half.drop_path2.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
        found.append((before, half(before, **kwargs), after))
        silent.remove()
    return found


@pytest.mark.parametrize("family", FAMILY_MODELS)
def test_every_family_gives_what_its_branches_add_to_the_residual_stream(family: str) -> None:
    name, size, arch, n_prefix, class_token = FAMILY_MODELS[family]
    spec = ModelSpec("x", name, size, arch, "random")
    model, info = trained(spec), describe_backbone(spec)
    assert (info.n_layers, info.class_token, info.class_token + info.n_register) == (2, class_token, n_prefix)
    batch = images(2, info.image_size[0])
    n_patches = info.grid[0] * info.grid[1]

    def kept(stream: torch.Tensor) -> torch.Tensor:
        assert stream.shape[1] == n_prefix + n_patches
        return torch.cat([stream[:, : int(class_token)], stream[:, -n_patches:]], dim=1)

    runs = {
        site: Backbone(
            copy.deepcopy(model), describe_backbone(spec, site=site), {}, layers=[0, 1], device=CPU, site=site
        )
        for site in ("attn", "mlp", "block")
    }
    features = {site: backbone.extract(batch).tokens.float() for site, backbone in runs.items()}
    for layer, (before, between, after) in enumerate(streams(model, runs["attn"]._normalise(batch))):
        for site, expected in (("attn", between - before), ("mlp", after - between), ("block", after)):
            error = (features[site][layer] - kept(expected)).abs().max()
            assert error < 2e-3 * after.abs().max(), (site, layer)
            assert kept(expected).abs().max() > 0.01


def test_parallel_blocks_give_the_attention_branch_alone() -> None:
    """It and the MLP add up to what the block adds; with the values at zero, attention adds its bias only."""
    for name in ("vit_base_patch16_18x2_224", "vit_base_patch16_xp_224", "vit_dpwee_patch16_reg1_gap_256"):
        arch = (("depth", 2), ("embed_dim", 48), ("num_heads", 3))
        spec = ModelSpec("x", name, 64, arch, "random")
        model = trained(spec)
        parts = {
            site: Backbone(
                copy.deepcopy(model), describe_backbone(spec, site=site), {}, layers=[0, 1], device=CPU, site=site
            )
            for site in ("attn", "mlp", "block")
        }
        found = {site: backbone.extract(images(2, 64)).tokens.float() for site, backbone in parts.items()}
        added = found["block"][1] - found["block"][0]
        torch.testing.assert_close(
            found["attn"][1] + found["mlp"][1], added, rtol=5e-3, atol=5e-3 * float(added.abs().max())
        )
        silent = copy.deepcopy(model)
        for module in silent.blocks.modules():
            if isinstance(getattr(module, "in_split", None), list):  # rows of the values in the joint projection
                module.in_proj.weight.data[-48:] = 0
                if module.in_proj.bias is not None:
                    module.in_proj.bias.data[-48:] = 0
            elif isinstance(getattr(module, "qkv", None), nn.Linear):
                module.qkv.weight.data[-48:], module.qkv.bias.data[-48:] = 0, 0
        quiet = Backbone(silent, describe_backbone(spec), {}, layers=[0], device=CPU).extract(images(2, 64)).tokens
        assert torch.equal(quiet[0], quiet[0][:, :1].expand_as(quiet[0])), name  # the same for every token
        assert not torch.equal(found["attn"][0], found["attn"][0][:, :1].expand_as(found["attn"][0]))


def test_windows_are_put_back_in_their_places() -> None:
    """SAM: what a windowed block adds by attention, against the block run with its MLP silent."""
    arch = (("depth", 2), ("embed_dim", 48), ("num_heads", 3), ("window_size", 3), ("global_attn_indexes", (1,)))
    spec = ModelSpec("x", "samvit_base_patch16_224", 64, arch, "random")  # type: ignore[arg-type]
    model = trained(spec)
    backbone = Backbone(copy.deepcopy(model), describe_backbone(spec), {}, layers=[0, 1], device=CPU)
    tokens = backbone.extract(images(2, 64)).tokens.float()
    for layer, (before, between, _) in enumerate(streams(model, backbone._normalise(images(2, 64)))):
        expected = (between - before).flatten(1, 2)
        assert expected.shape == (2, 16, 48)
        torch.testing.assert_close(tokens[layer], expected, rtol=5e-3, atol=2e-3 * float(between.abs().max()))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "vit_small_patch16_dinov3"])
def test_queries_keys_and_values_are_those_that_attention_uses(name: str) -> None:
    arch = (("depth", 2), ("embed_dim", 48), ("num_heads", 3))
    spec = ModelSpec("x", name, 64, arch, "random")
    model: Any = trained(spec)
    info = describe_backbone(spec, site="qkv")
    assert info.channels == 3 * 48
    backbone = Backbone(copy.deepcopy(model), info, {}, layers=[0], device=CPU, site="qkv")
    values: list[torch.Tensor] = []
    attention = model.blocks[0].attn
    attention.proj.register_forward_hook(lambda module, args, output: values.append(args[0]))
    # With queries and keys that are all alike, attention gives the mean of the values.
    with torch.no_grad():
        attention.qkv.weight[:96] = 0
        if getattr(attention, "relative_position_bias_table", None) is not None:
            attention.relative_position_bias_table.zero_()
        for bias in (attention.qkv.bias, getattr(attention, "q_bias", None)):
            if bias is not None:
                bias[:96] = 0
        model.forward_features(backbone._normalise(images(2, 64)))
    found = backbone.extract(images(2, 64)).tokens[0, ..., 96:].float()
    count = info.grid[0] * info.grid[1]
    whole = values[0].mean(1) * (count + info.class_token + info.n_register)
    if not info.n_register:
        torch.testing.assert_close(found.sum(1), whole, rtol=5e-3, atol=5e-3 * float(whole.abs().max()))
    else:  # the registers' values are part of the mean and not of the features
        assert found.shape == (2, count + 1, 48)


def test_unknown_models_and_tags_are_answered_with_those_that_are_close() -> None:
    with pytest.raises(UsageError, match=r"(?s)no model called 'dinno'.*dino"):
        describe_backbone(*parse_models(["dinno"], []))
    with pytest.raises(UsageError, match=r"(?s)no model called 'dinov3'.*--model vit_\w+dinov3"):
        describe_backbone(*parse_models(["dinov3"], []))
    with pytest.raises(UsageError, match=r"(?s)no model called 'resnet5'.*--model vit_"):
        describe_backbone(*parse_models(["resnet5"], []))
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
