"""The computation of `transitions`: centres per slot, then tokens counted pair by pair of slots, image by image.

Memory is bounded by construction: a sample of tokens for the centres, then three blocks of images at a time and
counts whose size depends on concepts and permutations only.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.controls import title_with_controls
from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.masks import MaskSet
from aligncut_cli.maths.concepts import RADIUS_RULE, choose_centres, choose_radius, find_members
from aligncut_cli.maths.grid import round_mask_to_grid
from aligncut_cli.maths.transitions import GROUPS, TransitionCounts, TransitionResult
from aligncut_cli.params import TransitionsParams
from aligncut_cli.stages.sample import choose_nodes, gather_rows
from aligncut_cli.stages.token_places import TokenPlace, parse_token
from aligncut_cli.store.nodes import ModelAxes, Slot, image_slices, require_tokens
from aligncut_cli.store.read import Store, collect_controls, read_ahead
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.store.write import Writer, create_array, create_group, put_images, require_model_group

PROCESS_BYTES = 700_000_000
TESTED = ("bifurcation", "expected", "p")


@dataclass(frozen=True)
class Pair:
    """Two slots, and where their counts go: the root for --from and --to, else a model's step."""

    before: Slot
    after: Slot
    step: int | None = None


class TransitionsPhases:
    """One run of the stage: slots, pairs of slots, and followed tokens."""

    def __init__(
        self, work: Work, source: Store, masks: MaskSet | None, params: TransitionsParams, console: Console
    ) -> None:
        self.work, self.source, self.masks, self.params, self.console = work, source, masks, params, console
        self.axes = source.axes
        self.images = source.images()
        self.ids = [str(name) for name in self.images["id"]]
        self.groups = GROUPS if masks is not None else GROUPS[:1]
        self.pairs = self._list_pairs()
        self.slots = list(dict.fromkeys(slot for pair in self.pairs for slot in (pair.before, pair.after)))
        self.along = list(dict.fromkeys(params.along))
        first = [] if self.pairs[0].step is not None else [self.pairs[0].before.model]
        self.followed = list(dict.fromkeys([*first, *self.along]))

    def run(self) -> Outcome:
        """Check, plan, and compute every phase that is not done."""
        require_tokens(self.axes, self.source.path)
        if self.masks is not None:
            self.masks.require(self.ids)
        self.places = {name: self._choose_tokens(self.axes[name]) for name in self.followed}
        n_images = len(self.ids)
        self.per_block = max(int(self.source.array(f"{name}/coords").chunks[1]) for name in self.axes.names)
        self.blocks = list(image_slices(n_images, self.per_block))
        phases = {"create": 1, "centres": len(self.slots)}
        phases |= {"masks": len(self.blocks)} if self.masks is not None else {}
        phases |= {"count": len(self.pairs), "follow": len(self.followed)}
        k = self.params.concepts
        widest = max(model.n_tokens for model in self.axes.models)
        largest = int((self.images["height"].astype(np.int64) * self.images["width"]).max())
        plan = Plan(
            phases=phases,
            memory=PROCESS_BYTES
            + self.params.sample * 200
            + self.per_block * widest * 200
            + self.params.permutations * k * (k + 2) * 32
            + 40 * largest,
            disk=len(self.pairs) * 3 * k * k * 16 + n_images * widest,
            notes={"images": n_images, "slots": len(self.slots), "pairs": len(self.pairs)},
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        steps = {
            "create": self._create,
            "centres": self._choose_centres,
            "masks": self._read_masks,
            "count": self._count,
            "follow": self._follow,
        }
        for phase, count in phases.items():
            if self.work.count_done(phase) < count:
                steps[phase]()
        return self._finish()

    # what is asked for

    def _list_pairs(self) -> list[Pair]:
        pairs = []
        if self.params.from_slot is not None and self.params.to_slot is not None:
            before, after = self.axes.slot(self.params.from_slot), self.axes.slot(self.params.to_slot)
            if self.axes[before.model].grid != self.axes[after.model].grid:
                raise UsageError(f"{before} and {after} have different grids, so their tokens do not correspond")
            pairs.append(Pair(before, after))
        for name in dict.fromkeys(self.params.along):
            slots = [slot for slot in self.axes.slots if slot.model == self.axes[name].name]
            if len(slots) < 2:
                raise BadInput(f"{name} has a single layer in {self.source.path}", do="Extract more of its layers.")
            pairs += [Pair(a, b, step) for step, (a, b) in enumerate(itertools.pairwise(slots))]
        return pairs

    def _choose_tokens(self, model: ModelAxes) -> list[TokenPlace]:
        """Return the tokens to follow: those named, then random ones, the same for all models of one grid."""
        named = [parse_token(text, self.ids, model) for text in self.params.token]
        rng = np.random.default_rng([self.params.seed, 3])
        count = min(self.params.random_tokens, model.n_images * model.grid[0] * model.grid[1])
        drawn = []
        for _ in range(count):
            image, row, column = (int(rng.integers(n)) for n in (model.n_images, *model.grid))
            drawn.append(TokenPlace(image, row, column))
        return list(dict.fromkeys([*named, *drawn]))

    # phases

    @cached_property
    def writer(self) -> Writer:
        """Return the store under construction."""
        return Writer(self.work.staging)

    @cached_property
    def scratch(self) -> Writer:
        """Return centres, radii and rounded masks while the stage runs."""
        return Writer(self.work.scratch)

    def _create(self) -> None:
        root, scratch = create_group(self.work.staging), create_group(self.work.scratch)
        k, d, n_groups = self.params.concepts, int(self.source.record["params"]["dims"]), len(self.groups)
        n_slots = len(self.slots)
        create_array(
            scratch,
            "centres",
            shape=(n_slots, k, d),
            dtype="float32",
            dims=["slot", "concept", "dim"],
            chunks=(1, k, d),
        )
        create_array(scratch, "radius", shape=(n_slots,), dtype="float64", dims=["slot"], chunks=(1,))
        put_images(root, self.images, {})
        if self.pairs[0].step is None:
            for name in ("from", "to"):
                create_array(root, f"concepts/{name}", shape=(k, d), dtype="float32", dims=["concept", "dim"])
            create_array(root, "radius", shape=(2,), dtype="float64", dims=["slot"])
            for group in self.groups:
                for name, dtype, dims in (
                    ("probability", "float64", ["from", "to"]),
                    ("nowhere", "float64", ["from"]),
                    ("counts", "int64", ["from", "to"]),
                    ("members", "int64", ["from"]),
                ):
                    create_array(root, f"{name}/{group}", shape=(k,) * len(dims), dtype=dtype, dims=dims)
        for name in self.followed:
            folder, model = require_model_group(root, self.axes[name]), self.axes[name]
            n_tokens, n_layers = len(self.places[name]), len(model.layers)
            create_array(
                folder, "trajectory", shape=(n_tokens, n_layers, d), dtype="float32", dims=["followed", "layer", "dim"]
            )
            create_array(folder, "followed", shape=(n_tokens, 3), dtype="int32", dims=["followed", "image_row_column"])
        for name in self.along:
            folder, n_layers = root.require_group(name), len(self.axes[name].layers)
            folder.attrs["masks"] = list(self.groups)
            steps, kk = n_layers - 1, [k, k]
            for array, shape, dtype, dims in (
                ("concepts", (n_layers, k, d), "float32", ["layer", "concept", "dim"]),
                ("radius", (n_layers,), "float64", ["layer"]),
                ("probability", (n_groups, steps, *kk), "float64", ["mask", "step", "from", "to"]),
                ("nowhere", (n_groups, steps, k), "float64", ["mask", "step", "from"]),
                ("counts", (n_groups, steps, *kk), "int64", ["mask", "step", "from", "to"]),
                ("members", (n_groups, steps, k), "int64", ["mask", "step", "from"]),
                *((test, (steps,), "float64", ["step"]) for test in TESTED if self.masks is not None),
            ):
                chunks = [1 if dim == "step" or dim == "layer" else n for dim, n in zip(dims, shape, strict=True)]
                create_array(folder, array, shape=shape, dtype=dtype, dims=dims, chunks=chunks)
        for model in self.axes.models if self.masks is not None else ():
            shape = (model.n_images, model.grid[0] * model.grid[1])
            create_array(
                scratch,
                f"foreground/{model.name}",
                shape=shape,
                dtype="int8",
                dims=["image", "patch"],
                chunks=(self.per_block, shape[1]),
            )
        create_array(
            scratch, "tests", shape=(len(self.pairs), 3), dtype="float64", dims=["pair", "test"], chunks=(1, 3)
        )
        self.work.mark("create")

    def _choose_centres(self) -> None:
        """Choose the concepts of each slot among a sample of its patches, by farthest points, and their radius."""
        chunks = {name: int(self.source.array(f"{name}/coords").chunks[1]) for name in self.axes.names}
        for index in self.work.pending("centres"):
            slot = self.slots[index]
            model = self.axes[slot.model]
            count = min(self.params.sample, model.n_images * model.n_tokens)
            nodes = choose_nodes(self.axes, [slot], self.ids, count, seed=self.params.seed, purpose="concepts")
            patch = self.axes.locate(nodes, slot)[:, 1] >= int(model.class_token)
            coords = np.empty((len(nodes), int(self.source.record["params"]["dims"])), np.float32)
            for _, where, rows in gather_rows(
                self.source, "coords", [slot], nodes, images_per_read=chunks, console=self.console, label=str(slot)
            ):
                coords[where] = rows
            points = np.unique(coords[patch], axis=0)  # t-SNE places many tokens on one point
            centres = points[choose_centres(points, n_concepts=self.params.concepts)]
            radius = choose_radius(centres) if self.params.radius is None else self.params.radius
            self.scratch.write("centres", index, centres)
            self.scratch.write("radius", slice(index, index + 1), np.array([radius]))
            self.work.mark("centres", index)

    def _read_masks(self) -> None:
        """Round every mask to each grid: 1 = foreground, any class but 0; 0 = background; -1 = ignored."""
        if self.masks is None:
            return
        masks = self.masks
        with self.console.progress("masks", len(self.ids), unit="images") as progress:
            for index in self.work.pending("masks"):
                images = self.blocks[index]
                parts: dict[str, list[NDArray[np.int8]]] = {name: [] for name in self.axes.names}
                for image in range(images.start, images.stop):
                    size = int(self.images["height"][image]), int(self.images["width"][image])
                    mask = masks.read(self.ids[image], size=size)
                    figure = np.where(mask > 0, 1, mask).astype(np.int16)
                    for model in self.axes.models:
                        parts[model.name].append(round_mask_to_grid(figure, model.grid, n_classes=2).astype(np.int8))
                    progress.advance()
                for name, rows in parts.items():
                    self.scratch.write(f"foreground/{name}", images, np.stack(rows))
                self.work.mark("masks", index)

    def _count(self) -> None:
        """Count the tokens of every pair of slots."""
        with self.console.progress("count", len(self.pairs), unit="pairs", done=self.work.count_done("count")) as bar:
            for index in self.work.pending("count"):
                self._write_pair(index, self._count_pair(self.pairs[index]))
                self.work.mark("count", index)
                bar.advance(detail=f"{self.pairs[index].before} to {self.pairs[index].after}")

    def _count_pair(self, pair: Pair) -> TransitionResult:
        (a, a_radius), (b, b_radius) = self._concepts(pair.before), self._concepts(pair.after)
        counts = TransitionCounts(len(a), len(b), n_permutations=self.params.permutations, seed=self.params.seed)

        def load(images: slice) -> tuple[Any, Any, Any]:
            foreground = None
            if self.masks is not None:
                foreground = self.scratch.read(f"foreground/{pair.before.model}", (images,))
            return self._patches(pair.before, images), self._patches(pair.after, images), foreground

        blocks = read_ahead(lambda i=i: load(i) for i in self.blocks)
        for images, (before, after, foreground) in zip(self.blocks, blocks, strict=True):
            inside_a = find_members(before, a, radius=a_radius)
            inside_b = find_members(after, b, radius=b_radius)
            for image in range(images.start, images.stop):
                at = image - images.start
                counts.add(
                    inside_a[at], inside_b[at], foreground=None if foreground is None else foreground[at], image=image
                )
        return counts.finish()

    def _concepts(self, slot: Slot) -> tuple[NDArray[np.float32], float]:
        index = self.slots.index(slot)
        return self.scratch.read("centres", index), float(self.scratch.read("radius", slice(index, index + 1))[0])

    def _patches(self, slot: Slot, images: slice) -> NDArray[np.float32]:
        coords: NDArray[np.float32] = self.source.read(f"{slot.model}/coords", (slot.position, images))
        return coords[:, int(self.axes[slot.model].class_token) :]

    def _write_pair(self, index: int, result: TransitionResult) -> None:
        pair, n_groups = self.pairs[index], len(self.groups)
        (a, a_radius), (b, b_radius) = self._concepts(pair.before), self._concepts(pair.after)
        tests = [result.bifurcation, result.expected, result.p]
        self.scratch.write("tests", index, np.array(tests))
        names = ("probability", "nowhere", "counts", "members")
        if pair.step is None:
            self.writer.write("concepts/from", ..., a)
            self.writer.write("concepts/to", ..., b)
            self.writer.write("radius", ..., np.array([a_radius, b_radius]))
            for position, group in enumerate(self.groups):
                for name in names:
                    self.writer.write(f"{name}/{group}", ..., getattr(result, name)[position])
            return
        model, step = pair.before.model, pair.step
        for slot in (pair.before, pair.after):
            centres, radius = self._concepts(slot)
            self.writer.write(f"{model}/concepts", slot.position, centres)
            self.writer.write(f"{model}/radius", slice(slot.position, slot.position + 1), np.array([radius]))
        for name in names:
            values = getattr(result, name)[:n_groups, None]
            self.writer.write(f"{model}/{name}", (slice(None), slice(step, step + 1)), values)
        for name, value in zip(TESTED, tests, strict=True) if self.masks is not None else ():
            self.writer.write(f"{model}/{name}", slice(step, step + 1), np.array([value]))

    def _follow(self) -> None:
        """Write the coordinates of the followed tokens at every layer."""
        for index in self.work.pending("follow"):
            name = self.followed[index]
            model, places = self.axes[name], self.places[name]
            rows = np.array([[place.image, place.row, place.column] for place in places], np.int32).reshape(-1, 3)
            paths = [
                self.source.read(f"{name}/coords", (slice(None), slice(place.image, place.image + 1)))[
                    :, 0, place.token(model)
                ]
                for place in places
            ]
            if places:
                self.writer.write(f"{name}/followed", ..., rows)
                self.writer.write(f"{name}/trajectory", ..., np.stack(paths))
            self.work.mark("follow", index)

    # ending

    def _finish(self) -> Outcome:
        tests = self.scratch.read("tests")
        rows: list[list[object]] = []
        for pair, (score, expected, p) in zip(self.pairs, tests, strict=True):
            radii = [round(self._concepts(slot)[1], 3) for slot in (pair.before, pair.after)]
            rows.append([str(pair.before), str(pair.after), *radii, *map(_number, (score, expected, p))])
        summary: dict[str, Any] = {
            "images": len(self.ids),
            "concepts": self.params.concepts,
            "radius_rule": RADIUS_RULE if self.params.radius is None else "given",
        }
        if self.pairs[0].step is None:
            summary |= {"from": rows[0][0], "to": rows[0][1], **dict(zip(TESTED, rows[0][4:], strict=True))}
        controls = collect_controls(self.source)
        outcome = self.work.finish(
            models=self.followed,
            summary=summary,
            controls=controls,
            masks=list(self.groups),
            bifurcations=[dict(zip(("from", "to", "r_from", "r_to", *TESTED), row, strict=True)) for row in rows],
            dims=int(self.source.record["params"]["dims"]),
        )
        header = ["from", "to", "radius", "radius", "bifurcation", "by chance", "p"]
        self.console.table(header, rows, title=title_with_controls("", controls))
        return outcome


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
