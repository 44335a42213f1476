"""The computation of `segment`: passes over blocks of images, whose sums are kept per block, then labels and scores.

Memory is bounded by construction: a pass holds the eigenvectors of three blocks of images, the masks of three images,
and sums whose size depends on layers, classes and thresholds, not on the number of images.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.masks import Mask, MaskSet
from aligncut_cli.maths.grid import resize_mask
from aligncut_cli.maths.segmentation import pick_other_images
from aligncut_cli.params import RunOptions, SegmentParams
from aligncut_cli.stages.segment.run import Run
from aligncut_cli.store.nodes import image_slices, require_tokens
from aligncut_cli.store.read import collect_controls, read_ahead
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.store.write import Writer, create_array, create_group, put_images, require_model_group

PROCESS_BYTES = 300_000_000
NO_LABEL = -1
KINDS = ("masks", "shuffled")
"""What images are scored with: their own masks, and as a control those of other images."""

Floats = NDArray[np.float64]
Rows = Mapping[str, NDArray[np.float32]]
"""For each model (layer, image, patch, eig) of a block, without the class token."""


class SegmentPhases(ABC):
    """What both ways of segmenting share: blocks, streaming, arrays of scores, tables."""

    score_names: Sequence[str]

    def __init__(
        self,
        work: Work,
        runs: Sequence[Run],
        masks: MaskSet | None,
        params: SegmentParams,
        options: RunOptions,
        console: Console,
    ) -> None:
        self.work, self.runs, self.masks, self.params, self.console = work, runs, masks, params, console
        self.first = runs[0].store
        self.axes = self.first.axes
        self.images = self.first.images()
        self.n_images = len(self.images["id"])
        self.n_eig = self._count_eigenvectors()
        self.n_threads = options.workers or os.cpu_count() or 1
        self.n_layers = max(len(model.layers) for model in self.axes.models)
        self.n_classes = masks.n_classes if masks is not None else 0
        self.others = pick_other_images(self.n_images, seed=params.seed)

    def run(self) -> Outcome:
        """Check, plan, and compute every phase that is not done."""
        for run in self.runs:
            self._require_alike(run)
        require_tokens(self.axes, self.first.path)
        if self.masks is not None:
            self.masks.require(str(name) for name in self.images["id"])
        per_block = max(int(self.first.array(f"{name}/eigvecs").chunks[1]) for name in self.axes.names)
        self.blocks = list(image_slices(self.n_images, per_block))
        passes = self.passes()
        phases = {"create": 1, **{name: count for name, (count, _) in passes.items()}, "label": len(self.blocks)}
        phases |= {"scores": 1} if self.masks is not None else {}
        rows = self.axes.n_nodes // self.n_images * per_block * self.n_eig * 4
        plan = Plan(
            phases=phases,
            memory=PROCESS_BYTES + 4 * rows + self.bytes_of_sums() + 60 * self._largest_image(),
            disk=self.axes.n_nodes * 2 * max(1, len(self.params.clusters)),
            notes={"images": self.n_images, "stores": len(self.runs), "classes": self.n_classes},
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        steps = {"create": self._create, **{name: step for name, (_, step) in passes.items()}, "label": self._label}
        steps |= {"scores": self._score} if self.masks is not None else {}
        for phase, step in steps.items():
            if self.work.count_done(phase) < phases[phase]:
                step()
        return self._finish()

    # what a way of segmenting says

    @abstractmethod
    def passes(self) -> dict[str, tuple[int, Callable[[], None]]]:
        """Return the phases before labelling: how many blocks, and what computes them."""

    @abstractmethod
    def bytes_of_sums(self) -> int:
        """Return the memory of the sums of one block."""

    @abstractmethod
    def create(self, root: Any, scratch: Any) -> None:
        """Create arrays of its own."""

    @abstractmethod
    def label_block(self, block: int, rows: Rows) -> None:
        """Write the labels of one block of the first store."""

    @abstractmethod
    def score_run(self, run: int) -> dict[str, Floats]:
        """Return scores of one store by name: (model, layer), `iou` (model, layer, class)."""

    # planning

    def _count_eigenvectors(self) -> int:
        available = min(int(run.store.array("eigenvalues").shape[1]) for run in self.runs)
        wanted = self.params.n_eig or available
        if wanted > available:
            raise BadInput(
                f"--n-eig {wanted}: the eigs store has {available} eigenvectors", do="Make it with a larger --n-eig."
            )
        return wanted

    def _require_alike(self, run: Run) -> None:
        """Require the same models, layers and images of every store, so that scores stand side by side."""
        axes = run.store.axes
        if [(m.name, m.layers, m.grid) for m in axes.models] != [(m.name, m.layers, m.grid) for m in self.axes.models]:
            raise BadInput(
                f"{run.store.path} has other models or layers than {self.first.path}",
                do="Compare eigs stores of the same models and layers, or score each alone.",
            )
        if run.store is not self.first and not np.array_equal(run.store.read("images/id"), self.images["id"]):
            raise BadInput(f"{run.store.path} has other images than {self.first.path}", do="Score each alone.")

    def _largest_image(self) -> int:
        return int((self.images["height"].astype(np.int64) * self.images["width"]).max())

    # streaming

    @cached_property
    def writer(self) -> Writer:
        """Return the store under construction."""
        return Writer(self.work.staging)

    @cached_property
    def scratch(self) -> Writer:
        """Return the arrays of sums per block."""
        return Writer(self.work.scratch)

    def stream(self, phase: str, compute: Callable[[int, int, Rows], None]) -> None:
        """Read, compute and mark every pending block of a phase whose blocks are those of each store in turn.

        compute : is given the store's and the block's position, and its eigenvectors
        """
        places = [(run, block) for run in range(len(self.runs)) for block in range(len(self.blocks))]
        places = places[: len(self.blocks)] if phase == "label" else places
        pending = list(self.work.pending(phase))
        left = sum(self._count_images(places[index][1]) for index in pending)
        total = sum(self._count_images(block) for _, block in places)
        with self.console.progress(phase, total, unit="images", done=total - left) as progress:
            loaded = read_ahead(lambda i=i: self._load(*places[i]) for i in pending)
            for index, rows in zip(pending, loaded, strict=True):
                compute(*places[index], rows)
                self.work.mark(phase, index)
                progress.advance(self._count_images(places[index][1]), self.runs[places[index][0]].name)

    def _count_images(self, block: int) -> int:
        images = self.blocks[block]
        return int(images.stop - images.start)

    def _load(self, run: int, block: int) -> Rows:
        return {
            model.name: self.runs[run].store.read(f"{model.name}/eigvecs", (slice(None), self.blocks[block]))[
                :, :, int(model.class_token) :, : self.n_eig
            ]
            for model in self.axes.models
        }

    def masks_of(self, block: int) -> Iterator[tuple[Mask, Mask]]:
        """Give for each image of a block its mask and another image's, stretched to its size; reads ahead."""
        images = self.blocks[block]
        return read_ahead(lambda i=i: self._read_masks(i) for i in range(images.start, images.stop))

    def _read_masks(self, image: int) -> tuple[Mask, Mask]:
        size = self._size(image)
        other = resize_mask(self._read_mask(int(self.others[image])), size)
        return self._read_mask(image), other.astype(np.int16, copy=False)

    def _size(self, image: int) -> tuple[int, int]:
        return int(self.images["height"][image]), int(self.images["width"][image])

    def _read_mask(self, image: int) -> Mask:
        if self.masks is None:
            raise RuntimeError("there are no masks")
        return self.masks.read(str(self.images["id"][image]), size=self._size(image))

    def create_sums(
        self, scratch: Any, name: str, shape: Sequence[int], dims: Sequence[str], *, dtype: str = "float64"
    ) -> None:
        """Create an array of sums with a leading axis over all blocks of all stores, one chunk for each."""
        count = len(self.runs) * len(self.blocks)
        create_array(scratch, name, shape=(count, *shape), dtype=dtype, dims=["block", *dims], chunks=(1, *shape))

    def total(self, run: int, name: str) -> NDArray[Any]:
        """Sum an array of sums over the blocks of one store, in order, one block at a time."""
        first = run * len(self.blocks)
        total: NDArray[Any] = self.scratch.read(name, first)
        for index in range(first + 1, first + len(self.blocks)):
            total = total + self.scratch.read(name, index)
        return total

    # phases

    def _create(self) -> None:
        root, scratch = create_group(self.work.staging), create_group(self.work.scratch)
        put_images(root, self.images, {})
        for model in self.axes.models:
            folder = require_model_group(root, model)
            shape = (len(model.layers), model.n_images, model.n_tokens)
            chunks = (shape[0], self._count_images(0), model.n_tokens)
            for name in self.label_names():
                create_array(folder, name, shape=shape, dtype="int16", dims=["layer", "image", "token"], chunks=chunks)
        if self.masks is not None:
            classes = {"classes": list(self.masks.classes), "models": self.axes.names}
            root.create_group("scores", attributes=classes)
            if len(self.runs) > 1:
                root.create_group("runs", attributes={**classes, "runs": [run.name for run in self.runs]})
            for name in self.score_names:
                shape = (len(self.axes.models), self.n_layers, *((self.n_classes,) if name == "iou" else ()))
                dims = ["model", "layer", "class"][: len(shape)]
                create_array(root, f"scores/{name}", shape=shape, dtype="float32", dims=dims)
                if len(self.runs) > 1:
                    several = (len(self.runs), *shape)
                    create_array(root, f"runs/{name}", shape=several, dtype="float32", dims=["run", *dims])
        self.create(root, scratch)
        self.work.mark("create")

    def label_names(self) -> list[str]:
        """Return the arrays of labels that each model has."""
        return ["labels"]

    def write_labels(self, name: str, model: str, block: int, labels: NDArray[np.int16]) -> None:
        """Write labels of one model's patches: (layer, image, patch); the class token gets NO_LABEL."""
        if self.axes[model].class_token:
            labels = np.pad(labels, ((0, 0), (0, 0), (1, 0)), constant_values=NO_LABEL)
        self.writer.write(f"{model}/{name}", (slice(None), self.blocks[block]), labels)

    def _label(self) -> None:
        self.stream("label", lambda run, block, rows: self.label_block(block, rows))

    def _score(self) -> None:
        every = [self.score_run(run) for run in range(len(self.runs))]
        for name in self.score_names:
            self.writer.write(f"scores/{name}", ..., every[0][name].astype(np.float32))
            if len(self.runs) > 1:
                self.writer.write(f"runs/{name}", ..., np.stack([scores[name] for scores in every]).astype(np.float32))
        self.work.mark("scores")

    def by_slot(self, values: Mapping[str, NDArray[Any]]) -> Floats:
        """Stack (layer, ...) of every model to (model, layer, ...), NaN where a model has fewer layers."""
        tail = next(iter(values.values())).shape[1:]
        out = np.full((len(self.axes.models), self.n_layers, *tail), np.nan)
        for row, name in zip(out, self.axes.names, strict=True):
            row[: len(values[name])] = values[name]
        return out

    def _finish(self) -> Outcome:
        summary: dict[str, Any] = {"images": self.n_images}
        if self.masks is not None:
            miou, bound, shuffled = (self.writer.read(f"scores/{name}") for name in ("miou", "bound", "shuffled"))
            best = np.unravel_index(int(np.nanargmax(miou)), miou.shape)
            model = self.axes.models[int(best[0])]
            summary |= {
                "classes": self.n_classes,
                "best_slot": f"{model.name}:{model.layers[int(best[1])]}",
                "best_miou": float(miou[best]),
                "shuffled_miou": float(shuffled[best]),
                "bound_miou": float(bound[best]),
            }
        controls = collect_controls(*(run.store for run in self.runs))
        outcome = self.work.finish(
            models=self.axes.names,
            summary=summary,
            controls=controls,
            classes=[] if self.masks is None else list(self.masks.classes),
            runs=[run.name for run in self.runs],
        )
        self._say(outcome, controls)
        return outcome

    def _say(self, outcome: Outcome, controls: Sequence[str]) -> None:
        """Show the table of scores."""
        from aligncut_cli.stages.segment.tables import read_scores, tabulate
        from aligncut_cli.store.read import open_store

        self.console.note(f"{self.n_images:,} images, segments of {', '.join(self.axes.names)}")
        if self.masks is not None:
            scores = read_scores(open_store(outcome.path))
            self.console.table(*tabulate(scores), title=scores.title(controls))


def segment_phases(
    work: Work,
    runs: Sequence[Run],
    masks: MaskSet | None,
    params: SegmentParams,
    options: RunOptions,
    console: Console,
) -> SegmentPhases:
    """Choose the way of segmenting: clusters where they are asked for, else the oracle."""
    from aligncut_cli.stages.segment.clusters import ClusterPhases
    from aligncut_cli.stages.segment.oracle import OraclePhases

    kind = ClusterPhases if params.clusters else OraclePhases
    return kind(work, runs, masks, params, options, console)
