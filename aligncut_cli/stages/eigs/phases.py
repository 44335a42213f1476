"""The computation of `eigs`: sample, solve, carry, and where asked orthogonalize and check, block by block."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.errors import OutOfResources
from aligncut_cli.maths.device import free_memory
from aligncut_cli.maths.eigensolve import estimate_solver_memory, solve_normalized_cut
from aligncut_cli.maths.neighbours import choose_search
from aligncut_cli.maths.propagate import gram, orthogonalizer
from aligncut_cli.maths.sampling import FPS_POOL
from aligncut_cli.maths.variance_shares import mean_shares
from aligncut_cli.params import EigsParams
from aligncut_cli.stages.device import settle_device
from aligncut_cli.stages.eigs.basis import copy_solution, find_groups
from aligncut_cli.stages.eigs.carry import EXTENSIONS, Extension, SolvedSample
from aligncut_cli.stages.eigs.check import GraphCheck
from aligncut_cli.stages.eigs.layout import Layout
from aligncut_cli.stages.eigs.sample import GatheredParts, choose_candidates, choose_sample, gather_unit_rows
from aligncut_cli.stages.eigs.shares import create_sums, measure_shares, write_sums
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.kinds.base import create_node_arrays, put_images
from aligncut_cli.store.kinds.eigs import (
    CARRIED,
    CENTRE,
    EIGENVALUES,
    EIGVECS,
    GRAM,
    ORTHOGONALIZER,
    RESIDUAL,
    SAMPLE_DEGREE,
    SAMPLE_EIGVECS,
    SAMPLE_FEATURES,
    SAMPLE_NODE,
    SOLVED,
    Eigs,
)
from aligncut_cli.store.nodes import Block, ModelAxes, Slot
from aligncut_cli.store.phases import Phase, node_phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work, memory_limit, write_json
from aligncut_cli.store.write import Writer, create_group

PROCESS_BYTES = 700_000_000  # python with torch, zarr and faiss loaded
INCOMPARABLE = (
    "one graph was cut over several models without an alignment: their channels do not mean the same, so likeness "
    "between models, and like colours, mean nothing. Give --alignment, or cut each model alone: --group model"
)


class EigsStage:
    """One run of the stage: graphs, their blocks, and the phases in order."""

    def __init__(
        self,
        work: Work,
        source: Store,
        alignment: Store | None,
        base: Store | None,
        params: EigsParams,
    ) -> None:
        self.work, self.params, self.options, self.console = work, params, work.options, work.console
        self.controls = collect_controls(source, alignment, base)
        self.device = settle_device(work)
        self.base = None if base is None else Eigs(base)
        self.space = FeatureSpace.of(
            source,
            alignment,
            self.device,
            roi=params.roi,
            top_channels=params.top_channels,
            centre=self._read_centre if params.centre == "slot" else None,
            fit=params.fit,
        )
        self.space.require()
        self.comparable = params.group != "all" or self.space.comparable
        self.axes = self.space.axes
        self.layout = Layout(self.space, self.base, params)
        if self.base is not None:
            find_groups(self.base, self.layout.names)
        self.search = work.settle(
            "search",
            lambda: choose_search(
                method=params.search,
                n_queries=max(self.layout.sizes),
                n_sample=self.layout.n_sample,
                dim=self.layout.dim,
                device=self.device,
            ),
        )
        self.on_gpu = work.settle("bytes of the GPU", lambda: free_memory(self.device))
        self.writer, self.scratch = Writer(work.staging), Writer(work.scratch)
        by_slot = work.spread and base is None
        self.gathered = GatheredParts(work.scratch, self.layout.groups) if by_slot else None
        self.check = GraphCheck(self.space, self.layout, self.writer, work.scratch, params, work.console)
        self._extension: tuple[int, Extension] | None = None

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        groups, blocks, group_of = range(len(self.layout.groups)), self.layout.blocks, self.layout.group_of.__getitem__
        phases: list[Phase[Any]] = [
            single_step("create", self._create),
            *([Phase("centre", self.axes.models, self._centre)] if self.params.centre == "slot" else ()),
            *self._gathering(),
            single_step("sample", self._sample),
            Phase("solve", groups, self._solve, parallel=True),
        ]
        carry = partial(
            node_phase, "carry", self.axes, blocks, load=self.space.load, compute=self._carry, part=group_of
        )
        turn = partial(node_phase, "orthogonalize", self.axes, blocks, load=self._load_carried, compute=self._turn)
        if self.params.orthogonalize:
            phases += [carry(write=self._keep), turn(write=self._write_final)]
        else:
            phases.append(carry(write=self._write_final))
        if self.params.check:
            phases.append(Phase("checked rows", groups, self._choose_checked, parallel=True))
            phases.append(Phase("check", self.check.parts, self._check, parallel=True))
        return phases

    def _gathering(self) -> Sequence[Phase[Any]]:
        """Return the phases by which workers read the sampled nodes; one process does so in `sample` itself."""
        if self.gathered is None:
            return []
        gather: Phase[Any] = Phase("gather", self.gathered.parts, self._gather, unit="slots", parallel=True)
        return [single_step("nodes", self._choose_nodes), gather]

    def plan(self) -> Plan:
        """Refuse what does not fit on a GPU, and return the largest of the phases' needs."""
        m, c, dim = self.layout.n_sample, self.params.n_eig, self.layout.dim
        sample_bytes = m * dim * 4 * (FPS_POOL if self.params.sample == "fps" else 1)
        block_rows = max(self.layout.images_per_block[m.name] * m.n_tokens for m in self.axes.models)
        streaming = block_rows * (dim * 16 + c * 16) + 2 * m * dim * 4
        base = PROCESS_BYTES + 2 * sample_bytes
        solving, storage = self._plan_solver(base)
        total = sum(self.layout.sizes)
        return Plan(
            memory=base + max(solving, streaming),
            worker=base + max(streaming, solving if len(self.layout.groups) > 1 else 0),
            disk=total * c * 4 * (2 if self.params.orthogonalize else 1)
            + len(self.layout.groups) * m * (dim * 4 + c * 4 + 16),
            notes={
                "nodes": total,
                "groups": len(self.layout.groups),
                "sampled": m,
                "search": "none, every node is sampled" if all(self.layout.exact) else self.search,
                "affinity": storage,
            },
        )

    def _plan_solver(self, base: int) -> tuple[int, str]:
        """Return the solver's bytes of memory beside `base`, and how it will hold the affinity."""
        m, on_gpu = self.layout.n_sample, self.on_gpu
        solver = estimate_solver_memory(m, self.layout.dim, n_eig=self.params.n_eig, device=self.device)
        fits = self.base is not None or solver.half <= (memory_limit(self.options) - base if on_gpu is None else on_gpu)
        needed = 0 if self.base is not None else solver.half if fits else solver.matrix_free
        if on_gpu is not None and needed > on_gpu:
            raise OutOfResources(
                f"the eigenproblem on {m:,} nodes needs {needed / 1e9:.1f} GB on the GPU",
                why=f"{on_gpu / 1e9:.1f} GB are free.",
                do="Sample fewer nodes with --n-sample, or use --device cpu.",
            )
        storage = "upper half held" if fits else "matrix-free (does not fit in memory)"
        return needed if on_gpu is None else 0, storage

    # phases

    def _create(self) -> None:
        root = create_group(self.work.staging)
        layout = self.layout
        sizes = {
            "group": len(layout.groups),
            "sample": layout.n_sample,
            "eig": self.params.n_eig,
            "channel": layout.dim,
            "block": len(layout.blocks),
        }
        sizes |= {"orthogonal": sizes["eig"], "eig2": sizes["eig"]}
        for array in (*SOLVED, *((ORTHOGONALIZER,) if self.params.orthogonalize else ())):
            array.create(root, sizes)
        put_images(root, self.space.features.images(), {})
        create_node_arrays(root, self.axes, [EIGVECS], sizes, images_per_block=layout.images_per_block)
        if self.params.centre == "slot":
            for model in self.axes.models:
                own = {"layer": len(model.layers), "channel": self.space.n_channels_stored(model.name)}
                CENTRE.create(root, own, model.name)
        scratch = create_group(self.work.scratch)
        create_sums(scratch, self.axes, sizes, images_per_block=layout.images_per_block)
        if self.params.orthogonalize:
            create_node_arrays(scratch, self.axes, [CARRIED], sizes, images_per_block=layout.images_per_block)
            GRAM.create(scratch, sizes)

    def _centre(self, index: int, model: ModelAxes, data: None) -> None:
        """Measure the mean token of a model's slots, or take those of the basis."""
        means = self.space.mean_tokens(model.name) if self.base is None else self.base.read_centre(model)
        self.writer.write(CENTRE.at(model.name), ..., means)

    def _read_centre(self, slot: Slot) -> NDArray[np.float32]:
        return self.writer.read(CENTRE.at(slot.model), slot.position)

    def _sample(self) -> None:
        """Choose the sampled nodes of every graph and keep their unit features, so that the store stands alone."""
        if self.base is not None:
            copy_solution(self.base, self.layout.names, self.writer, orthogonalize=self.params.orthogonalize)
            return
        for group in range(len(self.layout.groups)):
            candidates, rows = self._gather_candidates(group)
            method, count, seed = self.params.sample, self.layout.n_sample, self.params.seed
            nodes, rows = choose_sample(candidates, rows, count, method=method, seed=seed)
            self.writer.write(SAMPLE_NODE.at(), group, nodes)
            self.writer.write(SAMPLE_FEATURES.at(), group, rows)

    def _gather_candidates(self, group: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the nodes among which a graph's sample is chosen, and their unit rows."""
        if self.gathered is not None:
            return self.gathered.read_nodes(group), self.gathered.read_rows(group)
        slots, dim = self.layout.groups[group][1], self.layout.dim
        nodes = self._candidates(group)
        return nodes, gather_unit_rows(self.space, slots, nodes, dim=dim, console=self.console, label="sample")

    def _candidates(self, group: int) -> NDArray[np.int64]:
        slots, method, count = self.layout.groups[group][1], self.params.sample, self.layout.n_sample
        return choose_candidates(self.space, slots, count, method=method, seed=self.params.seed)

    def _choose_nodes(self) -> None:
        if self.gathered is not None:
            for group in range(len(self.layout.groups)):
                self.gathered.write_nodes(group, self._candidates(group))

    def _gather(self, index: int, part: tuple[int, Slot], data: None) -> None:
        if self.gathered is not None:
            self.gathered.gather(index, self.space, dim=self.layout.dim, console=self.console)

    def _solve(self, index: int, group: int, data: None) -> None:
        """Solve Eq. 3 on the sampled nodes of one graph."""
        if self.base is not None:
            return
        rows = self.writer.read(SAMPLE_FEATURES.at(), group)
        limit = memory_limit(self.options) - PROCESS_BYTES - rows.nbytes
        name = self.layout.names[group]
        with self.console.progress(f"solve {name}", 1, unit="steps") as progress:
            solution = solve_normalized_cut(
                torch.from_numpy(rows),
                n_eig=self.params.n_eig,
                device=self.device,
                memory_limit=limit if self.on_gpu is None else self.on_gpu,
                seed=self.params.seed,
                progress=progress.reach,
            )
        self.console.detail(
            f"{name}: {solution.iterations} products, {solution.storage}, "
            f"largest residual {solution.residuals.max():.1e}"
        )
        self.writer.write(SAMPLE_EIGVECS.at(), group, solution.eigenvectors)
        self.writer.write(SAMPLE_DEGREE.at(), group, solution.degrees)
        self.writer.write(EIGENVALUES.at(), group, solution.eigenvalues)
        self.writer.write(RESIDUAL.at(), group, solution.residuals)

    def _carry(self, index: int, block: Block, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Carry the sampled eigenvectors to every node of a block (Eq. 4, or the Nystrom extension)."""
        group = self.layout.group_of[index]
        if self.layout.exact[group]:
            carried = self._look_up(group, block)
        else:
            carried = self._extension_of(group).extend(self.space.unit_rows(rows, block.slot))
        if self.params.orthogonalize:
            self.scratch.write(GRAM.at(), index, gram(carried))
        return carried.cpu().numpy().reshape(-1, self.axes[block.slot.model].n_tokens, self.params.n_eig)

    def _keep(self, index: int, block: Block, values: NDArray[np.float32]) -> None:
        self.scratch.write(CARRIED.at(block.slot.model), block.select(), values)

    def _write_final(self, index: int, block: Block, values: NDArray[np.float32]) -> None:
        self.writer.write(EIGVECS.at(block.slot.model), block.select(), values)
        write_sums(self.scratch, block, values)

    def _look_up(self, group: int, block: Block) -> torch.Tensor:
        """Return the eigenvectors of a block of a graph whose nodes are all sampled."""
        first = self.axes.first_node(block.slot) + block.images.start * self.axes[block.slot.model].n_tokens
        at = int(np.searchsorted(self.writer.read(SAMPLE_NODE.at(), group), first))
        rows = self.writer.read(SAMPLE_EIGVECS.at(), group)[at : at + self.axes.n_block_nodes(block)]
        return torch.from_numpy(rows).to(self.device)

    def _extension_of(self, group: int) -> Extension:
        """Return what carries a graph's eigenvectors; the last one made is kept."""
        if self._extension is not None and self._extension[0] == group:
            return self._extension[1]
        sample = SolvedSample(
            torch.from_numpy(self.writer.read(SAMPLE_FEATURES.at(), group)).to(self.device),
            torch.from_numpy(self.writer.read(SAMPLE_EIGVECS.at(), group)).to(self.device),
            self.writer.read(EIGENVALUES.at(), group),
            self.writer.read(SAMPLE_DEGREE.at(), group),
        )
        self._extension = None  # free its memory before the next is made
        extension = EXTENSIONS[self.params.extend](
            sample, neighbors=self.params.neighbors, search=self.search, seed=self.params.seed
        )
        if extension.detail:
            self.console.detail(extension.detail)
        if extension.record:
            write_json(self.work.wip / "search.json", extension.record)
        self._extension = (group, extension)
        return extension

    def _load_carried(self, block: Block) -> NDArray[np.float32]:
        return self.scratch.read(CARRIED.at(block.slot.model), block.select())

    @cached_property
    def _transforms(self) -> NDArray[np.float64]:
        """Return (group, eig, orthogonal): what makes each graph's eigenvectors orthonormal over all its nodes.

        They are scaled so that a column's mean square is that of the sampled problem, 1 / m.
        """
        if self.base is None:
            grams, group_of = self.scratch.read(GRAM.at()), np.array(self.layout.group_of)
            for group, size in enumerate(self.layout.sizes):
                total = grams[group_of == group].sum(axis=0)
                transform = orthogonalizer(total) * np.sqrt(size / self.layout.n_sample)
                self.writer.write(ORTHOGONALIZER.at(), group, transform)
        return self.writer.read(ORTHOGONALIZER.at())

    def _turn(self, index: int, block: Block, values: NDArray[np.float32]) -> NDArray[np.float32]:
        turned: NDArray[np.float64] = values.astype(np.float64) @ self._transforms[self.layout.group_of[index]]
        return turned.astype(np.float32)

    def _choose_checked(self, index: int, group: int, data: None) -> None:
        self.check.choose(group)

    def _check(self, index: int, part: tuple[int, Slot], data: None) -> None:
        self.check.add(index)

    # ending

    def finish(self) -> Outcome:
        """Give the store its name, with figures of the solution."""
        residual, values = self.writer.read(RESIDUAL.at()), self.writer.read(EIGENVALUES.at())
        exact = all(self.layout.exact)
        summary: dict[str, Any] = {
            "nodes": self.axes.n_nodes,
            "groups": len(self.layout.groups),
            "sampled": self.layout.n_sample,
            "exact": exact,
            "extend": "none" if exact else self.params.extend,
            "largest_residual": float(residual.max()),
            "eigenvalues": values[0].tolist() if len(values) == 1 else None,
            "comparable": self.comparable,
            "shares": {
                name: measure_shares(self.scratch, self.axes, slots, self.layout.images_per_block).as_record()
                for name, slots in self.layout.groups
            },
        }
        if not exact and self.params.extend == "knn":
            summary["search"] = json.loads((self.work.wip / "search.json").read_text())
        if self.params.check:
            summary["check"] = {name: self.check.report(group) for group, name in enumerate(self.layout.names)}
        return self.work.finish(
            models=self.axes.names,
            summary=summary,
            said=self._describe(summary),
            warned=[] if self.comparable else [INCOMPARABLE],
            groups=self.layout.names,
            controls=self.controls,
            comparable=self.comparable,
        )

    def _describe(self, summary: Mapping[str, Any]) -> list[str]:
        """Return how large and how exact the solution is, in lines."""
        lines = [
            f"{summary['nodes']:,} nodes, {summary['sampled']:,} sampled"
            f"{' (exact)' if summary['exact'] else ''}, {self.params.n_eig} eigenvectors, "
            f"largest residual {summary['largest_residual']:.1e}"
        ]
        shares = mean_shares(summary["shares"].values())
        graphs = f", mean of {len(summary['shares'])} graphs" if len(summary["shares"]) > 1 else ""
        lines.append(f"share of the embedding's variance that lies between: {shares.describe()}{graphs}")
        for name, check in summary.get("check", {}).items():
            residual, noise = (", ".join(f"{value:.3f}" for value in check[key]) for key in ("residual", "noise"))
            lines.append(f"check {name}: relative residual of {check['rows']} full-graph rows: {residual}")
            lines.append(f"check {name}: the check's own noise, which an exact solution shows as well: {noise}")
        return lines
