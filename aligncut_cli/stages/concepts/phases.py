"""The computation of `concepts`: centres, members' moments slot by slot, then tables and pictures.

Memory is bounded by construction: a sample of tokens for the centres, then three blocks of a slot at a time, and for
each concept a matrix of channels by channels, from which mean and deviation of any number of voxels follow.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.controls import title_with_controls
from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.activations import average_over_roi
from aligncut_cli.maths.concepts import (
    RADIUS_RULE,
    ConceptMoments,
    NearestTokens,
    RoiCorrespondence,
    choose_centres,
    choose_radius,
    measure_squared_distances,
    relate_magnitude_to_deviation,
    score_roi_correspondence,
)
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.params import ConceptsParams, RunOptions
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.sample import choose_nodes, gather_rows
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.nodes import Block, Slot, image_slices, require_tokens
from aligncut_cli.store.read import Store, collect_controls, read_ahead
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.concept_plots import mark_patch, plot_concept_rois, plot_magnitude_and_deviation
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.montage import Pixels
from aligncut_cli.viz.sheet import Row, draw_sheet

PROCESS_BYTES = 700_000_000
CELL = 24
"""Pixels of a patch's side in a contact sheet; three patches around it are shown with it."""


class ConceptsPhases:
    """One run of the stage, over the slots asked for."""

    def __init__(
        self,
        work: Work,
        source: Store,
        features: Store,
        alignment: Store,
        params: ConceptsParams,
        options: RunOptions,
        console: Console,
    ) -> None:
        self.work, self.source, self.features, self.alignment = work, source, features, alignment
        self.params, self.console = params, console
        self.space = FeatureSpace.universal(features, alignment, resolve_device(options.device))
        self.axes = source.axes
        self.images = source.images()
        self.slots = [self.axes.slot(text) for text in dict.fromkeys(params.slot)] or self.axes.slots
        self.controls = collect_controls(source, features, alignment)

    def run(self) -> Outcome:
        """Check, plan, and compute every phase that is not done."""
        require_tokens(self.axes, self.source.path)
        self.space.require()
        self._require_same_nodes()
        channels = self.space.width(comparable=True)
        voxels = int(self.alignment.array("readout/weight").shape[1])
        k = self.params.concepts
        plan = Plan(
            phases={"centres": 1, "members": len(self.slots), "tables": 1},
            memory=PROCESS_BYTES
            + 3 * k * channels**2 * 8
            + voxels * (channels * 24 + k * 80)
            + max(self._rows_per_block(slot) for slot in self.slots) * (channels * 20 + k * 30)
            + self.params.sample * 200,
            disk=2 * k * channels**2 * 8 + 2 * k * voxels * 8,
            notes={"slots": len(self.slots), "images": len(self.images["id"])},
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        for folder in (self.work.staging, self.work.scratch):
            folder.mkdir(exist_ok=True)
        if not self.work.done("centres"):
            self._choose_centres()
        self._collect()
        return self._finish()

    def _require_same_nodes(self) -> None:
        """Require features of every node that is on the map, and one map for all of them."""
        theirs = self.features.axes
        for slot in self.slots:
            model = self.axes[slot.model]
            if slot.model not in theirs.names or slot.layer not in theirs[slot.model].layers:
                raise BadInput(f"{self.features.path} has no features of {slot}", do="Give those the map was made of.")
            if theirs[slot.model].n_tokens != model.n_tokens:
                raise BadInput(f"{self.features.path} has other tokens of {slot.model} than {self.source.path}")
        if not np.array_equal(self.features.read("images/id"), self.images["id"]):
            raise BadInput(f"{self.features.path} has other images than {self.source.path}")
        groups: list[str] = self.source.record.get("groups", ["all"])
        maps = {name for slot in self.slots for name in (str(slot), slot.model, "all") if name in groups}
        if len(maps) > 1:
            raise UsageError(
                f"{self.source.path} has {len(maps)} maps, and one concept cannot lie on two",
                do=f"Choose slots of one map, such as --slot {self.slots[0]}, or make eigs with --group all.",
            )

    def _rows_per_block(self, slot: Slot) -> int:
        return self._images_per_block(slot.model) * self.axes[slot.model].n_tokens

    def _images_per_block(self, model: str) -> int:
        coords = int(self.source.array(f"{model}/coords").chunks[1])
        return min(coords, max(self.space.images_per_read()[model], 64))

    # phases

    def _choose_centres(self) -> None:
        """Choose concepts among a sample of patches of all slots, by farthest points, and their radius."""
        ids = [str(name) for name in self.images["id"]]
        count = min(self.params.sample, self.axes.n_group_nodes(self.slots))
        nodes = choose_nodes(self.axes, self.slots, ids, count, seed=self.params.seed, purpose="concepts")
        chunks = {name: int(self.source.array(f"{name}/coords").chunks[1]) for name in self.axes.names}
        coords = np.empty((len(nodes), int(self.source.record["params"]["dims"])), np.float32)
        for _, where, rows in gather_rows(
            self.source, "coords", self.slots, nodes, images_per_read=chunks, console=self.console, label="centres"
        ):
            coords[where] = rows
        patch = np.concatenate(
            [self.axes.locate(nodes, slot)[:, 1] >= int(self.axes[slot.model].class_token) for slot in self.slots]
        )
        points = np.unique(coords[patch], axis=0)  # t-SNE places many tokens on one point
        centres = points[choose_centres(points, n_concepts=self.params.concepts)]
        radius = choose_radius(centres) if self.params.radius is None else self.params.radius
        np.savez(self.work.scratch / "centres.npz", centres=centres, radius=radius)
        self.work.mark("centres")

    @cached_property
    def centres(self) -> NDArray[np.float32]:
        """Return (concept, dim)."""
        with np.load(self.work.scratch / "centres.npz") as saved:
            values: NDArray[np.float32] = saved["centres"]
            return values

    @cached_property
    def radius(self) -> float:
        """Return the one radius of all concepts."""
        with np.load(self.work.scratch / "centres.npz") as saved:
            return float(saved["radius"])

    def _collect(self) -> None:
        """Add up the members of each slot; sums so far are kept after each slot, under its number."""
        pending = list(self.work.pending("members"))
        if not pending:
            return
        moments = self._load_moments(pending[0] - 1)
        total = sum(self.axes.n_group_nodes([self.slots[index]]) for index in pending)
        with self.console.progress("members", total, unit="nodes") as progress:
            for index in pending:
                slot = self.slots[index]
                nearest = NearestTokens(len(self.centres), self.params.patches)
                per_block = self._images_per_block(slot.model)
                blocks = [Block(slot, part) for part in image_slices(self.axes[slot.model].n_images, per_block)]
                loaded = read_ahead(lambda b=b: self._load_block(b) for b in blocks)
                for block, (coords, rows) in zip(blocks, loaded, strict=True):
                    distance = measure_squared_distances(coords, self.centres)
                    nearest.add(distance, first_image=block.images.start)
                    members = (distance <= self.radius**2).reshape(-1, len(self.centres))
                    chosen = members.any(axis=1)
                    if chosen.any():
                        mapped = self.space.map_rows(rows[chosen], slot).cpu().numpy()
                        moments.add(mapped, members[chosen])
                    progress.advance(self.axes.n_block_nodes(block), str(slot))
                np.savez(
                    self.work.scratch / f"members-{index}.npz",
                    counts=moments.counts,
                    means=moments.means,
                    scatter=moments.scatter,
                )
                np.savez(
                    self.work.scratch / f"nearest-{index}.npz",
                    distance=nearest.distance,
                    image=nearest.image,
                    token=nearest.token,
                )
                self.work.mark("members", index)
                (self.work.scratch / f"members-{index - 1}.npz").unlink(missing_ok=True)

    def _load_moments(self, index: int) -> ConceptMoments:
        moments = ConceptMoments(len(self.centres), self.space.width(comparable=True))
        if index >= 0:
            with np.load(self.work.scratch / f"members-{index}.npz") as saved:
                moments.counts, moments.means, moments.scatter = saved["counts"], saved["means"], saved["scatter"]
        return moments

    def _load_block(self, block: Block) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """Return coordinates (image, patch, dim) and features (image x patch, channel) of a block."""
        first = int(self.axes[block.slot.model].class_token)
        coords = self.source.read(f"{block.slot.model}/coords", block.select())[:, first:]
        theirs = self.features.axes[block.slot.model].layers.index(block.slot.layer)
        own = Block(Slot(block.slot.model, block.slot.layer, theirs), block.images)
        rows = self.space.load(own).reshape(*coords.shape[:1], -1, self.space.n_channels_stored(block.slot.model))
        return coords, rows[:, first:].reshape(-1, rows.shape[-1])

    # tables and pictures

    def _finish(self) -> Outcome:
        moments = self._load_moments(len(self.slots) - 1)
        mean, deviation = moments.activate(Alignment(self.alignment).read_readout())
        names, rois = Alignment(self.alignment).stack_rois(with_all=False)
        rho = relate_magnitude_to_deviation(mean, deviation)
        tested = self._test(mean, rois)
        folder = self.work.staging
        np.save(folder / "mean.npy", mean)
        np.save(folder / "deviation.npy", deviation)
        self._write_concepts(moments, rho, tested)
        if names:
            self._write_rois(names, average_over_roi(mean, rois), average_over_roi(deviation, rois), tested)
        figure = plot_magnitude_and_deviation(mean, deviation, rho, controls=self.controls)
        save_figure(figure, folder / "magnitude.png")
        self._draw_patches(moments)
        self.work.mark("tables")
        summary: dict[str, Any] = {
            "concepts": len(self.centres),
            "radius": self.radius,
            "radius_rule": RADIUS_RULE if self.params.radius is None else "given",
            "slots": len(self.slots),
            "members": int(moments.counts.sum()),
            "mean_rho": _number(float(np.nanmean(rho))) if np.isfinite(rho).any() else None,
            "roi_correspondence": None if tested is None else _number(tested.score),
            "roi_p": None if tested is None else _number(tested.p),
        }
        outcome = self.work.finish(models=self.axes.names, summary=summary, controls=self.controls)
        if tested is not None:
            self.console.note(
                f"ROIs explain {tested.score:.3f} of the variance of concepts over voxels, by permuted voxels "
                f"{tested.null.mean():.3f}, p = {tested.p:.4f}"
            )
        return outcome

    def _test(self, mean: NDArray[np.float64], rois: NDArray[np.bool_]) -> RoiCorrespondence | None:
        if len(rois) < 2:
            self.console.warn(
                f"{self.alignment.path} names fewer than two ROIs, so concepts are not tested against them"
            )
            return None
        return score_roi_correspondence(mean, rois, n_permutations=self.params.permutations, seed=self.params.seed)

    def _write_concepts(
        self, moments: ConceptMoments, rho: NDArray[np.float64], tested: RoiCorrespondence | None
    ) -> None:
        rows: list[list[object]] = []
        for index, centre in enumerate(self.centres):
            share, p = (None, None) if tested is None else (tested.by_concept[index], tested.p_concept[index])
            place = [float(value) for value in centre]
            rows.append([index, *place, self.radius, int(moments.counts[index]), _number(rho[index]),
                         _number(share), _number(p)])  # fmt: skip
        axes = ["x", "y", "z"][: self.centres.shape[1]]
        header = ["concept", *axes, "radius", "tokens", "rho", "roi share", "p"]
        write_csv(self.work.staging / "concepts.csv", header, rows, controls=self.controls)
        self.console.table(header, rows, title=title_with_controls("", self.controls))

    def _write_rois(
        self,
        names: list[str],
        mean: NDArray[np.float64],
        deviation: NDArray[np.float64],
        tested: RoiCorrespondence | None,
    ) -> None:
        rows: list[list[object]] = []
        for (concept, roi), value in np.ndenumerate(mean):
            z, p = (None, None)
            if tested is not None:
                z, p = float(tested.z[concept, roi]), float(tested.p_roi[concept, roi])
            rows.append([concept, names[roi], value, deviation[concept, roi], _number(z), _number(p)])
        header = ["concept", "roi", "mean", "deviation", "z", "p"]
        write_csv(self.work.staging / "rois.csv", header, rows, controls=self.controls)
        p_roi = None if tested is None else tested.p_roi
        figure = plot_concept_rois(names, mean, deviation, p_roi, controls=self.controls)
        save_figure(figure, self.work.staging / "rois.png")

    def _draw_patches(self, moments: ConceptMoments) -> None:
        """Draw the patches nearest to each centre, each from another image, with the slot that they come from."""
        photos = Photos(self.images)
        found: list[list[tuple[float, int, int, int]]] = [[] for _ in self.centres]
        for index in range(len(self.slots)):
            with np.load(self.work.scratch / f"nearest-{index}.npz") as saved:
                for concept, places in enumerate(found):
                    columns = (saved[name][concept].tolist() for name in ("distance", "image", "token"))
                    places += [(d, image, token, index) for d, image, token in zip(*columns, strict=True) if image >= 0]
        rows, records = [], []
        for concept, places in enumerate(found):
            nearest: dict[int, tuple[float, int, int, int]] = {}
            for place in sorted(places):
                nearest.setdefault(place[1], place)
            tiles = []
            for distance, image, token, index in list(nearest.values())[: self.params.patches]:
                slot = self.slots[index]
                tiles.append((str(slot), self._cut(photos, image, token, slot)))
                row, column = divmod(token, self.axes[slot.model].grid[1])
                name = str(self.images["id"][image])
                inside = distance <= self.radius**2
                records.append([concept, str(slot), name, row, column, float(np.sqrt(distance)), int(inside)])
            rows.append(Row(f"{concept}\n{moments.counts[concept]:,} tokens", tiles))
        header = ["concept", "slot", "image", "row", "column", "distance", "inside"]
        write_csv(self.work.staging / "patches.csv", header, records, controls=self.controls)
        sheet = draw_sheet(rows, title="patches nearest to each concept's centre", controls=self.controls)
        sheet.save(self.work.staging / "patches.png")
        if photos.missing:
            self.console.warn(f"{len(photos.missing)} photos were not found where they were")

    def _cut(self, photos: Photos, image: int, token: int, slot: Slot) -> Pixels:
        """Return a patch with what lies around it."""
        height, width = self.axes[slot.model].grid
        row, column = divmod(token, width)
        photo = photos.read(image, (height * CELL, width * CELL))
        return mark_patch(photo, row, column, cell=CELL)


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
