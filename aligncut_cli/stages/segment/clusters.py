"""Segments without masks: eigenvectors discretized on sampled nodes, all nodes labelled; matched with any masks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.clusters import Discretization, fit_discretization, match_clusters, nest_clusters
from aligncut_cli.maths.grid import count_classes_per_token, round_mask_to_grid
from aligncut_cli.maths.iou import score_confusion
from aligncut_cli.maths.segmentation import count_grid_rounding
from aligncut_cli.stages.sample import choose_nodes, gather_rows
from aligncut_cli.stages.segment.phases import KINDS, Floats, Rows, SegmentPhases
from aligncut_cli.store.write import create_array


class ClusterPhases(SegmentPhases):
    """One discretization per graph of the eigs store, so that a joint graph gives segments shared by all models."""

    score_names: tuple[str, ...] = ()

    @property
    def levels(self) -> tuple[int, ...]:
        """Numbers of clusters, the finest first."""
        return self.params.clusters

    def passes(self) -> dict[str, tuple[int, Callable[[], None]]]:
        """Return the phases before labelling."""
        coarser = [f"miou_{level}" for level in self.levels[1:]]
        self.score_names = ("miou", "shuffled", "bound", "iou", *coarser)
        self.graphs = [self.axes.groups(run.store.record["params"]["group"]) for run in self.runs]
        self.graph_of = [
            {(slot.model, slot.position): index for index, (_, slots) in enumerate(graphs) for slot in slots}
            for graphs in self.graphs
        ]
        passes: dict[str, tuple[int, Callable[[], None]]] = {"fit": (len(self.runs), self._fit)}
        if self.masks is not None:
            count = len(self.runs) * len(self.blocks)
            passes["match"] = (count, lambda: self.stream("match", self._add_overlap))
        return passes

    def bytes_of_sums(self) -> int:
        """Return the memory of the sampled eigenvectors with their distances."""
        return self.params.cluster_sample * self.n_eig * 8 * 12

    def label_names(self) -> list[str]:
        """Return one array per level; `labels` is the finest."""
        return ["labels", *(f"labels_{level}" for level in self.levels[1:])]

    def create(self, root: Any, scratch: Any) -> None:
        """Create the table of levels, the rules and the overlaps of clusters with classes."""
        finest, g = self.levels[0], max(map(len, self.graphs))
        root.create_group("levels", attributes={"clusters": list(self.levels)})
        shape: tuple[int, ...] = (len(self.graphs[0]), len(self.levels), finest)
        create_array(root, "levels/group", shape=shape, dtype="int16", dims=["graph", "level", "cluster"])
        for name, shape, dims in (
            ("weights", (g, finest, finest), ["graph", "eig", "cluster"]),
            ("offsets", (g, finest), ["graph", "cluster"]),
            ("sizes", (g, finest), ["graph", "cluster"]),
            ("means", (g, finest, finest), ["graph", "cluster", "eig"]),
        ):
            several = (len(self.runs), *shape)
            create_array(
                scratch, f"rule/{name}", shape=several, dtype="float64", dims=["run", *dims], chunks=(1, *shape)
            )
        for model in self.axes.models if self.masks is not None else ():
            shape = (len(KINDS), len(model.layers), self.n_classes, finest)
            dims = ["kind", "layer", "class", "cluster"]
            self.create_sums(scratch, f"overlap/{model.name}", shape, dims, dtype="int64")
            square = (self.n_classes, self.n_classes)
            self.create_sums(scratch, f"rounding/{model.name}", square, ["class", "rounded"], dtype="int64")

    def _fit(self) -> None:
        """Fit a rule for the finest level to sampled nodes of each graph of each store."""
        ids = [str(name) for name in self.images["id"]]
        for run in self.work.pending("fit"):
            store = self.runs[run].store
            chunks = {name: int(store.array(f"{name}/eigvecs").chunks[1]) for name in self.axes.names}
            rules = []
            for title, slots in self.graphs[run]:
                size = min(self.params.cluster_sample, self.axes.n_group_nodes(slots))
                nodes = choose_nodes(self.axes, slots, ids, size, seed=self.params.seed, purpose="clusters")
                sample = np.empty((len(nodes), self.n_eig), np.float32)
                for _, where, rows in gather_rows(
                    store, "eigvecs", slots, nodes, images_per_read=chunks, console=self.console, label=f"fit {title}"
                ):
                    sample[where] = rows[:, : self.n_eig]
                rules.append(
                    fit_discretization(
                        sample, n_clusters=self.levels[0], method=self.params.method, seed=self.params.seed
                    )
                )
            for name in ("weights", "offsets", "sizes", "means"):
                values = np.stack([getattr(rule, name) for rule in rules]).astype(np.float64)
                whole = np.zeros(self.scratch.array(f"rule/{name}").shape[1:])  # stores may have fewer graphs
                whole[: len(values)] = values
                self.scratch.write(f"rule/{name}", run, whole)
            if run == 0:
                nested = np.stack([nest_clusters(rule, levels=self.levels) for rule in rules])
                self.writer.write("levels/group", ..., nested)
            self.work.mark("fit", run)

    @cache  # noqa: B019 - lives as long as the one run of the stage
    def _rules(self, run: int) -> list[Discretization]:
        weights, offsets, sizes, means = (
            self.scratch.read(f"rule/{name}", run) for name in ("weights", "offsets", "sizes", "means")
        )
        return [
            Discretization(weights[i], offsets[i], sizes[i].astype(np.int64), means[i])
            for i in range(len(self.graphs[run]))
        ]

    @cache  # noqa: B019
    def _nested(self, run: int) -> NDArray[np.int16]:
        """Return (graph, level, cluster): the group of each finest cluster at each level."""
        return np.stack([nest_clusters(rule, levels=self.levels) for rule in self._rules(run)])

    def _label_rows(self, run: int, model: str, rows: NDArray[np.float32]) -> NDArray[np.int16]:
        """Label (layer, image, patch) of one model at the finest level."""
        parts = [self._rules(run)[self.graph_of[run][model, at]].label(part) for at, part in enumerate(rows)]
        return np.stack(parts)

    def label_block(self, block: int, rows: Rows) -> None:
        """Write the cluster of every patch at every level."""
        for model in self.axes.models:
            finest = self._label_rows(0, model.name, rows[model.name])
            for level, name in enumerate(self.label_names()):
                groups = [self._nested(0)[self.graph_of[0][model.name, at], level] for at in range(len(finest))]
                labels = np.stack([group[part] for group, part in zip(groups, finest, strict=True)])
                self.write_labels(name, model.name, block, labels)

    def _add_overlap(self, run: int, block: int, rows: Rows) -> None:
        finest = self.levels[0]
        overlap = {
            model.name: np.zeros((len(KINDS), len(model.layers), self.n_classes, finest), np.int64)
            for model in self.axes.models
        }
        rounding = {name: np.zeros((self.n_classes, self.n_classes), np.int64) for name in overlap}
        labels = {name: self._label_rows(run, name, values) for name, values in rows.items()}
        for image, masks in enumerate(self.masks_of(block)):
            for model in self.axes.models:
                indicator = labels[model.name][:, image, :, None] == np.arange(finest)  # (layer, patch, cluster)
                for kind, mask in enumerate(masks):
                    pixels = self._count_pixels(mask, model.grid)
                    overlap[model.name][kind] += (pixels.T @ indicator.astype(np.float64)).astype(np.int64)
                rounding[model.name] += count_grid_rounding(
                    masks[0], model.grid, n_classes=self.n_classes, resolution=self.params.resolution
                )
        index = run * len(self.blocks) + block
        for name, counts in overlap.items():
            self.scratch.write(f"overlap/{name}", index, counts)
            self.scratch.write(f"rounding/{name}", index, rounding[name])

    def _count_pixels(self, mask: NDArray[np.int16], grid: tuple[int, int]) -> Floats:
        """Return (patch, class) pixels, or one for each patch's own class at the resolution of tokens."""
        if self.params.resolution == "pixels":
            return count_classes_per_token(mask, grid, n_classes=self.n_classes)[0].astype(np.float64)
        rounded = round_mask_to_grid(mask, grid, n_classes=self.n_classes)
        own: Floats = (rounded[:, None] == np.arange(self.n_classes)).astype(np.float64)
        return own

    def score_run(self, run: int) -> dict[str, Floats]:
        """Return Hungarian-matched scores of one store, each slot matched alone."""
        scores: dict[str, dict[str, list[Any]]] = {name: {} for name in self.score_names}
        for model in self.axes.models:
            overlap = self.total(run, f"overlap/{model.name}")
            bound = float(score_confusion(self.total(run, f"rounding/{model.name}"))[0])
            for rows in scores.values():
                rows[model.name] = []
            for at in range(len(model.layers)):
                match = match_clusters(overlap[0, at])
                scores["miou"][model.name].append(match.miou)
                scores["iou"][model.name].append(match.iou)
                scores["shuffled"][model.name].append(match_clusters(overlap[1, at]).miou)
                scores["bound"][model.name].append(bound)
                group = self._nested(run)[self.graph_of[run][model.name, at]]
                for level, count in list(enumerate(self.levels))[1:]:
                    merged = overlap[0, at] @ (group[level][:, None] == np.arange(count)).astype(np.int64)
                    scores[f"miou_{count}"][model.name].append(match_clusters(merged).miou)
        return {
            name: self.by_slot({model: np.array(row) for model, row in rows.items()}) for name, rows in scores.items()
        }
