"""The computation of `tsne`: fit on sampled nodes, place every node by its nearest sampled one, colour it."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.maths.neighbours import NeighbourSearch, build_search, choose_search
from aligncut_cli.maths.tsne import fit_tsne
from aligncut_cli.params import RunOptions, TsneParams
from aligncut_cli.stages.sample import choose_nodes, gather_rows, stream_blocks
from aligncut_cli.store.nodes import Block, Slot, images_per_chunk
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work, write_json
from aligncut_cli.store.write import Writer, create_array, create_group, create_node_arrays, put_images
from aligncut_cli.viz.colours import colour_range, to_rgb

PROCESS_BYTES = 700_000_000
BLOCK_BYTES = 500_000
FEWEST_POINTS = 5
BYTES_PER_POINT = 3_000  # affinities to about 3 x perplexity neighbours, both ways, and the gradient's buffers


class TsnePhases:
    """One run of the stage: one map per group of the eigs store."""

    def __init__(
        self,
        work: Work,
        source: Store,
        base: Store | None,
        params: TsneParams,
        options: RunOptions,
        console: Console,
    ) -> None:
        self.work, self.source, self.base = work, source, base
        self.params, self.console = params, console
        self.device = resolve_device(options.device)
        self.axes = source.axes
        self.groups: list[tuple[str, list[Slot]]] = self.axes.groups(source.record["params"]["group"])
        self.n_eig = int(source.array("eigenvalues").shape[1])

    def run(self) -> Outcome:
        """Plan, and compute every phase that is not done."""
        sizes = [self.axes.n_group_nodes(slots) for _, slots in self.groups]
        if self.base is not None:
            self._require_same_space(self.base)
            self.n_sample = int(self.base.array("sample/node").shape[1])
        else:
            self.n_sample = min(self.params.n_sample, *sizes)
            if self.n_sample < FEWEST_POINTS:
                raise BadInput(
                    f"t-SNE of {self.n_sample} nodes means nothing",
                    do=f"Give it at least {FEWEST_POINTS}: more images, or a larger --n-sample.",
                )
        self.images_per_block = {
            model.name: max(
                int(self.source.array(f"{model.name}/eigvecs").chunks[1]),
                images_per_chunk(model.n_tokens * self.params.dims * 4, model.n_images, target=BLOCK_BYTES),
            )
            for model in self.axes.models
        }
        self.blocks, self.group_of = self.axes.group_blocks(self.groups, self.images_per_block)
        plan = Plan(
            phases={"create": 1, "sample": 1, "fit": len(self.groups), "place": len(self.blocks)},
            memory=PROCESS_BYTES + self.n_sample * (BYTES_PER_POINT + 8 * self.n_eig),
            disk=sum(sizes) * self.params.dims * (4 + (self.params.dims == 3)) + self.n_sample * (self.n_eig * 4 + 24),
            notes={"nodes": sum(sizes), "fitted on": self.n_sample},
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        for phase, step in (
            ("create", self._create),
            ("sample", self._sample),
            ("fit", self._fit),
            ("place", self._place),
        ):
            if self.work.count_done(phase) < plan.phases[phase]:
                step()
        return self._finish()

    def _require_same_space(self, base: Store) -> None:
        """Require that a basis was made of the same eigenvectors that this eigs store extends."""
        ours = self.source.record
        extended = [item["digest"] for item in ours["inputs"] if item["kind"] == "eigs"]
        theirs = [item["digest"] for item in base.record["inputs"] if item["kind"] == "eigs"]
        if not set(theirs[:1]) & {ours["digest"], *extended}:
            raise BadInput(
                f"{base.path} was made of other eigenvectors than {self.source.path} extends",
                do="Make the eigs store with --basis the one that the tsne store was made of.",
            )
        missing = [name for name, _ in self.groups if name not in base.record["groups"]]
        if missing:
            raise BadInput(f"{base.path} has no group {missing[0]!r} to extend")

    @cached_property
    def writer(self) -> Writer:
        """Return the store under construction."""
        return Writer(self.work.staging)

    def _create(self) -> None:
        root = create_group(self.work.staging)
        g, m, c, d = len(self.groups), self.n_sample, self.n_eig, self.params.dims
        create_array(root, "sample/node", shape=(g, m), dtype="int64", dims=["group", "sample"], chunks=(1, m))
        for name, last, size in (("eigvecs", "eig", c), ("coords", "dim", d)):
            create_array(
                root,
                f"sample/{name}",
                shape=(g, m, size),
                dtype="float32",
                dims=["group", "sample", last],
                chunks=(1, m, size),
            )
        put_images(root, self.source.images(), {})
        create_node_arrays(
            root, self.axes, "coords", dtype="float32", last=("dim", d), images_per_block=self.images_per_block
        )
        if d == 3:
            create_node_arrays(
                root, self.axes, "rgb", dtype="uint8", last=("rgb", 3), images_per_block=self.images_per_block
            )
        self.work.mark("create")

    def _sample(self) -> None:
        """Choose the nodes to fit on and keep their eigenvectors, or take over those of a basis."""
        if self.base is not None:
            known: list[str] = self.base.record["groups"]
            for group, (title, _) in enumerate(self.groups):
                for name in ("node", "eigvecs", "coords"):
                    values = self.base.read(f"sample/{name}", known.index(title))
                    self.writer.write(f"sample/{name}", group, values)
        else:
            ids = [str(name) for name in self.source.read("images/id")]
            for group, (_, slots) in enumerate(self.groups):
                nodes = choose_nodes(self.axes, slots, ids, self.n_sample, seed=self.params.seed, purpose="tsne")
                self.writer.write("sample/node", group, nodes)
                self.writer.write("sample/eigvecs", group, self._gather(slots, nodes))
        self.work.mark("sample")

    def _gather(self, slots: list[Slot], nodes: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.empty((len(nodes), self.n_eig), dtype=np.float32)
        for _, where, rows in gather_rows(
            self.source,
            "eigvecs",
            slots,
            nodes,
            images_per_read=self.images_per_block,
            console=self.console,
            label="sample",
        ):
            out[where] = rows
        return out

    def _fit(self) -> None:
        """Fit t-SNE to the sampled nodes of each group."""
        for group in self.work.pending("fit"):
            if self.base is None:
                points = self.writer.read("sample/eigvecs", group)
                with self.console.progress(f"fit {self.groups[group][0]}", 1, unit="steps") as progress:
                    fit = fit_tsne(
                        points,
                        n_dims=self.params.dims,
                        perplexity=self.params.perplexity,
                        iterations=self.params.iterations,
                        engine=self.params.engine,
                        device=self.device,
                        seed=self.params.seed,
                        progress=progress.reach,
                    )
                self.writer.write("sample/coords", group, fit.coords)
                write_json(
                    self.work.wip / f"fit-{group}.json",
                    {"kl_divergence": fit.kl_divergence, "engine": fit.engine, "perplexity": fit.perplexity},
                )
            self.work.mark("fit", group)

    def _place(self) -> None:
        """Give every node the place of its nearest sampled node in eigenvector space (K = 1), and its colour."""
        search: tuple[int, NeighbourSearch, NDArray[np.float32]] | None = None
        low, high = self._colour_range()

        def compute(index: int, block: Block, values: NDArray[np.float32]) -> None:
            nonlocal search
            group = self.group_of[index]
            if search is None or search[0] != group:
                search = (group, self._search(group), self.writer.read("sample/coords", group))
            queries = torch.from_numpy(values.reshape(-1, self.n_eig)).to(self.device)
            _, nearest = search[1].search(queries, 1)
            coords = search[2][nearest[:, 0].cpu().numpy()].reshape(*values.shape[:2], self.params.dims)
            self.writer.write(f"{block.slot.model}/coords", block.select(), coords)
            if self.params.dims == 3:
                self.writer.write(f"{block.slot.model}/rgb", block.select(), to_rgb(coords, low, high))

        stream_blocks(
            self.work,
            "place",
            self.blocks,
            load=lambda block: self.source.read(f"{block.slot.model}/eigvecs", block.select()),
            compute=compute,
            axes=self.axes,
            console=self.console,
        )

    def _search(self, group: int) -> NeighbourSearch:
        points = torch.from_numpy(self.writer.read("sample/eigvecs", group)).to(self.device)
        method = choose_search(
            method="auto",
            metric="euclidean",
            n_queries=self.axes.n_group_nodes(self.groups[group][1]),
            n_sample=self.n_sample,
            dim=self.n_eig,
            device=self.device,
        )
        return build_search(points, method=method, metric="euclidean", seed=self.params.seed, device=self.device)

    def _colour_range(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the ends of the colour range per axis, one for all groups; a basis hands on its own."""
        if self.base is not None:
            ends = self.base.record["colour_range"]
            return np.array(ends["low"]), np.array(ends["high"])
        coords = self.writer.read("sample/coords")
        return colour_range(coords.reshape(-1, self.params.dims), clip=self.params.clip)

    def _finish(self) -> Outcome:
        low, high = self._colour_range()
        fits = {
            self.groups[group][0]: json.loads((self.work.wip / f"fit-{group}.json").read_text(encoding="utf-8"))
            for group in range(0 if self.base is not None else len(self.groups))
        }
        summary: dict[str, Any] = {"nodes": self.axes.n_nodes, "fitted_on": self.n_sample, "fit": fits}
        outcome = self.work.finish(
            models=self.axes.names,
            summary=summary,
            groups=[name for name, _ in self.groups],
            colour_range={"low": low.tolist(), "high": high.tolist()},
            controls=collect_controls(self.source, self.base),
        )
        divergence = ", ".join(f"{fit['kl_divergence']:.3f}" for fit in fits.values())
        self.console.note(
            f"{self.axes.n_nodes:,} nodes placed in {self.params.dims}-D, fitted on {self.n_sample:,}"
            + (f", KL divergence {divergence}" if fits else ", as in the basis")
        )
        return outcome
