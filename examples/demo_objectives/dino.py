"""Self-distillation across crops of two visits to one place, with a patch-level term (DINO- and iBOT-like)."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo_objectives.encoder import GRID, PATCH, WIDTH, Draw, build_encoder, encode, list_window, to_input
from demo_objectives.scenes import Visits

HEAT = 0.1
RECOLOURING = 0.3
APART = 2  # patches of one picture that lie further apart than this are told from each other
WIDE, PATCHES = 7, 24  # side of the crops in patches; patches that are compared per crop


class Dino(nn.Module):
    """A student must tell what its moving average, the teacher, makes of another crop of the same place.

    The two crops are of the two visits, so that what they share is what things are and no colour: recolouring one
    picture, all that DINO has to go by, let this small world's pictures be told apart by their individual things, and
    kinds of things never. The class token stands for the whole crop; each patch, whether it was hidden from the student
    or not, is compared with the teacher's patch at the same place of the other crop. (With that of the same crop, as
    iBOT has it, position alone answers.) The right answer is told from those of the batch's other pictures and of
    distant patches (as in MoCo v3 and DenseCL), which holds the outputs apart from the first step on. The last sixth of
    the steps sees whole scenes.
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
        late = progress >= 5 / 6
        chosen = chosen[: len(chosen) // 2] if late else chosen
        n = len(chosen)
        first = Crop(to_input(visits[0].pictures[chosen]), GRID if late else WIDE, draw)
        crops = [first, Crop(to_input(visits[1].pictures[chosen]), GRID if late else WIDE, draw, near=first)]
        for crop in crops:
            crop.recolour(RECOLOURING, draw)
        side = first.side
        with torch.no_grad():
            seen, window = torch.cat([crop.images for crop in crops]), torch.cat([crop.window for crop in crops])
            tokens = encode(self.teacher["encoder"], seen, window=window)
            whole = F.normalize(self.teacher["whole"](tokens[:, 0]), dim=-1).chunk(2)
            patch = F.normalize(self.teacher["patch"](tokens[:, 1:]), dim=-1).chunk(2)
            maps = [part.transpose(1, 2).reshape(n, -1, side, side) for part in patch]
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
            there = crops[other].locate(crop.patch_centres())  # (n, patches, 2) in the other crop, -1 to 1
            wanted = F.grid_sample(maps[other], there[:, :, None], mode="nearest", align_corners=False)[..., 0]
            inside = (there.abs() < 1).all(dim=-1)
            losses.append(tell_patches(patches, wanted.transpose(1, 2), inside, draw))
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


def tell_patches(patches: Tensor, wanted: Tensor, usable: Tensor, draw: Draw) -> Tensor:
    """Cross-entropy of telling each patch's answer from those of other pictures and of distant patches of its own.

    patches, wanted : (n, patches, dim) of unit length, of square crops
    usable          : (n, patches): where there is an answer; PATCHES of these are drawn per picture
    """
    n, side = len(patches), math.isqrt(patches.shape[1])
    order = (torch.rand(usable.shape, generator=draw.generator) - usable.float()).argsort(dim=1)[:, :PATCHES]
    pick = order[..., None].expand(-1, -1, patches.shape[2])
    asked, answers = patches.gather(1, pick).flatten(0, 1), wanted.gather(1, pick).flatten(0, 1)
    valid = usable.gather(1, order).flatten()
    picture = torch.arange(n).repeat_interleave(PATCHES)
    row, column = order.flatten() // side, order.flatten() % side
    gap = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())
    same = (picture[:, None] == picture[None]) & ~torch.eye(len(picture), dtype=torch.bool)
    same &= gap <= APART
    logits = (asked @ answers.T / HEAT).masked_fill(same | ~valid[None], float("-inf"))
    return F.cross_entropy(logits[valid], torch.arange(len(picture))[valid])


class Crop:
    """One random square crop per picture, mirrored at random, at about its own scale, in a window of the grid.

    side : patches across; a crop shows 0.75 to 1.35 times as many pixels as it has
    near : another crop, whose centre this one's stays close to
    """

    def __init__(self, images: Tensor, side: int, draw: Draw, near: Crop | None = None) -> None:
        n, size = len(images), side * PATCH
        self.side = side
        reach = draw.uniform(0.75, 1.35, n).view(n, 1, 1) * side / GRID
        self.reach = reach.clamp(max=1.0)  # share of the picture's width
        at = draw.uniform(-1, 1, 2 * n).view(n, 1, 2)
        centre = at if near is None else near.centre + 0.35 * at
        self.centre = torch.minimum(torch.maximum(centre, self.reach - 1), 1 - self.reach)
        flip = (draw.uniform(0, 1, n).view(n, 1) < 0.5) * -2.0 + 1
        self.sign = torch.stack([flip, torch.ones_like(flip)], dim=-1)  # (n, 1, 2): mirror x only
        line = (torch.arange(size) + 0.5) / size * 2 - 1
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).view(1, size * size, 2)
        places = (grid * self.sign * self.reach + self.centre).view(n, size, size, 2)
        self.images = F.grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=False)
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

    def patch_centres(self) -> Tensor:
        """Where the centres of the crop's patches are in the whole picture (n, patches, 2), x and y from -1 to 1."""
        line = (torch.arange(self.side) + 0.5) / self.side * 2 - 1
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).view(1, -1, 2)
        return grid * self.sign * self.reach + self.centre

    def locate(self, places: Tensor) -> Tensor:
        """Turn places in the whole picture into places in this crop; outside of -1 to 1 where it does not reach."""
        return (places - self.centre) / self.reach * self.sign


def choose_hidden(n: int, side: int, draw: Draw) -> Tensor:
    """Hide three in ten patches (n, side * side) of every other crop of a batch."""
    chosen: Tensor = torch.rand(n, side * side, generator=draw.generator) < 0.3
    chosen[::2] = False
    return chosen
