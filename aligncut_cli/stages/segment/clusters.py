"""Segments without masks: eigenvectors discretized on sampled nodes, all nodes labelled; matched with any masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.clusters import Discretization, fit_discretization, match_clusters, nest_clusters
from aligncut_cli.maths.grid import count_classes_per_token, round_mask_to_grid
from aligncut_cli.stages.sample import choose_nodes, gather_rows
from aligncut_cli.stages.segment.passes import (
    KINDS,
    ByModel,
    Floats,
    Place,
    Rounding,
    Rows,
    Setting,
    Truth,
    score_rounding,
)
from aligncut_cli.store.kinds.segments import (
    LEVEL_GROUPS,
    OVERLAP,
    ROUNDING,
    RULE,
    create_levels,
    name_level_score,
)
from aligncut_cli.store.nodes import ModelAxes
from aligncut_cli.store.phases import Phase


class Clusters:
    """One discretization per graph of each eigs store, so that a joint graph gives segments shared by all models.

    levels : numbers of clusters, the finest first
    """

    usual_n_eig: int | None = None

    def __init__(self, setting: Setting) -> None:
        self.setting, self.layout, self.sums = setting, setting.layout, setting.sums
        self.params, self.n_classes = setting.params, setting.n_classes
        self.models = setting.layout.axes.models
        self.levels, self.coarser = setting.params.clusters, setting.params.clusters[1:]
        self.scores: tuple[str, ...] = ("miou", "shuffled", "bound", "iou", *map(name_level_score, self.coarser))
        self.graphs = [store.groups for store in setting.layout.stores]
        self._graph_of = [
            {(slot.model, slot.position): index for index, (_, slots) in enumerate(graphs) for slot in slots}
            for graphs in self.graphs
        ]
        self._rules = cache(self._read_rules)
        self._nested = cache(self._nest)

    def bytes_of_sums(self) -> int:
        """Return the memory of the sampled eigenvectors with their distances."""
        return self.params.cluster_sample * self.layout.n_eig * 8 * 12

    def create(self, root: Any, scratch: Any) -> None:
        """Create the table of levels, the rules and the overlaps of clusters with classes."""
        finest = self.levels[0]
        create_levels(root, self.levels, n_graphs=len(self.graphs[0]))
        sizes = {"run": len(self.graphs), "graph": max(map(len, self.graphs)), "eig": finest, "cluster": finest}
        for array in RULE.values():
            array.create(scratch, sizes)
        if self.setting.truth is not None:
            self.sums.create(scratch, (OVERLAP, ROUNDING), cluster=finest)

    def passes(self) -> Sequence[Phase[Any]]:
        """Return the phases before labelling."""
        phases: list[Phase[Any]] = [Phase("fit", range(len(self.graphs)), self._fit, parallel=True)]
        if self.setting.truth is not None:
            phases.append(self.layout.phase("match", partial(self._add_overlap, self.setting.truth)))
        return phases

    def _fit(self, index: int, run: int, data: None) -> None:
        """Fit a rule for the finest level to sampled nodes of each graph of one store."""
        store, seed = self.layout.stores[run], self.params.seed
        rules = []
        for title, slots in self.graphs[run]:
            size = min(self.params.cluster_sample, store.axes.n_group_nodes(slots))
            nodes = choose_nodes(store, slots, size, seed=seed, purpose="clusters")
            sample = gather_rows(store, slots, nodes, console=self.setting.console, label=f"fit {title}")
            leading = np.ascontiguousarray(sample[:, : self.layout.n_eig])
            rules.append(fit_discretization(leading, n_clusters=self.levels[0], method=self.params.method, seed=seed))
        for name, array in RULE.items():
            values = np.stack([getattr(rule, name) for rule in rules]).astype(np.float64)
            whole = np.zeros(self.sums.scratch.array(array.at()).shape[1:])  # stores may have fewer graphs
            whole[: len(values)] = values
            self.sums.scratch.write(array.at(), run, whole)
        if run == 0:
            nested = np.stack([nest_clusters(rule, levels=self.levels) for rule in rules])
            self.setting.writer.write(LEVEL_GROUPS.at(), ..., nested)

    def _read_rules(self, run: int) -> list[Discretization]:
        rule = {name: self.sums.scratch.read(array.at(), run) for name, array in RULE.items()}
        return [
            Discretization(
                rule["weights"][graph],
                rule["offsets"][graph],
                rule["sizes"][graph].astype(np.int64),
                rule["means"][graph],
            )
            for graph in range(len(self.graphs[run]))
        ]

    def _nest(self, run: int) -> NDArray[np.int16]:
        """Return (graph, level, cluster): the group of each finest cluster at each level."""
        return np.stack([nest_clusters(rule, levels=self.levels) for rule in self._rules(run)])

    def _label_finest(self, run: int, model: str, rows: NDArray[np.float32]) -> NDArray[np.int16]:
        """Label (layer, image, patch) of one model at the finest level."""
        rules, graph_of = self._rules(run), self._graph_of[run]
        return np.stack([rules[graph_of[model, at]].label(part) for at, part in enumerate(rows)])

    def label(self, rows: Rows) -> Mapping[str, list[NDArray[np.int16]]]:
        """Return for each model the cluster (layer, image, patch) at every level, the finest first."""
        out = {}
        for name, values in rows.items():
            finest = self._label_finest(0, name, values)
            graphs = [self._graph_of[0][name, at] for at in range(len(finest))]
            out[name] = [
                np.stack([group[part] for group, part in zip(self._nested(0)[graphs, level], finest, strict=True)])
                for level in range(len(self.levels))
            ]
        return out

    def _add_overlap(self, truth: Truth, index: int, place: Place, rows: Rows) -> None:
        """Count the pixels of every class and cluster in one block, for both kinds of masks."""
        finest = self.levels[0]
        overlap = {
            model.name: np.zeros((len(KINDS), len(model.layers), self.n_classes, finest), np.int64)
            for model in self.models
        }
        rounding = Rounding(self.setting)
        labels = {name: self._label_finest(place.run, name, values) for name, values in rows.items()}
        for image, masks in enumerate(truth.pairs(place.images)):
            for model in self.models:
                indicator = labels[model.name][:, image, :, None] == np.arange(finest)  # (layer, patch, cluster)
                for kind, mask in enumerate(masks):
                    pixels = self._count_pixels(mask, model)
                    overlap[model.name][kind] += (pixels.T @ indicator.astype(np.float64)).astype(np.int64)
            rounding.add(masks[0])
        for name, counts in overlap.items():
            self.sums.write(OVERLAP, name, index, counts)
        rounding.write(index)

    def _count_pixels(self, mask: NDArray[np.int16], model: ModelAxes) -> Floats:
        """Return (patch, class) pixels, or one for each patch's own class at the resolution of tokens."""
        if self.params.resolution == "pixels":
            return count_classes_per_token(mask, model.grid, n_classes=self.n_classes)[0].astype(np.float64)
        rounded = round_mask_to_grid(mask, model.grid, n_classes=self.n_classes)
        own: Floats = (rounded[:, None] == np.arange(self.n_classes)).astype(np.float64)
        return own

    def score(self, run: int) -> Mapping[str, ByModel]:
        """Return by name Hungarian-matched scores of one store, (layer,) of each model, `iou` (layer, class).

        Each slot is matched alone.
        """
        scores: dict[str, dict[str, Floats]] = {name: {} for name in self.scores if name != "bound"}
        for model in self.models:
            own, others = self.sums.total(OVERLAP, model.name, run)
            matches = [match_clusters(overlap) for overlap in own]
            scores["miou"][model.name] = np.array([match.miou for match in matches])
            scores["iou"][model.name] = np.array([match.iou for match in matches])
            scores["shuffled"][model.name] = np.array([match_clusters(overlap).miou for overlap in others])
            groups = [self._nested(run)[self._graph_of[run][model.name, at]] for at in range(len(own))]
            for level, count in enumerate(self.levels[1:], start=1):
                indicators = [(group[level][:, None] == np.arange(count)).astype(np.int64) for group in groups]
                merged = [overlap @ indicator for overlap, indicator in zip(own, indicators, strict=True)]
                scores[name_level_score(count)][model.name] = np.array([match_clusters(part).miou for part in merged])
        return {**scores, "bound": score_rounding(self.setting, run)}
