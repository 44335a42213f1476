"""Pictures and captions: an image-caption contrast (CLIP-like)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aligncut_cli.demo.scenes import CATEGORIES, TEXTURES
from demo_objectives.encoder import GRID, LATE, PATCH, WIDTH, Draw, build_encoder, encode, list_window, to_input
from demo_objectives.scenes import Record, Scenes, Visits

HUES = ("red", "orange", "yellow", "green", "teal", "blue", "violet", "pink")
SURROUNDINGS = {
    "meadow": "in a meadow under the sky",
    "room": "in a room with a tiled floor",
    "grass": "in the tall grass",
    "water": "over the water",
    "bricks": "before a brick wall",
    "sand": "on the sand",
}
VOCABULARY = sorted(
    {"a", "and", "on", "at", "the", "left", "right", "top", "bottom", "small", "large", "nothing", *TEXTURES}
    | set(HUES)
    | set(CATEGORIES)
    | {word for phrase in SURROUNDINGS.values() for word in phrase.split()}
)
WORD_NUMBER = {word: number + 1 for number, word in enumerate(VOCABULARY)}  # 0 pads
LONGEST = 64


def write_caption(record: Record, rng: np.random.Generator) -> str:
    """Say what is in a scene; as people do, mention colour, size, texture and place only sometimes."""
    phrases = []
    for item in sorted(record["objects"], key=lambda o: -o["area"]):
        words = ["a"]
        if rng.random() < 0.25 and not 0.2 < item["size"] < 0.28:
            words.append("small" if item["size"] <= 0.2 else "large")
        if rng.random() < 0.25:
            words.append(HUES[int(item["hue"] * len(HUES) + 0.5) % len(HUES)])
        if rng.random() < 0.25:
            words.append(item["texture"])
        words.append(item["category"])
        if rng.random() < 0.25:
            words += ["on", "the", "left" if item["x"] < 0.5 else "right"]
        if rng.random() < 0.25:
            words += ["at", "the", "top" if item["y"] < 0.5 else "bottom"]
        phrases.append(" ".join(words))
    return " and ".join(phrases or ["nothing"]) + " " + SURROUNDINGS[record["background"]]


def look_closely(
    scenes: Scenes, chosen: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[Tensor, list[Record]]:
    """Choose side x side patches of each scene, and keep only the objects that are seen there.

    Every other window lies around an object, the rest anywhere; an object is seen where it covers a tenth of it.
    A caption of the whole scene says little about a patch; one of a close-up says more, and costs less.
    """
    corners, seen = [], []
    for k in chosen:
        record = scenes.records[k]
        corner = rng.integers(0, GRID - side + 1, 2)
        if rng.random() < 0.5:
            item = record["objects"][rng.integers(len(record["objects"]))]
            middle = np.array([int(item["y"] * GRID), int(item["x"] * GRID)]) + rng.integers(-2, 3, 2)
            corner = (middle - side // 2).clip(0, GRID - side)
        (top, left), reach = corner * PATCH, side * PATCH
        kinds = np.bincount(scenes.masks[k][top : top + reach, left : left + reach].ravel(), minlength=9) / reach**2
        inside = [o for o in record["objects"] if kinds[CATEGORIES.index(o["category"]) + 1] > 0.1]
        seen.append({**record, "objects": inside})
        corners.append(corner)
    tops, lefts = np.array(corners).T
    return list_window(tops, lefts, side), seen


class Clip(nn.Module):
    """Image encoder and a small text transformer; matching pairs of a batch are told from all others (InfoNCE).

    Pairs are compared twice: mean token with mean word, and each word with the patch that suits it best and each patch
    with the word that does (as in FILIP), so that the patches of an object, and not just any, learn its name. First
    close-ups, then, for the last sixth of the steps, whole scenes.
    """

    batch, lr, alike = 64, 1.5e-3, 0.75

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder()
        self.words = nn.Embedding(len(VOCABULARY) + 1, 64, padding_idx=0)
        self.places = nn.Parameter(torch.randn(1, LONGEST, 64) * 0.02)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
        self.text = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.from_image, self.from_text = nn.Linear(WIDTH, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.from_patch, self.from_word = nn.Linear(WIDTH, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.log_scales = nn.Parameter(torch.full((3,), math.log(10.0)))

    def loss(self, visits: Visits, chosen: np.ndarray, draw: Draw, progress: float) -> Tensor:
        """Mean of the three contrasts, each both ways, on one of the visits."""
        scenes = visits[int(draw.rng.integers(2))]
        chosen = chosen[: len(chosen) // 3] if progress >= LATE else chosen
        records, n = [scenes.records[k] for k in chosen], len(chosen)
        images = to_input(scenes.pictures[chosen]) * draw.uniform(0.8, 1.2, n) + draw.uniform(-0.15, 0.15, n)
        keep = None
        if progress < LATE:
            keep, records = look_closely(scenes, chosen, int(draw.rng.integers(3, 8)), draw.rng)
        tokens = encode(self.encoder, images, keep)
        numbers = torch.zeros(len(records), LONGEST, dtype=torch.long)
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
        words = F.normalize(self.from_word(states), dim=2)
        suits = torch.einsum("npd,mwd->npmw", patches, words).masked_fill(blank, -1.0)
        for_words = (suits.amax(dim=1) * shown).sum(dim=2) / shown.sum(dim=1)
        for_patches = suits.amax(dim=3).mean(dim=1)
        target = torch.arange(len(images))
        losses = []
        for similarity, log_scale in zip((whole, for_words, for_patches), self.log_scales, strict=True):
            logits = similarity * log_scale.exp().clamp(max=50)
            losses.append((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2)
        return torch.stack(losses).mean()

    def prepare(self, visits: Visits) -> None:
        """Nothing is to be prepared."""

    def finish_step(self, progress: float) -> None:
        """Nothing follows a step."""

    def shipped(self) -> Any:
        """Return the encoder that the demo uses."""
        return self.encoder
