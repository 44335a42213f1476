"""Tables and plots of a transitions store, for `transitions --figures`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.nodes import Slot
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.transition_plots import plot_flow, plot_trajectories, plot_transition

PROCESS_BYTES = 400_000_000
CLOUD_POINTS = 6000


class TransitionsFigures:
    """One pair of slots, and every model whose layers were followed."""

    def __init__(self, work: Work, source: Store, tsne: Store, console: Console) -> None:
        self.work, self.source, self.tsne, self.console = work, source, tsne, console
        self.controls = collect_controls(source, tsne)
        self.masks: list[str] = source.record["masks"]
        self.along: list[str] = source.record["params"]["along"]
        self.in_plane = int(source.record["dims"]) == 2

    def run(self) -> Outcome:
        """Write everything anew: it takes seconds."""
        plan = Plan(phases={"figures": 1}, memory=PROCESS_BYTES, disk=1_000_000)
        if not self.work.accept(plan):
            return self.work.outcome()
        self.work.staging.mkdir(exist_ok=True)
        folder = self.work.staging
        header = ["from", "to", "tokens", "from concept", "to concept", "probability", "count", "of"]
        write_csv(folder / "transitions.csv", header, list(self._rows()), controls=self.controls)
        tests = self.source.record["bifurcations"]
        rows = [list(test.values()) for test in tests]
        header = ["from", "to", "radius from", "radius to", "bifurcation", "by chance", "p"]
        write_csv(folder / "bifurcations.csv", header, rows, controls=self.controls)
        if self.source.has("concepts"):
            self._plot_pair()
        for model in self.along:
            self._plot_flow(model)
        for model in self.source.record["models"]:
            self._plot_trajectories(model)
        self.work.mark("figures")
        self.console.note(f"tables and pictures are in {self.work.output}")
        return self.work.finish(models=self.source.record["models"], controls=self.controls)

    def _rows(self) -> Iterator[list[object]]:
        """Give a row per pair of slots, kind of tokens and pair of concepts."""
        if self.source.has("concepts"):
            names = self.source.record["params"]["from_slot"], self.source.record["params"]["to_slot"]
            for mask in self.masks:
                arrays = [self.source.read(f"{name}/{mask}") for name in ("probability", "counts", "members")]
                yield from _list_pair(*names, mask, *arrays)
        for model in self.along:
            layers = self.source.axes[model].layers
            arrays = [self.source.read(f"{model}/{name}") for name in ("probability", "counts", "members")]
            for step in range(len(layers) - 1):
                for index, mask in enumerate(self.masks):
                    slots = f"{model}:{layers[step]}", f"{model}:{layers[step + 1]}"
                    yield from _list_pair(*slots, mask, *(array[index, step] for array in arrays))

    def _plot_pair(self) -> None:
        params = self.source.record["params"]
        slots = self.tsne.axes.slot(params["from_slot"]), self.tsne.axes.slot(params["to_slot"])
        radius = self.source.read("radius")
        test = self.source.record["bifurcations"][0]
        notes = [] if self.in_plane else ["maps show the first two of three dimensions"]
        if test["bifurcation"] is not None:
            notes.append(
                f"bifurcation {test['bifurcation']:.3f}, by chance {test['expected']:.3f}, p = {test['p']:.4f}"
            )
        figure = plot_transition(
            (f"A: {slots[0]}", f"B: {slots[1]}"),
            (self._slot_cloud(slots[0]), self._slot_cloud(slots[1])),
            (self.source.read("concepts/from")[:, :2], self.source.read("concepts/to")[:, :2]),
            (float(radius[0]), float(radius[1])),
            {mask: self.source.read(f"probability/{mask}") for mask in self.masks},
            subtitle="; ".join(notes),
            controls=self.controls,
        )
        save_figure(figure, self.work.staging / "transitions.png")

    def _slot_cloud(self, slot: Slot) -> NDArray[Any]:
        """Return some tokens of a slot, (n, 2): those of its first images."""
        model = self.tsne.axes[slot.model]
        n_images = min(model.n_images, max(1, CLOUD_POINTS // model.n_tokens))
        coords = self.tsne.read(f"{slot.model}/coords", (slot.position, slice(0, n_images)))
        return coords[:, int(model.class_token) :, :2].reshape(-1, 2)

    def _plot_flow(self, model: str) -> None:
        shown = {mask: index for index, mask in enumerate(self.masks)}
        counts, members = self.source.read(f"{model}/counts"), self.source.read(f"{model}/members")
        tests = None
        if len(self.masks) > 1:
            tests = {name: self.source.read(f"{model}/{name}") for name in ("bifurcation", "expected", "p")}
        figure = plot_flow(
            model,
            self.source.axes[model].layers,
            {mask: counts[index] for mask, index in shown.items()},
            {mask: members[index] for mask, index in shown.items()},
            tests,
            controls=self.controls,
        )
        save_figure(figure, self.work.staging / f"flow-{model}.png")

    def _plot_trajectories(self, model: str) -> None:
        if not self.in_plane:
            self.console.note(f"no trajectories of {model}: they need a map made with `tsne --dims 2`")
            return
        groups = self.tsne.axes.groups(_grouping(self.tsne))
        inside = [index for index, (_, slots) in enumerate(groups) if any(slot.model == model for slot in slots)]
        places = self.source.read(f"{model}/followed")
        if len(inside) > 1 or not len(places):
            self.console.note(f"no trajectories of {model}: " + ("each layer has a map of its own" if len(places) else
                                                                 "no token is followed"))  # fmt: skip
            return
        cloud = self.tsne.read("sample/coords", inside[0])
        ids = self.source.read("images/id")
        figure = plot_trajectories(
            model,
            self.source.axes[model].layers,
            cloud[:: max(1, len(cloud) // CLOUD_POINTS)],
            self.source.read(f"{model}/trajectory"),
            [f"{ids[image]}:{row},{column}" for image, row, column in places],
            controls=self.controls,
        )
        save_figure(figure, self.work.staging / f"trajectories-{model}.png")


def _grouping(tsne: Store) -> str:
    """Return how the nodes of a tsne store are grouped, from the names of its groups."""
    groups: list[str] = tsne.record.get("groups", ["all"])
    if groups == ["all"]:
        return "all"
    return "model" if groups == tsne.axes.names else "layer"


def _list_pair(
    before: str, after: str, mask: str, probability: NDArray[Any], counts: NDArray[Any], members: NDArray[Any]
) -> Iterator[list[object]]:
    for (a, b), share in np.ndenumerate(probability):
        yield [before, after, mask, f"A{a}", f"B{b}", float(share), int(counts[a, b]), int(members[a])]
