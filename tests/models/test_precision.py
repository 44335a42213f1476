"""`--precision`: what it means on each device, and that bfloat16 gives the same features to its rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aligncut_cli.errors import UsageError
from aligncut_cli.models.backbone import load_backbone
from aligncut_cli.models.precision import has_bf16_instructions, products_in, resolve_precision
from aligncut_cli.models.registry import ModelSpec
from aligncut_cli.stages.extract import phases
from aligncut_cli.store.read import open_store
from tests.conftest import TINY, aligncut, array_bytes, done

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ARCH = (("embed_dim", 64), ("depth", 4), ("num_heads", 2), ("patch_size", 8))
ROUNDING = 2**-8  # half the distance of neighbouring bfloat16 values, and as much again for what is summed


def test_auto_is_float32_on_a_cpu_and_float16_on_a_gpu() -> None:
    assert [resolve_precision("auto", device) for device in (CPU, CUDA)] == ["fp32", "fp16"]
    assert [resolve_precision(name, CUDA) for name in ("fp32", "bf16")] == ["fp32", "bf16"]


@pytest.mark.parametrize("site", ["attn", "block", "mlp", "qkv"])
def test_bf16_features_are_those_of_fp32_to_its_rounding(site: str) -> None:
    spec = ModelSpec("tiny", "vit_tiny_patch16_224", 32, ARCH, "random")
    batch = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact, rounded = (
        load_backbone(spec, layers=range(4), seed=0, device=CPU, site=site, precision=name).extract(batch)
        for name in ("fp32", "bf16")
    )
    assert rounded.tokens.dtype == torch.float16
    for values, expected in zip(rounded.tokens.float(), exact.tokens.float(), strict=True):
        error = (values - expected).norm() / expected.norm()
        assert 0 < error < 4 * ROUNDING
    torch.testing.assert_close(rounded.pooled, rounded.tokens.float().mean(dim=2), rtol=1e-3, atol=1e-4)


def test_a_product_is_rounded_to_bfloat16_operands_and_summed_in_float32() -> None:
    a, b = torch.randn(3, 500), torch.randn(500, 2)
    twin = a.bfloat16().double() @ b.bfloat16().double()
    with products_in("bf16", CPU):
        torch.testing.assert_close((a @ b).double(), twin, rtol=ROUNDING, atol=1e-2)
    with products_in("fp32", CPU):
        assert torch.equal(a @ b, torch.mm(a, b))


def test_the_store_says_its_precision_and_fp32_has_the_bytes_of_auto(tmp_path: Path, photos: Path) -> None:
    stores = {
        name: done("extract", photos, "-o", tmp_path / f"{name}.zarr", *TINY, "--precision", name)
        for name in ("auto", "fp32", "bf16")
    }
    plain = done("extract", photos, "-o", tmp_path / "plain.zarr", *TINY)
    said = {name: open_store(store).group["tiny"].attrs["precision"] for name, store in stores.items()}
    assert said == {"auto": "fp32", "fp32": "fp32", "bf16": "bf16"}
    assert array_bytes(stores["auto"]) == array_bytes(stores["fp32"]) == array_bytes(plain)
    digests = {name: open_store(store).record["digest"] for name, store in [*stores.items(), ("plain", plain)]}
    assert digests["plain"] == digests["auto"]
    assert len(set(digests.values())) == 3
    exact, rounded = (open_store(stores[name]).read("tiny/tokens").astype(np.float32) for name in ("fp32", "bf16"))
    assert 0 < np.linalg.norm(rounded - exact) < 4 * ROUNDING * np.linalg.norm(exact)
    again = aligncut("extract", photos, "-o", stores["bf16"], *TINY)
    assert again.code == 4
    assert "precision" in again.err


def test_workers_and_interruptions_leave_the_bytes_of_bf16(tmp_path: Path, photos: Path) -> None:
    command = ["extract", photos, *TINY, "--precision", "bf16"]
    alone = done(*command, "-o", tmp_path / "alone.zarr")
    shared = done(*command, "-o", tmp_path / "shared.zarr", "--scheduler", "local:1")
    assert array_bytes(shared) == array_bytes(alone)


def test_a_processor_without_bf16_is_warned_of(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "has_bf16_instructions", lambda: False)
    run = aligncut("extract", photos, "-o", tmp_path / "f.zarr", *TINY, "--precision", "bf16")
    assert run.code == 0
    assert "no instructions for bfloat16" in " ".join(run.err.split())


def test_the_instructions_are_those_that_torch_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, there in (
        ({"avx512_bf16": True, "avx2": True}, True),
        ({"amx_bf16": False, "avx2": True}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert has_bf16_instructions() is there


def test_a_worker_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settled:
        def settle(self, name: str, choose: Any) -> bool:
            return not choose()

    stage = object.__new__(phases.ExtractStage)
    stage.work = Settled()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="instructions"):
        stage._look_for_bf16()
