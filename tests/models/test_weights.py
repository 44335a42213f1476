from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from aligncut_cli.errors import BadInput
from aligncut_cli.models import hub as hub_weights
from aligncut_cli.models.backbone import load_backbone
from aligncut_cli.models.build import build_model
from aligncut_cli.models.registry import ModelSpec
from aligncut_cli.models.weights import hash_state, load_checkpoint, load_model

D, DEPTH, HEADS, PATCH, SIZE = 16, 2, 2, 8, 32
N = (SIZE // PATCH) ** 2
SMALL = (("embed_dim", D), ("depth", DEPTH), ("num_heads", HEADS), ("patch_size", PATCH))
PLAIN = ModelSpec("plain", "vit_base_patch16_224.mae", SIZE, SMALL, "random")
CLIP = ModelSpec("clip", "vit_base_patch16_clip_quickgelu_224.openai", SIZE, SMALL, "random")
DINO = ModelSpec("dino", "vit_base_patch14_reg4_dinov2.lvd142m", SIZE, SMALL, "random")


def random_like(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) * 0.3 for key, shape in shapes.items()}


def used_state(model: nn.Module) -> dict[str, torch.Tensor]:
    unused = ("norm.", "fc_norm.", "head")
    return {key: value for key, value in model.state_dict().items() if not key.startswith(unused)}


def another_state(spec: ModelSpec) -> dict[str, torch.Tensor]:
    """Values that the model does not have by itself."""
    shapes = {key: tuple(value.shape) for key, value in build_model(spec).state_dict().items()}
    return random_like(shapes)


def check_loaded(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    for key, value in used_state(model).items():
        torch.testing.assert_close(value, state[key].float(), rtol=0, atol=0, msg=key)


# ---- random weights


def test_random_weights_are_those_of_the_seed_and_the_models_name() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, record = load_model(PLAIN, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again, _ = load_model(PLAIN, seed=3)
    assert hash_state(first) == hash_state(again) == record["sha256"]
    assert (record["source"], record["seed"]) == ("random", 3)
    assert hash_state(load_model(PLAIN, seed=4)[0]) != hash_state(first)
    assert hash_state(load_model(replace(PLAIN, name="other"), seed=3)[0]) != hash_state(first)


def test_random_layer_scales_leave_features_in_float16s_normal_range() -> None:
    model, _ = load_model(DINO, seed=0)
    assert torch.equal(model.blocks[0].ls1.gamma, torch.ones(D))


def test_the_hash_covers_every_used_value_and_no_head() -> None:
    model, _ = load_model(PLAIN, seed=0)
    start = hash_state(model)
    with torch.no_grad():
        model.norm.weight.add_(1)
    assert hash_state(model) == start
    for key, value in used_state(model).items():
        with torch.no_grad():
            value.view(-1)[-1] += 1
            assert hash_state(model) != start, key
            value.view(-1)[-1] -= 1


# ---- local files


@pytest.mark.parametrize("wrap", ["", "state_dict", "model", "teacher", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "encoder.vit."])
def test_state_dicts_are_found_inside_what_training_scripts_save(tmp_path: Path, wrap: str, prefix: str) -> None:
    state = another_state(PLAIN)
    content: dict[str, Any] = {prefix + key: value for key, value in state.items()} | {"head.last": torch.zeros(3)}
    if wrap:
        content = {"epoch": 3, wrap: OrderedDict(content), "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "w.pth")
    model = build_model(PLAIN)
    load_checkpoint(model, tmp_path / "w.pth", name="plain")
    check_loaded(model, state)


def test_the_teacher_is_taken_from_a_file_with_both(tmp_path: Path) -> None:
    state, student = another_state(PLAIN), build_model(PLAIN).state_dict()
    both = {f"student.backbone.{key}": value for key, value in student.items()}
    both |= {f"teacher.backbone.{key}": value for key, value in state.items()}
    torch.save(both, tmp_path / "w.pth")
    model = build_model(PLAIN)
    load_checkpoint(model, tmp_path / "w.pth", name="plain")
    check_loaded(model, state)


def test_which_of_several_models_in_a_file_is_taken_is_said_with_how_to_take_another(tmp_path: Path) -> None:
    path, state, student = tmp_path / "w.pth", another_state(PLAIN), build_model(PLAIN).state_dict()
    torch.save({"module": {"student": student, "teacher": {"backbone": state}}}, path)
    said: list[str] = []
    model, _ = load_model(replace(PLAIN, weights=str(path)), seed=0, announce=said.append)
    check_loaded(model, state)
    told = (
        f"'module.teacher.backbone' is taken, not module.student. For another: --weights {PLAIN.name}={path}::student"
    )
    assert sum(told in line for line in said) == 1
    said.clear()
    model, _ = load_model(replace(PLAIN, weights=f"{path}::student"), seed=0, announce=said.append)
    check_loaded(model, student)
    assert not any("is taken" in line for line in said)


def test_a_safetensors_file_and_a_state_dict_give_the_same_model(tmp_path: Path) -> None:
    state = another_state(PLAIN)
    save_file(state, tmp_path / "w.safetensors")
    save_file(state, tmp_path / "w.bin")
    torch.save(state, tmp_path / "w.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    records = []
    for name in ("w.safetensors", "w.bin", "w.pt", "old.pt"):
        model, record = load_model(replace(PLAIN, weights=str(tmp_path / name)), seed=0)
        check_loaded(model, state)
        assert (record["source"], record["file"]) == ("file", name)
        records.append(record["sha256"])
    assert len(set(records)) == 1


class OpenAIBlock(nn.Module):
    """As in OpenAI's clip/model.py."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(D, HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(D, 4 * D), c_proj=nn.Linear(4 * D, D)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.ln_1(x)
        branch = self.attn(y, y, y, need_weights=False)[0]
        x = x + branch
        hidden = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden)), branch


class OpenAIVisual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, D, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(D))
        self.positional_embedding = nn.Parameter(torch.empty(N + 1, D))
        self.ln_pre, self.ln_post = nn.LayerNorm(D), nn.LayerNorm(D)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(OpenAIBlock() for _ in range(DEPTH))})
        self.proj = nn.Parameter(torch.empty(D, 8))
        self.load_state_dict(random_like({key: tuple(value.shape) for key, value in self.state_dict().items()}))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, D), x], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        branches = []
        for block in self.transformer["resblocks"]:
            x, branch = block(x)
            branches.append(branch)
        return branches


@pytest.mark.parametrize("prefix", ["visual.", "module.visual.", ""])
def test_openais_clip_checkpoint_computes_what_openais_model_computes(tmp_path: Path, prefix: str) -> None:
    visual = OpenAIVisual()
    state = {prefix + key: value for key, value in visual.state_dict().items()}
    if prefix:  # the text half, whose names are alike
        start = prefix.removesuffix("visual.")
        state |= {start + "positional_embedding": torch.zeros(77, 8), start + "logit_scale": torch.zeros(())}
        state |= {start + "transformer.resblocks.0.ln_1.weight": torch.zeros(8)}
    torch.save(state, tmp_path / "clip.pt")
    spec = replace(CLIP, weights=str(tmp_path / "clip.pt"))
    backbone = load_backbone(spec, layers=[0, 1], seed=0, device=torch.device("cpu"))
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.stack(visual(backbone._normalise(images)))
    features = backbone.extract(images)
    torch.testing.assert_close(features.tokens.float(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(features.pooled, expected.mean(2), rtol=1e-4, atol=1e-5)
    # The plain name computes another activation, which shows from the second layer on.
    plain = replace(spec, timm_name="vit_base_patch16_clip_224.openai")
    other = load_backbone(plain, layers=[0, 1], seed=0, device=torch.device("cpu")).extract(images)
    assert (other.pooled[1] - expected[1].mean(1)).abs().max() > 1e-3


@pytest.mark.parametrize("grid", [4, 6])
def test_dinov2s_original_checkpoint_with_registers_is_converted(tmp_path: Path, grid: int) -> None:
    state = another_state(DINO)
    original = {key: value for key, value in state.items() if key not in ("reg_token", "pos_embed")}
    original |= random_like({"register_tokens": (1, 4, D), "pos_embed": (1, grid**2 + 1, D), "mask_token": (1, D)})
    torch.save(original, tmp_path / "dino.pth")
    model = build_model(DINO)
    load_checkpoint(model, tmp_path / "dino.pth", name="dino")
    patches = torch.randn(2, N, D)
    found = model._pos_embed(patches)
    # DINOv2 adds positions to class token and patches, and puts the registers between them afterwards.
    assert torch.equal(found[:, 1:5], original["register_tokens"].expand(2, 4, D))
    torch.testing.assert_close(found[0, 0], (original["cls_token"] + original["pos_embed"][:, :1])[0, 0])
    positions = original["pos_embed"][:, 1:]
    if grid != 4:
        square = positions.reshape(1, grid, grid, D).permute(0, 3, 1, 2)
        square = nn.functional.interpolate(square, (4, 4), mode="bicubic", antialias=True)
        positions = square.permute(0, 2, 3, 1).reshape(1, N, D)
    torch.testing.assert_close(found[:, 5:], patches + positions)
    assert torch.equal(model.blocks[1].ls1.gamma, original["blocks.1.ls1.gamma"])


def test_maes_checkpoint_loads_without_its_decoder(tmp_path: Path) -> None:
    state = another_state(PLAIN)
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, N + 1, 8)}
    decoder |= {"decoder_blocks.0.norm1.weight": torch.zeros(8), "decoder_embed.weight": torch.zeros(8, D)}
    torch.save({"model": state | decoder}, tmp_path / "mae.pth")
    model = build_model(PLAIN)
    load_checkpoint(model, tmp_path / "mae.pth", name="mae")
    check_loaded(model, state)


def test_a_file_for_another_model_is_refused_by_naming_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    state = another_state(PLAIN)
    for spec, content, says in (
        (CLIP, state, r"Missing: norm_pre\.weight"),
        (PLAIN, another_state(CLIP), r"Unexpected: norm_pre\.weight"),
        (DINO, state, r"Missing: reg_token"),
        (PLAIN, {key: value for key, value in state.items() if ".1." not in key}, r"Missing: blocks\.1\.norm1\.weight"),
        (PLAIN, another_state(replace(PLAIN, arch=(*SMALL[:1], ("depth", 3), *SMALL[2:]))), r"Unexpected: blocks\.2\."),
        (PLAIN, another_state(replace(PLAIN, arch=(("embed_dim", 8), *SMALL[1:]))), r"Shape: cls_token is \(1, 1, 8\)"),
        (PLAIN, {"embeddings.cls_token": torch.zeros(1)}, r"Missing.*The file has: embeddings\.cls_token"),
    ):
        torch.save(content, path)
        with pytest.raises(BadInput, match=r"(?s)do not fit the model '.*" + says):
            load_checkpoint(build_model(spec), path, name=spec.name)
    torch.save({"epoch": 3}, path)
    with pytest.raises(BadInput, match=r"hold no tensors"):
        load_checkpoint(build_model(PLAIN), path, name="plain")


class Payload:
    ran = False

    def __reduce__(self) -> tuple[object, ...]:
        return setattr, (Payload, "ran", True)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pt"
    torch.save({"model": {}, "x": Payload()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match=r"(?s)hold more than tensors and are refused: .*run code.*weights_only=False"):
        load_checkpoint(build_model(PLAIN), path, name="plain")
    path.write_bytes(pickle.dumps({"model": Payload()}))
    with pytest.raises(BadInput, match=r"w\.pt"):
        load_checkpoint(build_model(PLAIN), path, name="plain")
    assert not Payload.ran


def run_advice(text: str) -> None:
    """Run the python command that a message gives, as it would be typed."""
    command = shlex.split(next(line for line in text.splitlines() if line.strip().startswith("python -c")))
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore::FutureWarning:torch.jit")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_archive_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, state = build_model(PLAIN), another_state(PLAIN)
    model.load_state_dict(state)
    path = tmp_path / "ViT-B-16.pt"
    linear = nn.Linear(2, 2)
    linear.register_buffer("patch", torch.zeros(1))
    torch.jit.script(linear).save(str(path))
    with pytest.raises(BadInput, match=r"(?s)TorchScript program.*OpenAI.*--weights clip=ViT-B-16-state\.pt") as caught:
        load_checkpoint(model, path, name="clip")
    monkeypatch.chdir(tmp_path)
    run_advice(caught.value.do)
    assert set(torch.load(tmp_path / "ViT-B-16-state.pt", weights_only=True)) == {"weight", "bias", "patch"}


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    state = another_state(PLAIN)
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    model = build_model(PLAIN)
    for name in ("w.safetensors", "w.pt", "old.pt"):
        whole = (tmp_path / name).read_bytes()
        for share in (0.0, 0.01, 0.5, 0.99):
            path = tmp_path / f"cut-{name}"
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(BadInput, match=rf"damaged or cut short: .*cut-{re.escape(name)}"):
                load_checkpoint(model, path, name="plain")
    (tmp_path / "page.pt").write_text("<html>404</html>")
    with pytest.raises(BadInput, match=r"damaged"):
        load_checkpoint(model, tmp_path / "page.pt", name="plain")
    with pytest.raises(BadInput, match=r"(?s)none\.pt.*No such file.*--weights plain=random"):
        load_checkpoint(model, tmp_path / "none.pt", name="plain")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(BadInput, match="are a list, not a state dict"):
        load_checkpoint(model, tmp_path / "list.pt", name="plain")


# ---- the hub

HUB_SPEC = ModelSpec("tiny", "vit_tiny_patch16_224", SIZE, SMALL, "hub")
HUB_ID = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"


class HubHandler(BaseHTTPRequestHandler):
    """Answers as the hub does for the files of one repository."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[str]] = []
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.requests.append(f"{self.command} {self.path}")
        content = self.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound" if HUB_ID not in self.path else "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    state = random_like({key: tuple(v.shape) for key, v in timm_model_with_head().state_dict().items()})
    save_file(state, tmp_path / "served.safetensors")
    HubHandler.files = {f"/{HUB_ID}/resolve/main/model.safetensors": (tmp_path / "served.safetensors").read_bytes()}
    HubHandler.requests.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", state
    server.shutdown()
    server.server_close()
    thread.join()


def timm_model_with_head() -> nn.Module:
    model: nn.Module = timm.create_model(HUB_SPEC.timm_name, img_size=SIZE, **dict(SMALL))
    return model


_LOAD = """
import json, sys
from dataclasses import replace
from aligncut_cli.errors import BadInput
from aligncut_cli.models.weights import load_model
from tests.models.test_weights import HUB_SPEC

for name in sys.argv[1:]:
    said = []
    try:
        record = load_model(replace(HUB_SPEC, timm_name=name), seed=0, announce=said.append)[1]
        print(json.dumps({"record": record, "said": said}))
    except BadInput as error:
        print(json.dumps({"error": str(error)}))
"""


def load_in_new_process(*names: str, **environment: str) -> list[dict[str, Any]]:
    root = str(Path(__file__).parents[2])
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, *names], env=clean | {"PYTHONPATH": root} | environment, cwd=root,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_weights_come_from_the_hub_once_and_then_from_its_cache(
    hub: tuple[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    endpoint, state = hub
    name, unknown = HUB_SPEC.timm_name, "vit_small_patch16_224"
    home = str(tmp_path / "home")
    first, cached, missing = load_in_new_process(name, name, unknown, HF_ENDPOINT=endpoint, HF_HOME=home)
    expected = build_model(HUB_SPEC)
    expected.load_state_dict({key: value for key, value in state.items() if not key.startswith("head")})
    assert first["record"] == {"source": "hub", "id": HUB_ID, "sha256": hash_state(expected)}
    assert first["said"] == [f"downloading the weights of 'tiny': {HUB_ID} (model.safetensors)"]
    assert cached == {"record": first["record"], "said": []}
    assert "--weights tiny=tiny-model.safetensors" in missing["error"]
    assert [line for line in HubHandler.requests if line.startswith("GET") and "resolve" in line] == [
        f"GET /{HUB_ID}/resolve/main/model.safetensors"
    ]
    count = len(HubHandler.requests)
    started = time.monotonic()
    offline, error = load_in_new_process(name, unknown, HF_HUB_OFFLINE="1", HF_HOME=home)
    assert offline == cached
    assert "HF_HUB_OFFLINE is set" in error["error"]
    assert len(HubHandler.requests) == count
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_any_repository_of_the_hub_gives_its_weights_and_says_how_its_images_are_prepared(
    hub: tuple[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    endpoint, state = hub
    configuration = json.dumps({"architecture": "x", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}).encode()
    HubHandler.files[f"/{HUB_ID}/resolve/main/config.json"] = configuration
    code = f"""
import json
from aligncut_cli.models.weights import load_model
from dataclasses import replace
from tests.models.test_weights import HUB_SPEC
for _ in range(2):
    model, record = load_model(replace(HUB_SPEC, weights="hf-hub:{HUB_ID}"), seed=0)
    print(json.dumps([record, model.pretrained_cfg["mean"]]))
"""
    root = Path(__file__).parents[2]
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment = clean | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, cached = map(json.loads, done.stdout.splitlines())
    expected = build_model(HUB_SPEC)
    expected.load_state_dict({key: value for key, value in state.items() if not key.startswith("head")})
    assert first == cached == [{"source": "hub", "id": HUB_ID, "sha256": hash_state(expected)}, [0.1, 0.2, 0.3]]
    downloads = [line for line in HubHandler.requests if line.startswith("GET") and "resolve" in line]
    assert downloads == [f"GET /{HUB_ID}/resolve/main/{name}" for name in ("model.safetensors", "config.json")]


def offline_error(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> tuple[BadInput, float]:
    monkeypatch.setattr(hub_weights.hub_constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(hub_weights, "_find_in_cache", lambda hub_id, files: None)
    monkeypatch.setattr(hub_weights.urllib.request, "getproxies", dict)
    started = time.monotonic()
    with pytest.raises(BadInput) as caught:
        load_model(HUB_SPEC, seed=0)
    return caught.value, time.monotonic() - started


def test_without_network_the_error_comes_soon_and_says_how_to_get_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{closed.getsockname()[1]}"
    error, seconds = offline_error(monkeypatch, refused)
    assert seconds < 5
    assert "'tiny' (vit_tiny_patch16_224)" in error.what
    assert "Connection refused" in error.why
    assert f"https://huggingface.co/{HUB_ID}/resolve/main/model.safetensors" in error.do
    assert "models--timm--vit_tiny_patch16_224.augreg_in21k_ft_in1k" in error.do
    assert error.do.endswith("--weights tiny=tiny-model.safetensors")


def test_a_network_that_swallows_everything_is_given_up_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_weights, "_HUB_PROBE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error, seconds = offline_error(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "timed out" in error.why
    assert seconds < 5


def test_an_endpoint_that_is_no_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    error, _ = offline_error(monkeypatch, "nonsense")
    assert "nonsense" in error.why


def test_a_damaged_file_in_the_cache_is_named_with_the_command_that_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    monkeypatch.setattr(hub_weights, "_find_in_cache", lambda hub_id, files: path)
    with pytest.raises(BadInput, match=rf"(?s)cached weights of 'tiny' cannot be used.*rm {path}"):
        load_model(HUB_SPEC, seed=0)


def test_a_model_without_pretrained_weights_is_answered_with_those_that_have_them() -> None:
    spec = ModelSpec("x", "vit_base_patch16_gap_224", None, (), "hub")
    with pytest.raises(BadInput, match=r"(?s)no pretrained weights for vit_base_patch16_gap_224.*--weights x=random"):
        load_model(spec, seed=0)
