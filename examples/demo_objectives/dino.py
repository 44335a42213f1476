"""Self-distillation across crops of two visits to one place, with a patch-level term (DINO- and iBOT-like)."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo_objectives.encoder import (
    GRID,
    LATE,
    PATCH,
    WIDTH,
    Draw,
    build_encoder,
    encode,
    list_window,
    share_of_values,
    to_input,
)
from demo_objectives.scenes import Scenes, Visits

HEAT = 0.1
RECOLOURING = 0.3
WIDE = 7  # side of the crops in patches


class Dino(nn.Module):
    """A student must tell what its moving average, the teacher, makes of another crop of the same place.

    The two crops are of the two visits, so that what they share is what things are and no colour: recolouring one
    picture, all that DINO has to go by, let this small world's pictures be told apart by their individual things, and
    kinds of things never. The class token stands for the whole crop. Each patch, whether it was hidden from the student
    or not, is compared with the mean of the teacher's patches of the same thing in the other crop, as in DetCon, which
    must be told what belongs to one thing (not what it is called). The right answer is told from those of the batch's
    other pictures (as in MoCo v3), which holds the outputs apart from the first step on. The last sixth of the steps
    sees whole scenes.
    """

    batch, lr, alike = 32, 1.5e-3, 0.75

    def __init__(self) -> None:
        super().__init__()
        self.student = self._with_heads()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.hidden = nn.Parameter(torch.zeros(1, 3, PATCH, PATCH))

    @staticmethod
    def _with_heads() -> nn.ModuleDict:
        def head() -> nn.Module:
            return nn.Sequential(nn.Linear(WIDTH, 192), nn.GELU(), nn.Linear(192, 64))

        return nn.ModuleDict({"encoder": build_encoder(), "whole": head(), "patch": head()})

    @property
    def encoder(self) -> Any:
        """What is trained."""
        return self.student["encoder"]

    def shipped(self) -> Any:
        """Return the moving average's encoder, as DINO does."""
        return self.teacher["encoder"]

    def loss(self, visits: Visits, chosen: np.ndarray, draw: Draw, progress: float) -> Tensor:
        """Mean cross-entropy of crops plus that of patches."""
        late = progress >= LATE
        chosen = chosen[: len(chosen) // 2] if late else chosen
        n, side = len(chosen), GRID if late else WIDE
        first = Crop(visits[0], chosen, side, draw)
        crops = [first, Crop(visits[1], chosen, side, draw, near=first)]
        for crop in crops:
            crop.recolour(RECOLOURING, draw)
        with torch.no_grad():
            seen, window = torch.cat([crop.images for crop in crops]), torch.cat([crop.window for crop in crops])
            tokens = encode(self.teacher["encoder"], seen, window=window)
            whole = F.normalize(self.teacher["whole"](tokens[:, 0]), dim=-1).chunk(2)
            patch = F.normalize(self.teacher["patch"](tokens[:, 1:]), dim=-1).chunk(2)
        losses = []
        for number, crop in enumerate(crops):
            is_hidden = choose_hidden(n, side, draw)
            cover = is_hidden.view(n, 1, side, side).float().repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
            images = crop.images * (1 - cover) + self.hidden.repeat(1, 1, side, side) * cover
            tokens = encode(self.student["encoder"], images, window=crop.window)
            said = F.normalize(self.student["whole"](tokens[:, 0]), dim=-1)
            patches = F.normalize(self.student["patch"](tokens[:, 1:]), dim=-1)
            other = 1 - number
            losses.append(F.cross_entropy(said @ whole[other].T / HEAT, torch.arange(n)))
            losses.append(tell_things(patches, crop.things, patch[other], crops[other].things))
        return torch.stack(losses).sum() / 2

    def prepare(self, visits: Visits) -> None:
        """Let the teacher begin as the student does."""
        self.teacher.load_state_dict(self.student.state_dict())

    @torch.no_grad()
    def finish_step(self, progress: float) -> None:
        """Let the teacher follow the student, the more slowly the later."""
        momentum = 0.999 - 0.015 * (math.cos(math.pi * progress) + 1) / 2
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)


def tell_things(patches: Tensor, things: Tensor, others: Tensor, things_there: Tensor) -> Tensor:
    """Cross-entropy of telling, for each patch, its thing in the other crop from all things of the batch's other crops.

    patches, others      : (n, patches, dim) of unit length, of one crop and of the other
    things, things_there : (n, patches, k) share of each thing of the picture in each patch; 0 is the ground, and the
                           ground of other pictures is no wrong answer to ground
    returns              : mean over patches of things plus mean over those of ground
    """
    n, k = len(patches), things.shape[2]
    answers = F.normalize(things_there.transpose(1, 2) @ others, dim=-1)
    there = things_there.sum(dim=1) > 1  # (n, k): more than one patch of it is seen
    own = things.argmax(dim=2)
    asked = (things.amax(dim=2) > 0.5) & there.gather(1, own)
    allowed = there.expand(*own.shape, n, k).clone()
    allowed[..., 0] &= (own > 0)[..., None] | torch.eye(n, dtype=torch.bool)[:, None]
    logits = torch.einsum("npd,mkd->npmk", patches, answers) / HEAT
    logits = logits.masked_fill(~allowed, float("-inf")).flatten(2)
    target = torch.arange(n)[:, None] * k + own
    parts = [asked & (own > 0), asked & (own == 0)]
    return torch.stack([F.cross_entropy(logits[part], target[part]) for part in parts if part.any()]).sum()


class Crop:
    """One random square crop per picture, mirrored at random, at about its own scale, in a window of the grid.

    side   : patches across; a crop shows 0.75 to 1.35 times as many pixels as it has
    near   : another crop, whose centre this one's stays close to
    images : (n, 3, pixels, pixels)
    things : (n, patches, k) share of each thing in each patch
    """

    def __init__(self, scenes: Scenes, chosen: np.ndarray, side: int, draw: Draw, near: Crop | None = None) -> None:
        n, size = len(chosen), side * PATCH
        reach = draw.uniform(0.75, 1.35, n).view(n, 1, 1) * side / GRID
        reach = reach.clamp(max=1.0)  # share of the picture's width
        at = draw.uniform(-1, 1, 2 * n).view(n, 1, 2)
        centre = at if near is None else near.centre + 0.35 * at
        self.centre = torch.minimum(torch.maximum(centre, reach - 1), 1 - reach)
        flip = (draw.uniform(0, 1, n).view(n, 1) < 0.5) * -2.0 + 1
        sign = torch.stack([flip, torch.ones_like(flip)], dim=-1)  # (n, 1, 2): mirror x only
        line = (torch.arange(size) + 0.5) / size * 2 - 1
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).view(1, size * size, 2)
        places = (grid * sign * reach + self.centre).view(n, size, size, 2)
        images = to_input(scenes.pictures[chosen])
        self.images = F.grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=False)
        masks = torch.from_numpy(np.array(scenes.masks[chosen])).float()[:, None]
        self.things = share_of_values(F.grid_sample(masks, places, mode="nearest", align_corners=False)[:, 0])
        corner = draw.rng.integers(0, GRID - side + 1, (2, n))
        self.window = list_window(corner[0], corner[1], side)

    def recolour(self, strength: float, draw: Draw) -> None:
        """Change brightness, contrast and hue at random per picture; one in six turns grey."""
        n = len(self.images)
        mixing = torch.eye(3) + torch.randn(n, 3, 3, generator=draw.generator) * strength
        mixing = mixing / mixing.sum(dim=2, keepdim=True).clamp(min=0.3)
        grey = (draw.uniform(0, 1, n) < 1 / 6).float().view(n, 1, 1)
        mixing = mixing * (1 - grey) + grey / 3
        images = torch.einsum("nij,njhw->nihw", mixing, self.images)
        self.images = images * draw.uniform(1 - strength, 1 + strength, n) + draw.uniform(-strength, strength, n) * 0.7


def choose_hidden(n: int, side: int, draw: Draw) -> Tensor:
    """Hide three in ten patches (n, side * side) of every other crop of a batch."""
    chosen: Tensor = torch.rand(n, side * side, generator=draw.generator) < 0.3
    chosen[::2] = False
    return chosen
