"""Train one of the three small ViTs of `aligncut demo`, on a CPU, from a seed.

    python examples/train_demo_models.py --model demo-clip --steps 1000 -o demo-clip.safetensors
    python examples/train_demo_models.py --model demo-dino --steps 1200 -o demo-dino.safetensors
    python examples/train_demo_models.py --model demo-mae --steps 1000 -o demo-mae.safetensors

The pictures are procedural scenes of TRAINING_SEED, which `aligncut demo` never draws. The objectives are small
versions of the paper's models': image-caption contrast (CLIP), self-distillation across crops (DINO), masked
reconstruction (MAE).
What a file was trained with (steps, seed, minutes, loss) is in its safetensors metadata.

The shipped files, all with seed 0 on one core of a shared machine (first and last loss are means over 25 to 50 steps;
the CPU minutes of the last two were not logged but estimated from part of the run):

    demo-clip   1000 steps of 96 scenes    loss 4.32 -> 1.15    6.4 CPU minutes
    demo-dino   1200 steps of 32 scenes    loss 9.45 -> 7.33    about 9
    demo-mae    1000 steps of 96 scenes    loss 0.87 -> 0.48    about 10
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from aligncut_cli.demo.scenes import CATEGORIES, SIZE, TRAINING_SEED, make_scene

ARCHITECTURE: dict[str, Any] = {
    "img_size": SIZE,
    "patch_size": 8,
    "embed_dim": 72,
    "depth": 6,
    "num_heads": 3,
    "num_classes": 0,
}
GRID = SIZE // 8
WIDTH = ARCHITECTURE["embed_dim"]
Records = list[dict[str, Any]]  # per scene: its background and its objects


# Scenes: drawn once, kept as one array


def load_scenes(n: int, cache: Path) -> tuple[np.ndarray, Records]:
    """Pictures uint8 (n, 112, 112, 3), memory-mapped, and what is in them; drawn at the first call (13 ms each)."""
    pictures, truth = cache / f"scenes-{n}.npy", cache / f"scenes-{n}.json"
    if not (pictures.exists() and truth.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        drawing = pictures.with_suffix(".part")
        array = np.lib.format.open_memmap(drawing, "w+", np.uint8, (n, SIZE, SIZE, 3))
        records = []
        for index in range(n):
            scene = make_scene(TRAINING_SEED, index)
            array[index] = scene.image
            records.append({"background": scene.background, "objects": [vars(item) for item in scene.objects]})
        array.flush()
        truth.write_text(json.dumps(records))
        drawing.rename(pictures)
    return np.load(pictures, mmap_mode="r"), json.loads(truth.read_text())


def to_input(pictures: np.ndarray) -> Tensor:
    """(n, 112, 112, 3) uint8 to (n, 3, 112, 112) float, normalized with mean 0.5 and standard deviation 0.5."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


# The encoder


def build_encoder() -> nn.Module:
    encoder: nn.Module = timm.create_model("vit_tiny_patch16_224", pretrained=False, **ARCHITECTURE)
    return encoder


def encode(vit: Any, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """Tokens (n, 1 + patches, width) after the last norm, any image size; `keep` (n, k) leaves out other patches."""
    patches = vit.patch_embed.proj(images)
    grid = patches.shape[-1]
    places = vit.pos_embed[:, 1:]
    if grid != GRID:
        square = places.transpose(1, 2).reshape(1, WIDTH, GRID, GRID)
        places = F.interpolate(square, size=(grid, grid), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    tokens = patches.flatten(2).transpose(1, 2) + places
    if keep is not None:
        tokens = tokens.gather(1, keep[..., None].expand(-1, -1, WIDTH))
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(images), -1, -1)
    return vit.norm(vit.blocks(torch.cat([first, tokens], dim=1)))


def choose_patches(n: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random order (n, 196) of the patches and the first `share` of it (n, k)."""
    order = torch.rand(n, GRID * GRID, generator=generator).argsort(dim=1)
    return order, order[:, : round(share * GRID * GRID)]


# Objective 1: pictures and captions (CLIP-like)

HUES = ("red", "orange", "yellow", "green", "teal", "blue", "violet", "pink")
SURROUNDINGS = {
    "meadow": "in a meadow under the sky",
    "room": "in a room with a tiled floor",
    "grass": "in the tall grass",
    "water": "over the water",
    "bricks": "before a brick wall",
}


def write_caption(record: dict[str, Any], rng: np.random.Generator) -> str:
    """Say what is in a scene; as people do, mention colour, size, texture and place only sometimes."""
    phrases = []
    for item in sorted(record["objects"], key=lambda o: -o["area"]):
        words = ["a"]
        if rng.random() < 0.35 and not 0.19 < item["size"] < 0.25:
            words.append("small" if item["size"] <= 0.19 else "large")
        if rng.random() < 0.35:
            words.append(HUES[int(item["hue"] * len(HUES) + 0.5) % len(HUES)])
        if rng.random() < 0.35:
            words.append(item["texture"])
        words.append(item["category"])
        if rng.random() < 0.35:
            words += ["on", "the", "left" if item["x"] < 0.5 else "right"]
        if rng.random() < 0.35:
            words += ["at", "the", "top" if item["y"] < 0.5 else "bottom"]
        phrases.append(" ".join(words))
    return " and ".join(phrases) + " " + SURROUNDINGS[record["background"]]


VOCABULARY = sorted(
    {"a", "and", "on", "at", "the", "left", "right", "top", "bottom", "small", "large", "plain", "dots", "blotches"}
    | set(HUES)
    | set(CATEGORIES)
    | {word for phrase in SURROUNDINGS.values() for word in phrase.split()}
)
WORD_NUMBER = {word: number + 1 for number, word in enumerate(VOCABULARY)}  # 0 pads


def look_closely(records: Records, rng: np.random.Generator) -> tuple[Tensor, Records]:
    """Choose 7 x 7 patches around one object of each scene, and keep only the objects whose centres lie there.

    A caption of the whole scene says little about a patch; one of a close-up says more, and costs a quarter.
    """
    keep, seen = [], []
    for record in records:
        item = record["objects"][rng.integers(len(record["objects"]))]
        left, top = (int(np.clip(int(item[axis] * GRID) - 3 + rng.integers(-2, 3), 0, GRID - 7)) for axis in ("x", "y"))
        keep.append((np.arange(top, top + 7)[:, None] * GRID + np.arange(left, left + 7)).ravel())
        inside = [o for o in record["objects"] if 0 <= o["x"] * GRID - left < 7 and 0 <= o["y"] * GRID - top < 7]
        seen.append({**record, "objects": inside})
    return torch.from_numpy(np.stack(keep)), seen


class Clip(nn.Module):
    """Image encoder and a small text transformer; matching pairs of a batch are told from all others (InfoNCE).

    Pairs are compared twice: mean token with mean word, and each word with the patch that suits it best (as in FILIP),
    so that the patches of an object, and not just any, learn its name. First close-ups, then, for the last fifth of the
    steps, 60 % of the patches of whole scenes.
    """

    batch, lr = 96, 1.5e-3

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder()
        self.words = nn.Embedding(len(VOCABULARY) + 1, 64, padding_idx=0)
        self.places = nn.Parameter(torch.randn(1, 40, 64) * 0.02)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
        self.text = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.from_image, self.from_text = nn.Linear(WIDTH, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.from_patch, self.from_word = nn.Linear(WIDTH, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.log_scales = nn.Parameter(torch.full((2,), math.log(10.0)))

    def loss(self, pictures: np.ndarray, records: Records, draw: Draw, progress: float) -> Tensor:
        images = to_input(pictures) * draw.uniform(0.8, 1.2, len(pictures)) + draw.uniform(-0.15, 0.15, len(pictures))
        if progress < 0.8:
            keep, records = look_closely(records, draw.rng)
        else:
            _, keep = choose_patches(len(images), 0.6, draw.generator)
        tokens = encode(self.encoder, images, keep)
        numbers = torch.zeros(len(records), 40, dtype=torch.long)
        for row, record in zip(numbers, records, strict=True):
            caption = [WORD_NUMBER[word] for word in write_caption(record, draw.rng).split()]
            row[: len(caption)] = torch.tensor(caption)
        numbers = numbers[:, : int((numbers > 0).sum(dim=1).max())]
        blank = numbers == 0
        states = self.text(self.words(numbers) + self.places[:, : numbers.shape[1]], src_key_padding_mask=blank)
        shown = (~blank).float()
        said = (states * shown[..., None]).sum(dim=1) / shown.sum(dim=1, keepdim=True)
        whole = F.normalize(self.from_image(tokens.mean(dim=1)), dim=1) @ F.normalize(self.from_text(said), dim=1).T
        patches = F.normalize(self.from_patch(tokens[:, 1:]), dim=2)
        words = F.normalize(self.from_word(states[~blank]), dim=1)  # the captions' words in a row
        best = torch.einsum("npd,wd->nwp", patches, words).amax(dim=2)  # (images, words)
        caption = torch.arange(len(images))[:, None].expand_as(blank)[~blank]
        fine = torch.zeros_like(whole).index_add(1, caption, best) / shown.sum(dim=1)
        target = torch.arange(len(images))
        losses = []
        for similarity, log_scale in zip((whole, fine), self.log_scales, strict=True):
            logits = similarity * log_scale.exp().clamp(max=50)
            losses.append((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2)
        return torch.stack(losses).mean()

    def finish_step(self, progress: float) -> None:
        """Nothing follows a step."""


# Objective 2: self-distillation across crops (DINO-like)


class Dino(nn.Module):
    """A student sees crops, recoloured, and must assign them to the prototypes that its moving average chooses.

    The class token stands for the whole crop; each patch is compared with the teacher's patch at the same place.
    Sinkhorn-Knopp keeps the teacher's assignments balanced, so that they cannot collapse.
    """

    batch, lr = 32, 1.5e-3
    prototypes, student_heat, teacher_heat = 128, 0.1, 0.04

    def __init__(self) -> None:
        super().__init__()
        self.student = self._with_heads()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def _with_heads(self) -> nn.ModuleDict:
        def head() -> nn.Module:
            return nn.Sequential(nn.Linear(WIDTH, 192), nn.GELU(), nn.Linear(192, 64))

        def prototypes() -> nn.Module:
            return nn.Linear(64, self.prototypes, bias=False)

        return nn.ModuleDict(
            {
                "encoder": build_encoder(),
                "whole": head(),
                "patch": head(),
                "whole_prototypes": prototypes(),
                "patch_prototypes": prototypes(),
            }
        )

    @property
    def encoder(self) -> nn.Module:
        return self.teacher["encoder"]  # as DINO does, ship the moving average

    @staticmethod
    def _logits(net: nn.ModuleDict, part: str, tokens: Tensor) -> Tensor:
        prototypes = F.normalize(net[f"{part}_prototypes"].weight, dim=1)
        return F.linear(F.normalize(net[part](tokens), dim=-1), prototypes)

    def loss(self, pictures: np.ndarray, records: Records, draw: Draw, progress: float) -> Tensor:
        images = to_input(pictures)
        n = len(images)
        wide = [Crop(images, 0.4, 0.8, 64, draw) for _ in range(2)]
        narrow = [Crop(images, 0.2, 0.4, 40, draw) for _ in range(3)]
        with torch.no_grad():
            tokens = encode(self.teacher["encoder"], torch.cat([crop.recoloured(draw) for crop in wide]))
            whole = balance(self._logits(self.teacher, "whole", tokens[:, 0]), self.teacher_heat).chunk(2)
            patch_logits = self._logits(self.teacher, "patch", tokens[:, 1:])
            patch = balance(patch_logits.flatten(0, 1), self.teacher_heat).view_as(patch_logits)
            maps = patch.transpose(1, 2).reshape(2 * n, self.prototypes, 8, 8).chunk(2)
        whole_losses, patch_losses = [], []
        for number, crop in enumerate(wide + narrow):
            tokens = encode(self.student["encoder"], crop.recoloured(draw))
            logits = self._logits(self.student, "whole", tokens[:, 0]) / self.student_heat
            patches = F.log_softmax(self._logits(self.student, "patch", tokens[:, 1:]) / self.student_heat, dim=-1)
            for other in range(2):
                if number == other:
                    continue  # the same crop: nothing to learn
                whole_losses.append(F.cross_entropy(logits, whole[other]))
                there = wide[other].locate(crop.patch_centres())  # (n, patches, 2) in the other crop, -1 to 1
                wanted = F.grid_sample(maps[other], there[:, :, None], mode="nearest", align_corners=False)[..., 0]
                inside = (there.abs() < 1).all(dim=-1)
                cross_entropy = -(wanted.transpose(1, 2) * patches).sum(dim=-1)
                patch_losses.append((cross_entropy * inside).sum() / inside.sum().clamp(min=1))
        return torch.stack(whole_losses).mean() + torch.stack(patch_losses).mean()

    @torch.no_grad()
    def finish_step(self, progress: float) -> None:
        momentum = 1 - (1 - 0.98) * (math.cos(math.pi * progress) + 1) / 2
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)


class Crop:
    """One random square crop per picture, with random mirroring, resampled to size x size."""

    def __init__(self, images: Tensor, least: float, most: float, size: int, draw: Draw) -> None:
        n = len(images)
        self.size = size
        self.side = draw.uniform(least, most, n).view(n, 1, 1)  # share of the picture's width
        self.centre = draw.uniform(-1, 1, 2 * n).view(n, 1, 2) * (1 - self.side)
        flip = (draw.uniform(0, 1, n).view(n, 1) < 0.5) * -2.0 + 1
        self.sign = torch.stack([flip, torch.ones_like(flip)], dim=-1)  # (n, 1, 2): mirror x only
        line = (torch.arange(size) + 0.5) / size * 2 - 1
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).view(1, size * size, 2)
        places = (grid * self.sign * self.side + self.centre).view(n, size, size, 2)
        self.images = F.grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=False)

    def recoloured(self, draw: Draw) -> Tensor:
        """Brightness, contrast and hue changed at random per picture; one in six is grey."""
        n = len(self.images)
        mixing = torch.eye(3) + torch.randn(n, 3, 3, generator=draw.generator) * 0.25
        mixing = mixing / mixing.sum(dim=2, keepdim=True).clamp(min=0.3)
        grey = (draw.uniform(0, 1, n) < 1 / 6).float().view(n, 1, 1)
        mixing = mixing * (1 - grey) + grey / 3
        images = torch.einsum("nij,njhw->nihw", mixing, self.images)
        return images * draw.uniform(0.7, 1.3, n) + draw.uniform(-0.25, 0.25, n)

    def patch_centres(self) -> Tensor:
        """Where the centres of the crop's patches are in the whole picture (n, patches, 2), x and y from -1 to 1."""
        line = (torch.arange(self.size // 8) + 0.5) / (self.size // 8) * 2 - 1
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).view(1, -1, 2)
        return grid * self.sign * self.side + self.centre

    def locate(self, places: Tensor) -> Tensor:
        """Turn places in the whole picture into places in this crop; outside of -1 to 1 where it does not reach."""
        return (places - self.centre) / self.side * self.sign


def balance(logits: Tensor, heat: float) -> Tensor:
    """Sinkhorn-Knopp: soft assignments (rows, prototypes) whose rows sum to 1 and whose columns are used equally."""
    assignment = torch.exp((logits - logits.max()) / heat)
    for _ in range(3):
        assignment = assignment / assignment.sum(dim=0, keepdim=True).clamp(min=1e-12)
        assignment = assignment / assignment.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return assignment


# Objective 3: masked reconstruction (MAE-like)


class Mae(nn.Module):
    """Three of four patches are hidden from the encoder; a small decoder reconstructs their normalized pixels."""

    batch, lr = 96, 2e-3

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder()
        self.inward = nn.Linear(WIDTH, 64)
        self.hidden = nn.Parameter(torch.randn(1, 1, 64) * 0.02)
        self.places = nn.Parameter(torch.randn(1, GRID * GRID + 1, 64) * 0.02)
        layer = nn.TransformerEncoderLayer(64, 4, 192, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.outward = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 8 * 8 * 3))

    def loss(self, pictures: np.ndarray, records: Records, draw: Draw, progress: float) -> Tensor:
        images = to_input(pictures)
        mirrored = draw.uniform(0, 1, len(images)) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
        order, keep = choose_patches(len(images), 0.25, draw.generator)
        tokens = self.inward(encode(self.encoder, images, keep))
        hidden = self.hidden.expand(len(images), order.shape[1] - keep.shape[1], -1)
        shuffled = torch.cat([tokens[:, 1:], hidden], dim=1)
        in_place = shuffled.gather(1, order.argsort(dim=1)[..., None].expand(-1, -1, 64))
        guess = self.outward(self.decoder(torch.cat([tokens[:, :1], in_place], dim=1) + self.places))[:, 1:]
        truth = F.unfold(images, 8, stride=8).transpose(1, 2)
        truth = (truth - truth.mean(dim=-1, keepdim=True)) / (truth.var(dim=-1, keepdim=True) + 1e-4).sqrt()
        error = (guess - truth).square().mean(dim=-1)
        return error.gather(1, order[:, keep.shape[1] :]).mean()

    def finish_step(self, progress: float) -> None:
        """Nothing follows a step."""


OBJECTIVES: dict[str, type[Clip] | type[Dino] | type[Mae]] = {"demo-clip": Clip, "demo-dino": Dino, "demo-mae": Mae}


# Training


class Draw:
    """All randomness of one training run."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)

    def uniform(self, low: float, high: float, n: int) -> Tensor:
        """(n, 1, 1, 1) numbers from low to high."""
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=self.generator)


def train(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    torch.manual_seed(args.seed)  # timm and torch.nn draw initial weights from the global generator only
    torch.set_num_threads(args.threads)
    pictures, records = load_scenes(args.scenes, args.cache)
    model = OBJECTIVES[args.model]()
    draw = Draw(args.seed)
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=model.lr, betas=(0.9, 0.95))
    losses: list[float] = []
    order = np.empty(0, np.int64)
    began = time.process_time()
    for step in range(args.steps):
        progress = step / args.steps
        rate = model.lr * min(1.0, (step + 1) / (0.06 * args.steps)) * (0.5 * (1 + math.cos(math.pi * progress)) + 0.01)
        for group in optimizer.param_groups:
            group["lr"] = rate
        if len(order) < model.batch:
            order = draw.rng.permutation(len(pictures))
        chosen, order = np.sort(order[: model.batch]), order[model.batch :]
        loss = model.loss(pictures[chosen], [records[k] for k in chosen], draw, progress)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*decayed, *others], 1.0)
        optimizer.step()
        model.finish_step(progress)
        losses.append(loss.item())
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            minutes = (time.process_time() - began) / 60
            recent = float(np.mean(losses[-args.every :]))
            say(f"{args.model} step {step + 1}/{args.steps}  loss {recent:.4f}  {minutes:.1f} CPU minutes")
            save(model.encoder, args, {"step": step + 1, "cpu_minutes": round(minutes, 1), "loss": round(recent, 4)})


def save(encoder: nn.Module, args: argparse.Namespace, reached: dict[str, float]) -> None:
    """Write the encoder in float16 with what it was trained on and how."""
    tensors = {name: value.detach().half().contiguous() for name, value in encoder.state_dict().items()}
    facts = {
        "model": args.model,
        "architecture": {"timm": "vit_tiny_patch16_224", **ARCHITECTURE},
        "mean": 0.5,
        "std": 0.5,
        "training": {"steps": args.steps, "seed": args.seed, "scenes": args.scenes, **reached},
        "scene_seed": TRAINING_SEED,
    }
    part = args.output.with_suffix(".part")
    save_file(tensors, part, metadata={"aligncut": json.dumps(facts)})
    os.replace(part, args.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(OBJECTIVES), required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="initial weights and everything drawn while training")
    parser.add_argument("--scenes", type=int, default=16384, help="how many scenes to draw (13 ms and 38 kB each)")
    parser.add_argument("--cache", type=Path, default=Path("demo-training"), help="folder that keeps the drawn scenes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=50, help="steps between a line on the terminal and a checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True)
    train(parser.parse_args(), lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
