"""Reads features as rows of the space asked for: as extracted, universal, or some universal channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.affinity import unit_rows
from aligncut_cli.maths.channel_choice import choose_channels
from aligncut_cli.maths.finite import all_finite
from aligncut_cli.maths.products import inner_products
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.kinds.base import AnyStore
from aligncut_cli.store.kinds.features import POOLED, Features
from aligncut_cli.store.nodes import Block, NodeAxes, Slot, image_slices

ROWS_MAPPED_AT_ONCE = 8192


@dataclass(frozen=True)
class FeatureSpace:
    """Features of one store in one space.

    features  : a features store with tokens
    alignment : an alignment store whose maps W are applied (Eq. 1), or None
    device    : where the mapped rows are wanted
    roi, top_channels : keep only the universal channels that drive this ROI's predictions most (Fig. 2)
    centre    : gives a slot's mean token as stored, (channel,), which is subtracted from its rows; None for nothing
    fit       : which of the alignment's fits
    """

    features: Features
    alignment: Alignment | None
    device: torch.device
    roi: str | None = None
    top_channels: int | None = None
    centre: Callable[[Slot], NDArray[np.float32]] | None = None
    fit: int = 0

    @classmethod
    def of(
        cls,
        features: AnyStore,
        alignment: AnyStore | None,
        device: torch.device,
        *,
        roi: str | None = None,
        top_channels: int | None = None,
        centre: Callable[[Slot], NDArray[np.float32]] | None = None,
        fit: int = 0,
    ) -> FeatureSpace:
        """Return features as they are stored, or mapped by an alignment."""
        mapped = None if alignment is None else Alignment(alignment)
        return cls(Features(features), mapped, device, roi, top_channels, centre, fit)

    @classmethod
    def universal(cls, features: AnyStore, alignment: AnyStore, device: torch.device) -> FeatureSpace:
        """Return features in the universal space of an alignment: mapped by it here, or before by `align --apply`.

        raises : BadInput where they were mapped by another alignment
        """
        mapped_by = [item for item in features.record["inputs"] if item["kind"] == "alignment"]
        if mapped_by and mapped_by[0]["digest"] != alignment.as_input.digest:
            raise BadInput(
                f"{features.path} was mapped by another alignment than {alignment.path}",
                do=f"Give --alignment {mapped_by[0]['path']}, or the features as extracted.",
            )
        return cls.of(features, None if mapped_by else alignment, device)

    def require(self) -> None:
        """Refuse features that cannot be put into one space, before any work."""
        if self.alignment is not None and self.features.store.record["stage"] == "align":
            raise UsageError(f"{self.path} is already mapped to a universal space", do="Leave out --alignment.")
        for model in self.axes.models:
            if not self.features.has_tokens(model.name):
                raise BadInput(
                    f"{self.path} holds pooled features only, and this stage needs tokens",
                    do="Extract again with --save both.",
                )
            if self.alignment is not None:
                weight = self._weight_shape(model.name)
                if weight[1] != self.n_channels_stored(model.name):
                    raise BadInput(
                        f"{self.alignment.store.path} maps {weight[1]} channels of {model.name}, "
                        f"and {self.path} has {self.n_channels_stored(model.name)}",
                        do="Use the alignment that was fitted to these models.",
                    )
                for layer in model.layers:
                    self._map_position(Slot(model.name, layer, 0))
        if self.fit and self.alignment is None:
            raise UsageError("--fit needs --alignment", why="It says which of the alignment's fits is meant.")
        if self.alignment is not None:
            self.alignment.require_fit(self.fit)
        if (self.roi is None) != (self.top_channels is None):
            raise UsageError(
                "--roi and --top-channels go together", do="Give both, such as --roi V4 --top-channels 64."
            )
        if self.roi is not None and self.alignment is None:
            raise UsageError("--roi needs --alignment", why="An ROI's channels are those of the universal space.")

    @property
    def comparable(self) -> bool:
        """Return whether channels mean the same in all models: one space, or one model."""
        mapped_before = any(item["kind"] == "alignment" for item in self.features.store.record["inputs"])
        return self.alignment is not None or mapped_before or len(self.axes.names) == 1

    @property
    def path(self) -> Path:
        """Return where the features are, for messages."""
        return self.features.store.path

    @cached_property
    def axes(self) -> NodeAxes:
        """Return the node axes."""
        return self.features.axes

    def width(self, *, comparable: bool) -> int:
        """Return the number of channels of the rows given out; narrower models are padded with zeros to it.

        comparable : whether rows of different models meet in one graph, so that their channels must mean the same
        """
        widths = {name: self.n_channels_stored(name) for name in self.axes.names}
        if comparable and self.alignment is None and len(set(widths.values())) > 1:
            raise BadInput(
                f"the models differ in channels ({', '.join(f'{k}: {v}' for k, v in widths.items())}), "
                "so their nodes cannot be compared",
                do="Give --alignment, which maps all of them into one space, or cut each alone: --group model",
            )
        return self._width

    @cached_property
    def _width(self) -> int:
        if self.channels is not None:
            return len(self.channels)
        if self.alignment is not None:
            return self._weight_shape(self.axes.names[0])[2]
        return max(self.n_channels_stored(name) for name in self.axes.names)

    def own_width(self, model: str) -> int:
        """Return the number of channels of a model's rows before they are padded."""
        return self.n_channels_stored(model) if self.alignment is None else self._width

    def n_channels_stored(self, model: str) -> int:
        """Return D_i as extracted."""
        return self.features.width(model)

    def images_per_read(self) -> dict[str, int]:
        """Return how many images one chunk of each model holds."""
        return self.features.images_per_chunk

    def load(self, block: Block) -> NDArray[np.float16]:
        """Read a block as stored: (images x tokens, channel); checks that it is finite. Safe in a thread."""
        values = self.features.read_block(block)
        if not all_finite(values):
            image = int(np.argwhere(~np.isfinite(values).all(axis=(1, 2)))[0, 0]) + block.images.start
            raise BadInput(
                f"{self.path}: features of {block.slot}, image {image} are not finite",
                do="Extract again; see which image it is in images/id.",
            )
        return values.reshape(-1, values.shape[-1])

    def map_rows(self, rows: NDArray[Any], slot: Slot) -> torch.Tensor:
        """Return rows in the space asked for, (n, D) float32 on the device.

        Mapped features are rounded to float16, so that they equal those of `align --apply`, which stores them.
        """
        values = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
        if self.alignment is not None:
            weight = self.weight(slot)
            parts = [inner_products(part.float(), weight.T) for part in values.split(ROWS_MAPPED_AT_ONCE)]
            values = torch.cat(parts).to(torch.float16) if parts else values
            if not torch.isfinite(values).all():
                raise BadInput(
                    f"the features of {slot}, mapped by {self.alignment.store.path}, exceed the range of float16"
                )
        values = values.float()
        if self.centre is not None:
            values = values - self._mapped_centre(slot)
        if self.channels is not None:
            values = values[:, self.channels]
        return torch.nn.functional.pad(values, (0, self._width - values.shape[1]))

    def unit_rows(self, rows: NDArray[Any], slot: Slot) -> torch.Tensor:
        """Return mapped rows of unit length, so that inner products are cosines (Eq. 3)."""
        return unit_rows(self.map_rows(rows, slot))

    def weight(self, slot: Slot) -> torch.Tensor:
        """Return W of a slot, (channel, universal) float32; the identity where features are taken as they are."""
        if self.alignment is None:
            return torch.eye(self.n_channels_stored(slot.model), device=self.device)
        if slot not in self._weights:
            if len(self._weights) > 4:
                self._weights.clear()
            values = self._require_alignment().read_weight(slot.model, self._map_position(slot), fit=self.fit)
            self._weights[slot] = torch.from_numpy(values).to(self.device)
        return self._weights[slot]

    def mean_tokens(self, model: str) -> NDArray[np.float32]:
        """Return the mean token of a model's slots as stored, (layer, channel).

        It is that of the pooled means where the store has them, which know all tokens; otherwise of the tokens kept.
        """
        axes, step = self.axes[model], self.images_per_read()[model]
        total = np.zeros((len(axes.layers), self.n_channels_stored(model)))
        for images in image_slices(axes.n_images, step):
            if self.features.has_pooled(model):
                pooled = self.features.store.read(POOLED.at(model), (slice(None), images))
                total += pooled.sum(axis=1, dtype=np.float64)
                continue
            for position, layer in enumerate(axes.layers):
                rows = self.load(Block(Slot(model, layer, position), images))
                total[position] += rows.sum(axis=0, dtype=np.float64) / axes.n_tokens
        means = (total / axes.n_images).astype(np.float32)
        if not np.isfinite(means).all():
            raise BadInput(f"{self.path}: pooled features of {model} are not finite", do="Extract again.")
        return means

    def _mapped_centre(self, slot: Slot) -> torch.Tensor:
        """Return a slot's mean token in the space asked for, (D,) float32; all channels."""
        if slot not in self._centres and self.centre is not None:
            mean = torch.from_numpy(self.centre(slot)).to(self.device)
            self._centres[slot] = mean if self.alignment is None else mean @ self.weight(slot)
        return self._centres[slot]

    @cached_property
    def _centres(self) -> dict[Slot, torch.Tensor]:
        return {}

    @cached_property
    def _weights(self) -> dict[Slot, torch.Tensor]:
        return {}

    @cached_property
    def channels(self) -> torch.Tensor | None:
        """Return the universal channels that drive the ROI's predictions most, ascending; None for all channels."""
        if self.roi is None or self.alignment is None or self.top_channels is None:
            return None
        alignment = self.alignment
        alignment.require_readout("--roi")
        if self.roi not in alignment.roi_names:
            raise UsageError(
                f"{alignment.store.path} has no ROI {self.roi!r}",
                do=f"It has: {', '.join(alignment.roi_names) or 'none at all'}.",
            )
        deviation = alignment.read_deviation()
        if deviation is None:
            raise BadInput(
                f"{alignment.store.path} does not say how much each channel varies, which --roi ranks by",
                why="It was fitted by an earlier aligncut.",
                do="Fit it again: aligncut align F.zarr -o A.zarr --responses DIR --overwrite",
            )
        voxels = alignment.read_roi(self.roi)
        if not voxels.any():
            raise BadInput(f"{alignment.store.path}: no voxel lies in ROI {self.roi!r}", do="Take another --roi.")
        readout = alignment.read_readout(fit=self.fit)[:, voxels]
        return torch.from_numpy(choose_channels(readout, deviation, self.top_channels)).to(self.device)

    def _require_alignment(self) -> Alignment:
        if self.alignment is None:
            raise UsageError("no alignment was given")
        return self.alignment

    def _weight_shape(self, model: str) -> tuple[int, ...]:
        alignment = self._require_alignment()
        known = alignment.store.record["models"]
        if model not in known:
            raise BadInput(
                f"{alignment.store.path} has no map for model {model!r}", do=f"It was fitted to: {', '.join(known)}."
            )
        return alignment.weight_shape(model)

    def _map_position(self, slot: Slot) -> int:
        alignment = self._require_alignment()
        layers = alignment.layers(slot.model)
        if slot.layer not in layers:
            raise BadInput(f"{alignment.store.path} has no map for {slot}", do="Fit `align` to these layers.")
        return layers.index(slot.layer)
