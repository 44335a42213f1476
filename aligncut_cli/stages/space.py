"""Reads features as rows of the space asked for: as extracted, universal, or some universal channels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.affinity import unit_rows
from aligncut_cli.maths.finite import all_finite
from aligncut_cli.maths.products import inner_products
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.kinds.features import Features
from aligncut_cli.store.nodes import Block, NodeAxes, Slot
from aligncut_cli.store.read import Store

ROWS_MAPPED_AT_ONCE = 8192


@dataclass(frozen=True)
class FeatureSpace:
    """Features of one store in one space.

    features  : a features store with tokens
    alignment : an alignment store whose maps W are applied (Eq. 1), or None
    device    : where the mapped rows are wanted
    roi, top_channels : keep only the universal channels that weigh most for this ROI (Fig. 2)
    """

    features: Features
    alignment: Alignment | None
    device: torch.device
    roi: str | None = None
    top_channels: int | None = None

    @classmethod
    def of(
        cls,
        features: Store,
        alignment: Store | None,
        device: torch.device,
        *,
        roi: str | None = None,
        top_channels: int | None = None,
    ) -> FeatureSpace:
        """Return features as they are stored, or mapped by an alignment."""
        mapped = None if alignment is None else Alignment(alignment)
        return cls(Features(features), mapped, device, roi, top_channels)

    @classmethod
    def universal(cls, features: Store, alignment: Store, device: torch.device) -> FeatureSpace:
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
        if (self.roi is None) != (self.top_channels is None):
            raise UsageError(
                "--roi and --top-channels go together", do="Give both, such as --roi V4 --top-channels 64."
            )
        if self.roi is not None and self.alignment is None:
            raise UsageError("--roi needs --alignment", why="An ROI's channels are those of the universal space.")

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
            values = self._require_alignment().read_weight(slot.model, self._map_position(slot))
            self._weights[slot] = torch.from_numpy(values).to(self.device)
        return self._weights[slot]

    @cached_property
    def _weights(self) -> dict[Slot, torch.Tensor]:
        return {}

    @cached_property
    def channels(self) -> torch.Tensor | None:
        """Return the universal channels that weigh most for the ROI: mean |beta| over its voxels."""
        if self.roi is None or self.alignment is None or self.top_channels is None:
            return None
        rois = self.alignment.roi_names
        if self.roi not in rois:
            raise UsageError(
                f"{self.alignment.store.path} has no ROI {self.roi!r}",
                do=f"It has: {', '.join(rois) or 'none at all'}.",
            )
        voxels = self.alignment.read_roi(self.roi)
        readout = np.abs(self.alignment.read_readout()[:, voxels]).mean(axis=1)
        chosen = np.sort(np.argsort(-readout, kind="stable")[: self.top_channels])
        return torch.from_numpy(chosen).to(self.device)

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
