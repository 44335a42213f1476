"""Tables and plots of a transitions store, for `transitions --figures`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.maths.concepts import NearestTokens
from aligncut_cli.maths.transitions import match_identities
from aligncut_cli.params import TransitionsParams
from aligncut_cli.stages.patches import CELL, cut_patch
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.style import read_style
from aligncut_cli.stages.transitions.columns import BIFURCATIONS, MOVES
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.transitions import Moves, Transitions
from aligncut_cli.store.kinds.tsne import SAMPLE_COORDS, Tsne
from aligncut_cli.store.nodes import Slot, image_slices
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.canvas import Pixels
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.flow_plot import Flow, plot_flow
from aligncut_cli.viz.transition_plots import plot_trajectories, plot_transition

PROCESS_BYTES = 400_000_000
CLOUD_POINTS = 6000
NEAREST_NODES = 200_000
"""Nodes whose places are compared with centres at a time."""


class TransitionsFigures:
    """One pair of slots, and every model whose layers were followed."""

    def __init__(self, work: Work, source: Store, tsne: Store, params: TransitionsParams, console: Console) -> None:
        self.work, self.console = work, console
        self.source, self.tsne = Transitions(source), Tsne(tsne)
        self.models: list[str] = source.record["models"]
        self.controls = collect_controls(source, tsne)
        self.style, self.photos = read_style(params, tsne.axes.names), Photos(self.tsne.images())
        self.in_plane = self.tsne.n_dims == 2

    def plan(self) -> Plan:
        """Return what it takes to draw."""
        return Plan(memory=PROCESS_BYTES, disk=1_000_000)

    def phases(self) -> Sequence[Phase[Any]]:
        """Return one phase: everything anew takes seconds."""
        return [single_step("figures", self._draw)]

    def finish(self) -> Outcome:
        """Give the folder its name."""
        return self.work.finish(models=self.models, controls=self.controls)

    def _draw(self) -> None:
        folder = self.work.staging
        folder.mkdir(exist_ok=True)
        write_csv(folder / "transitions.csv", MOVES, list(self._rows()), controls=self.controls)
        tests = [list(test.values()) for test in self.source.bifurcations]
        write_csv(folder / "bifurcations.csv", BIFURCATIONS, tests, controls=self.controls)
        if self.source.pair is not None:
            self._plot_pair(*self.source.pair)
        for model in self.source.along:
            self._plot_flow(model)
        for model in self.models:
            self._plot_trajectories(model)

    def _rows(self) -> Iterator[list[object]]:
        """Give a row per pair of slots, kind of tokens and pair of concepts."""
        if self.source.pair is not None:
            yield from self._list_moves(self.source.read_pair())
        for model in self.source.along:
            yield from self._list_moves(self.source.read_along(model))

    def _list_moves(self, moves: Moves) -> Iterator[list[object]]:
        """Give a row per step, kind of tokens and pair of concepts."""
        least = self.source.least_tokens
        for step, slots in enumerate(moves.steps):
            for at, kind in enumerate(self.source.token_kinds):
                counts, members = moves.counts[at, step], moves.members[at, step]
                for (a, b), share in np.ndenumerate(moves.probability[at, step]):
                    few = int(members[a] < least)
                    yield [*slots, kind, f"A{a}", f"B{b}", float(share), int(counts[a, b]), int(members[a]), few]

    def _plot_pair(self, before: str, after: str) -> None:
        slots = self.tsne.axes.slot(before), self.tsne.axes.slot(after)
        radius, concepts = self.source.read_radius(), self.source.read_concepts()
        test = self.source.bifurcations[0]
        notes = [] if self.in_plane else ["maps show the first two of three dimensions"]
        if test["bifurcation"] is not None:
            notes.append(
                f"bifurcation {test['bifurcation']:.3f}, with masks of other images {test['expected']:.3f}, "
                f"p = {test['p']:.4f}"
            )
        moves, kinds = self.source.read_pair(), self.source.token_kinds
        least = self.source.least_tokens
        few = moves.members[:, 0] < least
        if few.any():
            notes.append(f"in brackets: from fewer than {least} tokens")
        figure = plot_transition(
            (before, after),
            (self._slot_cloud(slots[0]), self._slot_cloud(slots[1])),
            (concepts[0][:, :2], concepts[1][:, :2]),
            (float(radius[0]), float(radius[1])),
            dict(zip(kinds, moves.probability[:, 0], strict=True)),
            dict(zip(kinds, few, strict=True)),
            subtitle="; ".join(notes),
            style=self.style,
            controls=self.controls,
        )
        save_figure(figure, self.style.file(self.work.staging, "transitions"))

    def _slot_cloud(self, slot: Slot) -> NDArray[Any]:
        """Return some patches of a slot, (n, 2): those of its first images."""
        model = self.tsne.axes[slot.model]
        n_images = min(model.n_images, max(1, CLOUD_POINTS // model.n_tokens))
        coords = self.tsne.patches(slot.model, slice(0, n_images), layers=slot.position)
        return coords[..., :2].reshape(-1, 2)

    def _plot_flow(self, model: str) -> None:
        moves, kinds = self.source.read_along(model), self.source.token_kinds
        flow = Flow(
            dict(zip(kinds, moves.counts, strict=True)),
            dict(zip(kinds, moves.members, strict=True)),
            match_identities(moves.counts[kinds.index("all")]),
            self._cut_patches(model),
        )
        figure = plot_flow(
            model,
            self.source.axes[model].layers,
            flow,
            self.source.read_tests(model),
            style=self.style,
            controls=self.controls,
        )
        save_figure(figure, self.style.file(self.work.staging, f"flow-{model}"))

    def _cut_patches(self, name: str) -> list[list[Pixels]]:
        """Return by layer and concept the patch that is nearest to its centre; white where a layer has no concepts."""
        model, centres = self.tsne.axes[name], self.source.read_layer_concepts(name)
        step = max(1, NEAREST_NODES // (len(model.layers) * model.n_tokens))
        nearest = [NearestTokens(centres.shape[1], 1) for _ in model.layers]
        for images in image_slices(model.n_images, step):
            coords = self.tsne.patches(name, images)
            for layer, found in enumerate(nearest):
                offset = coords[layer][:, :, None] - centres[layer]
                found.add(np.square(offset, dtype=np.float64).sum(axis=-1), first_image=images.start)
        white = np.full((3 * CELL, 3 * CELL, 3), 255, np.uint8)
        return [
            [
                cut_patch(self.photos, int(image), *divmod(int(token), model.grid[1]), model) if image >= 0 else white
                for image, token in zip(found.image[:, 0], found.token[:, 0], strict=True)
            ]
            for found in nearest
        ]

    def _plot_trajectories(self, model: str) -> None:
        if not self.in_plane:
            self.console.note(f"no trajectories of {model}: they need a map made with `tsne --dims 2`")
            return
        maps = [at for at, (_, slots) in enumerate(self.tsne.groups) if any(slot.model == model for slot in slots)]
        followed = self.source.name_followed(model)
        if len(maps) > 1 or not followed:
            why = "each layer has a map of its own" if followed else "no token is followed"
            self.console.note(f"no trajectories of {model}: {why}")
            return
        cloud = self.tsne.store.read(SAMPLE_COORDS.at(), maps[0])
        figure = plot_trajectories(
            model,
            self.source.axes[model].layers,
            cloud[:: max(1, len(cloud) // CLOUD_POINTS)],
            self.source.read_trajectory(model),
            followed,
            style=self.style,
            controls=self.controls,
        )
        save_figure(figure, self.style.file(self.work.staging, f"trajectories-{model}"))
