"""The computation of `compare`: every slot's tokens side by side, block of images by block of images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.slot_ridge import RowReader
from aligncut_cli.maths.slot_similarity import SlotSimilarity, mean_between_models
from aligncut_cli.maths.variance_shares import Shares, VarianceShares
from aligncut_cli.params import CompareParams
from aligncut_cli.stages.compare.relations import (
    MEASURES,
    ROWS_PER_BLOCK,
    Relation,
    SlotRelations,
    describe,
    estimate_memory,
)
from aligncut_cli.stages.device import settle_device
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.stages.style import read_style
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.nodes import Block, image_slices
from aligncut_cli.store.phases import Phase, load_ahead, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work, write_json
from aligncut_cli.viz.matrices import draw_matrices

PROCESS_BYTES = 700_000_000
BLOCK_BYTES = 400_000_000
Sums = tuple[SlotSimilarity, VarianceShares | None]
"""Of the tokens in one space: cosines between slots, and shares of variance where all slots have one width."""
SHARES_HEADER = ("space", "slot", "photo", "control")


class CompareStage:
    """One run of the stage: a pass over the tokens, before and after alignment.

    spaces   : what the tokens are compared in, by name
    controls : of all that is compared; `own_controls` of each space's table
    step     : images compared at once
    """

    def __init__(
        self,
        work: Work,
        source: Store,
        fitted: Store | None,
        params: CompareParams,
    ) -> None:
        self.work, self.params, self.console = work, params, work.console
        self.device = device = settle_device(work)
        self.source = FeatureSpace.of(source, None, device)
        self.spaces, self.own_controls = {"before": self.source}, {"before": collect_controls(source)}
        self.controls = collect_controls(source, fitted)
        self.style = read_style(params, source.axes.names)
        if fitted is not None:
            self.spaces["after"] = FeatureSpace.of(source, fitted, device)
            self.own_controls["after"] = self.controls
        self.axes, self.slots = source.axes, source.axes.slots
        n_images = len(self.source.features.ids)
        self.n_images = min(params.images or n_images, n_images)
        for space in self.spaces.values():
            space.require()
        self._require_same_tokens()
        width = max(space.width(comparable=False) for space in self.spaces.values())
        self.row_bytes = len(self.slots) * self.axes.models[0].n_tokens * width * 4
        per_read = max(self.source.images_per_read().values())
        self.step = max(1, min(per_read, BLOCK_BYTES // self.row_bytes))
        self.blocks = list(image_slices(self.n_images, self.step))

    def _require_same_tokens(self) -> None:
        """Refuse models whose token k is not the same place in the image."""
        first, features = self.axes.models[0], self.source.features
        expected = features.kept_tokens(first.name)
        for model in self.axes.models[1:]:
            same = (model.grid, model.class_token, model.n_tokens) == (first.grid, first.class_token, first.n_tokens)
            kept = features.kept_tokens(model.name)
            if same and kept is not None and expected is not None:
                same = bool(np.array_equal(kept, expected))
            if not same:
                raise BadInput(
                    f"{first.name} and {model.name} have different tokens, so no token can be compared with itself",
                    do="Extract both with the same grid, such as --model NAME=TIMM_NAME@PIXELS.",
                )

    def plan(self) -> Plan:
        """Return the bytes of the blocks that are read ahead and mapped."""
        widths = [self.source.n_channels_stored(slot.model) for slot in self.slots]
        return Plan(
            memory=PROCESS_BYTES + 4 * self.step * self.row_bytes + estimate_memory(widths, self.params.n_sample),
            disk=1_000_000,
            notes={"slots": len(self.slots), "images": self.n_images},
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return one phase, a single pass; workers share it, and then their sums are added in the order of blocks."""
        passes: list[Phase[Any]] = []
        if self.work.spread:
            add = Phase("blocks", self.blocks, self._add_block, self._load, unit="images", size=_count, parallel=True)
            passes.append(add)
        return [*passes, single_step("compare", self._compare)]

    def _no_sums(self) -> dict[str, Sums]:
        n_tokens = np.full(len(self.slots), self.axes.models[0].n_tokens)
        return {
            name: (SlotSimilarity(len(self.slots)), VarianceShares(n_tokens) if self._has_one_width(space) else None)
            for name, space in self.spaces.items()
        }

    def _add_tokens(self, sums: Mapping[str, Sums], values: Sequence[NDArray[np.float16]]) -> None:
        """Add the tokens of a block, per slot (images x tokens, channel) as stored."""
        for name, space in self.spaces.items():
            rows = [space.unit_rows(v, slot) for slot, v in zip(self.slots, values, strict=True)]
            own = [r[:, : space.own_width(s.model)] for s, r in zip(self.slots, rows, strict=True)]
            similarity, shares = sums[name]
            similarity.add(own)
            if shares is not None:
                shares.add(*self._sum_by_image(own))

    @cached_property
    def _relations(self) -> SlotRelations:
        return SlotRelations(self.source, n_images=self.n_images, count=self.params.n_sample, seed=self.params.seed)

    def _add_block(self, index: int, images: slice, values: Sequence[NDArray[np.float16]]) -> None:
        """Keep the sums of one block and what is sampled of it, for the process that adds all of them up."""
        sums = self._no_sums()
        self._add_tokens(sums, values)
        self._relations.add(images, values)
        arrays: dict[str, Any]
        arrays = {f"tokens.{slot}": rows for slot, rows in enumerate(self._relations.take(images))}
        for name, (similarity, shares) in sums.items():
            arrays |= {f"{name}.similarity.{key}": value for key, value in similarity.state().items()}
            if shares is not None:
                arrays |= {f"{name}.shares.{key}": value for key, value in shares.state().items()}
        self.work.scratch.mkdir(exist_ok=True)
        np.savez(self.work.scratch / f"block-{index}.npz", **arrays)

    def _read_block(self, index: int) -> dict[str, NDArray[Any]]:
        with np.load(self.work.scratch / f"block-{index}.npz") as saved:
            return {name: saved[name] for name in saved.files}

    def _sum_blocks(self) -> dict[str, Sums]:
        """Return the sums over all blocks, added in their order, and fill in what is sampled."""
        total = self._no_sums()
        if self.work.spread:
            for index, found in load_ahead(range(len(self.blocks)), self._read_block):
                self._relations.put(self.blocks[index], [found[f"tokens.{at}"] for at in range(len(self.slots))])
                for name, (similarity, shares) in total.items():
                    similarity.merge(_pick(found, f"{name}.similarity."))
                    if shares is not None:
                        shares.merge(_pick(found, f"{name}.shares."))
            return total
        with self.console.progress("compare", self.n_images, unit="images") as progress:
            for images, values in load_ahead(self.blocks, self._load):
                self._relations.add(images, values)
                self._add_tokens(total, values)
                progress.advance(_count(images))
        return total

    def _compare(self) -> None:
        """Add up the tokens, write tables and picture, and keep the figures for the record."""
        sums, relations = self._sum_blocks(), self._relations
        matrices = {name: similarity.result() for name, (similarity, _) in sums.items()}
        shares = {name: Shares(None, None) if own is None else own.result() for name, (_, own) in sums.items()}
        with self.console.progress("relate", 2 * len(MEASURES), unit="passes") as progress:
            related = relations.result(RowReader(self.device, ROWS_PER_BLOCK), progress)
        self._write(matrices, shares)
        self._write_relations(related)
        models = [slot.model for slot in self.slots]
        means = {name: mean_between_models(matrix, models) for name, matrix in matrices.items()}
        found = {"between_models": means, "shares": {name: both.as_record() for name, both in shares.items()}}
        found |= {name: relation.as_record(models) for name, relation in related.items()}
        write_json(self.work.wip / "found.json", found)

    def _has_one_width(self, space: FeatureSpace) -> bool:
        """Return whether all slots have rows of one width; otherwise they have no common mean."""
        return len({space.own_width(name) for name in self.axes.names}) == 1

    def _sum_by_image(self, units: Sequence[torch.Tensor]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the sums over the tokens of every image, (slot, image, D), and the sums of their squares."""
        n_tokens = self.axes.models[0].n_tokens
        images = [rows.view(-1, n_tokens, rows.shape[1]) for rows in units]
        sums = torch.stack([rows.sum(dim=1, dtype=torch.float64) for rows in images])
        squares = torch.stack([rows.norm(dim=2).double().square().sum(dim=1) for rows in images])
        return sums.cpu().numpy(), squares.cpu().numpy()

    def _load(self, images: slice) -> list[NDArray[np.float16]]:
        return [self.source.load(Block(slot, images)) for slot in self.slots]

    def _write(self, matrices: dict[str, NDArray[np.float64]], shares: dict[str, Shares]) -> None:
        """Write a table of each (slot, slot) matrix, a picture of all, and a table of the shares of variance."""
        folder, labels = self.work.staging, [str(slot) for slot in self.slots]
        for name, matrix in matrices.items():
            self._write_square(f"similarity-{name}.csv", matrix, self.own_controls[name])
        lines = [
            [name, *map(_round, both.as_record().values()), "; ".join(self.own_controls[name])]
            for name, both in shares.items()
        ]
        write_csv(folder / "shares.csv", SHARES_HEADER, lines, controls=[])  # a control is said of its own line only
        titled = {f"{name} alignment": matrix for name, matrix in matrices.items()}
        label = "mean cosine of the same token"
        where = self.style.file(folder, "similarity")
        draw_matrices(where, titled, labels, low=-1, label=label, style=self.style, controls=self.controls)

    def _write_square(self, name: str, matrix: NDArray[np.float64], controls: Sequence[str]) -> None:
        labels = [str(slot) for slot in self.slots]
        table = [[label, *map(_round, row)] for label, row in zip(labels, matrix, strict=True)]
        write_csv(self.work.staging / name, ["slot", *labels], table, controls=controls)

    def _write_relations(self, related: dict[str, Relation]) -> None:
        """Write tables and a picture of the measures of the features as stored, each beside its baseline."""
        folder, labels, controls = self.work.staging, [str(slot) for slot in self.slots], self.own_controls["before"]
        titled = {}
        for name, relation in related.items():
            self._write_square(f"{name}.csv", relation.measured, controls)
            self._write_square(f"{name}-shuffled.csv", relation.shuffled, controls)
            titled[MEASURES[name]] = relation.measured
            titled[f"{MEASURES[name]}, images exchanged"] = relation.shuffled
        where = self.style.file(folder, "relations")
        label = "share in common (0 none, 1 all)"
        draw_matrices(where, titled, labels, low=0, label=label, style=self.style, controls=controls)

    def finish(self) -> Outcome:
        """Give the folder its name, and say how alike the models are."""
        found = json.loads((self.work.wip / "found.json").read_text(encoding="utf-8"))
        said = []
        for name, mean in found["between_models"].items():
            text = "not defined" if mean is None else f"{mean:.3f}"
            said.append(
                f"{name} alignment: mean cosine of the same token between models {text}; "
                f"share of the tokens' variance that lies between: {Shares(**found['shares'][name]).describe()}"
            )
        said.append(f"before alignment, mean over pairs of slots: {describe({k: found[k] for k in MEASURES})}")
        summary = {**found, "images": self.n_images}
        return self.work.finish(models=self.axes.names, summary=summary, said=said, controls=self.controls)


def _pick(arrays: Mapping[str, NDArray[Any]], start: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}


def _count(images: slice) -> int:
    return int(images.stop - images.start)


def _round(value: float | None) -> str | None:
    return f"{value:.6f}" if value is not None and np.isfinite(value) else None
