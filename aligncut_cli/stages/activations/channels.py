"""The channels that matter for each area, and the patches that drive them most (Fig. 2, left): a sheet and a table.

Memory is bounded: three blocks of one slot at a time, and the activations of the chosen channels of one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.channel_choice import choose_channels
from aligncut_cli.maths.concepts import NearestTokens
from aligncut_cli.params import ActivationsParams
from aligncut_cli.stages.patches import cut_patch, load_patches
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.regions import order_regions
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.nodes import Block, image_slices
from aligncut_cli.store.phases import load_ahead
from aligncut_cli.viz.sheet import Row, draw_sheet
from aligncut_cli.viz.style import FigureStyle

HEADER = ["roi", "channel", "weight", "direction", "rank", "image", "row", "column", "activation"]
TITLE = "patches that drive the channels of each area most, early areas first; activations are means over all slots"


@dataclass(frozen=True)
class RoiChannel:
    """A universal channel that matters for a region.

    weight    : mean |beta| over the region's voxels times the channel's deviation over images
    direction : 1 where more of the channel raises the region's mean response, else -1; patches are ranked by it
    """

    roi: str
    channel: int
    weight: float
    direction: int


def choose_roi_channels(
    readout: NDArray[np.floating], deviation: NDArray[np.floating], rois: dict[str, NDArray[np.bool_]], count: int
) -> list[RoiChannel]:
    """Choose the channels that matter most for each region, the one that matters most first.

    readout   : (universal, voxel) beta
    deviation : (universal,) of the pooled channels
    rois      : (voxel,) by name
    """
    chosen = []
    for name in order_regions(list(rois)):
        beta = readout[:, rois[name]].astype(np.float64)
        weight = np.abs(beta).mean(axis=1) * deviation
        channels = choose_channels(beta, deviation, count)
        for channel in channels[np.argsort(-weight[channels], kind="stable")]:
            direction = 1 if beta[channel].mean() >= 0 else -1
            chosen.append(RoiChannel(name, int(channel), float(weight[channel]), direction))
    return chosen


class DrivingPatches:
    """Finds the patches that drive channels most, block by block, and keeps them in a folder under the block's number.

    A patch's activation of a channel is the mean over slots of V W, whose mean over patches is what Eq. 2 reads out.
    Slots of another grid than the first model's have other patches and are left out; `left_out` names their models.
    """

    images_at_once = 256

    def __init__(
        self,
        space: FeatureSpace,
        alignment: Alignment,
        deviation: NDArray[np.floating],
        photos: Photos,
        params: ActivationsParams,
        folder: Path,
    ) -> None:
        self.space, self.photos, self.folder, self.n_patches = space, photos, folder, params.patches
        self.model = space.axes.models[0]
        own = [model.name for model in space.axes.models if model.grid == self.model.grid]
        self.slots = [slot for slot in space.axes.slots if slot.model in own]
        self.left_out = [name for name in space.axes.names if name not in own]
        names, rows = alignment.stack_rois(with_all=False)
        if not names:
            names, rows = alignment.stack_rois(with_all=True)
        rois = dict(zip(names, rows, strict=True))
        self.chosen = choose_roi_channels(alignment.read_readout(), deviation, rois, params.channels)
        self.per_block = min(self.images_at_once, *(space.images_per_read()[name] for name in own))
        self.blocks = list(image_slices(self.model.n_images, self.per_block))

    @property
    def block_bytes(self) -> int:
        """Return the bytes of three blocks of a slot and of the activations of one."""
        rows = self.per_block * self.model.n_tokens
        width = max(self.space.n_channels_stored(slot.model) for slot in self.slots)
        return rows * (width * 10 + len(self.chosen) * 40)

    def find(self, index: int, images: slice) -> None:
        """Find the driving patches of a block of images."""
        every = [one.channel for one in self.chosen]
        total = np.zeros((images.stop - images.start, self.model.grid[0] * self.model.grid[1], len(every)))
        for slot, patches in load_ahead(self.slots, lambda slot: load_patches(self.space, Block(slot, images))):
            total += patches.astype(np.float32) @ self.space.weight(slot)[:, every].cpu().numpy()
        drive = total / len(self.slots) * [one.direction for one in self.chosen]
        nearest = NearestTokens(len(every), self.n_patches)
        nearest.add(-drive, first_image=images.start)
        np.savez(self._file(index), distance=nearest.distance, image=nearest.image, token=nearest.token)

    def write(self, folder: Path, *, style: FigureStyle, controls: Sequence[str]) -> None:
        """Write channels.csv and the sheet of channels."""
        found = self._merge()
        table: list[list[object]] = []
        sheet = []
        for at, one in enumerate(self.chosen):
            tiles = []
            for rank in np.flatnonzero(found.image[at] >= 0):
                image, patch = int(found.image[at, rank]), int(found.token[at, rank])
                row, column = divmod(patch, self.model.grid[1])
                activation = -float(found.distance[at, rank]) * one.direction
                name = self.photos.id(image)
                cells = [one.roi, one.channel, one.weight, one.direction, int(rank)]
                table.append([*cells, name, row, column, activation])
                tiles.append((name, cut_patch(self.photos, image, row, column, self.model)))
            sign = "+" if one.direction > 0 else "-"
            sheet.append(Row(f"{one.roi}\nchannel {one.channel} {sign}", tiles))
        write_csv(folder / "channels.csv", HEADER, table, controls=controls)
        sheets = draw_sheet(sheet, title=TITLE, style=style, controls=controls)
        sheets.save(style.file(folder, "channels"))

    def drawn(self) -> set[int]:
        """Return the images whose patches are shown."""
        return {int(image) for image in self._merge().image.ravel() if image >= 0}

    def _merge(self) -> NearestTokens:
        found = NearestTokens(len(self.chosen), self.n_patches)
        for index in range(len(self.blocks)):
            with np.load(self._file(index)) as saved:
                found.merge(saved["distance"], saved["image"], saved["token"])
        return found

    def _file(self, index: int) -> Path:
        return self.folder / f"channels-{index}.npz"
