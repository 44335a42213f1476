"""The computation of `eigs`: sample, solve, carry, and where asked orthogonalize and check, block by block."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput, OutOfResources
from aligncut_cli.maths.affinity import affinity_from_cosine_
from aligncut_cli.maths.device import free_memory, resolve_device
from aligncut_cli.maths.eigensolve import estimate_solver_memory, solve_normalized_cut
from aligncut_cli.maths.neighbours import NeighbourSearch, build_search, choose_search
from aligncut_cli.maths.propagate import (
    NystromExtension,
    ResidualCheck,
    gram,
    orthogonalizer,
    propagate_eigenvectors,
)
from aligncut_cli.maths.sampling import farthest_point_sample
from aligncut_cli.params import EigsParams, RunOptions
from aligncut_cli.stages.sample import choose_nodes, gather_rows, stream_blocks
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.nodes import Block, NodeAxes, Slot, images_per_chunk
from aligncut_cli.store.read import Store, collect_controls, read_ahead
from aligncut_cli.store.run import Outcome, Plan, Work, memory_limit, write_json
from aligncut_cli.store.write import Writer, create_array, create_group, create_node_arrays, put_images

PROCESS_BYTES = 700_000_000  # python with torch, zarr and faiss loaded
BLOCK_BYTES = 1_000_000
FPS_POOL, FPS_DIMS = 4, 32
# Largest relative error, on sampled nodes, of the Nystrom extension in fewer directions: a third of the time, and the
# share of the trace changes by less than 1e-5.
NYSTROM_TOLERANCE = 0.01


class EigsPhases:
    """One run of the stage: the groups, their blocks, and the phases in order."""

    def __init__(
        self,
        work: Work,
        source: Store,
        alignment: Store | None,
        base: Store | None,
        params: EigsParams,
        options: RunOptions,
        console: Console,
    ) -> None:
        self.work, self.source, self.base = work, source, base
        self.params, self.options, self.console = params, options, console
        self.device = resolve_device(options.device)
        self.space: FeatureSpace = FeatureSpace(source, alignment, params.roi, params.top_channels, self.device)
        self.axes: NodeAxes = source.axes
        self.groups: list[tuple[str, list[Slot]]] = self.axes.groups(params.group)

    def run(self) -> Outcome:
        """Check, plan, and compute every phase that is not done."""
        self.space.require()
        self.dim = self.space.width(comparable=self.params.group == "all")
        sizes = [self.axes.n_group_nodes(slots) for _, slots in self.groups]
        self.n_sample = self._sample_size(sizes)
        self.blocks, self.group_of = self._cut_blocks()
        self.method = self._search_method(sizes)
        plan = self._plan(sizes)
        if not self.work.accept(plan):
            return self.work.outcome()
        for phase, step in (
            ("create", self._create),
            ("sample", self._sample),
            ("solve", self._solve),
            ("carry", self._carry),
            ("orthogonalize", self._orthogonalize),
            ("check", self._check),
        ):
            if phase in plan.phases and self.work.count_done(phase) < plan.phases[phase]:
                step()
        return self._finish()

    # planning

    def _sample_size(self, sizes: list[int]) -> int:
        """Return m, the same for every group, so that the sample is one array."""
        if self.base is not None:
            return int(self.base.array("sample/node").shape[1])
        m = min(self.params.n_sample, *sizes)
        if m < self.params.n_eig:
            raise BadInput(
                f"a graph of {m} sampled nodes has no {self.params.n_eig} eigenvectors",
                do="Ask for fewer with --n-eig, or sample more with --n-sample.",
            )
        return m

    def _cut_blocks(self) -> tuple[list[Block], list[int]]:
        """Cut all nodes into blocks, each one chunk of the output and whole chunks of the input."""
        self.images_per_block = {}
        for model, read in self.space.images_per_read().items():
            axes = self.axes[model]
            row = axes.n_tokens * self.params.n_eig * 4
            self.images_per_block[model] = max(read, images_per_chunk(row, axes.n_images, target=BLOCK_BYTES))
        return self.axes.group_blocks(self.groups, self.images_per_block)

    def _search_method(self, sizes: list[int]) -> str:
        return choose_search(
            method=self.params.search,
            n_queries=max(sizes),
            n_sample=self.n_sample,
            dim=self.dim,
            device=self.device,
        )

    def _exact(self, group: int) -> bool:
        """Return whether every node of a group is sampled, so that nothing need be carried."""
        return self.base is None and self.axes.n_group_nodes(self.groups[group][1]) == self.n_sample

    def _plan(self, sizes: list[int]) -> Plan:
        m, c = self.n_sample, self.params.n_eig
        phases = {"create": 1, "sample": 1, "solve": len(self.groups), "carry": len(self.blocks)}
        if self.params.orthogonalize:
            phases["orthogonalize"] = len(self.blocks)
        if self.params.check:
            phases["check"] = len(self.groups)
        sample_bytes = m * self.dim * 4
        if self.params.sample == "fps":
            sample_bytes *= FPS_POOL
        block_rows = max(self.images_per_block[m.name] * m.n_tokens for m in self.axes.models)
        streaming = block_rows * (self.dim * 16 + c * 16) + 2 * m * self.dim * 4
        solver = estimate_solver_memory(m, self.dim, n_eig=c, device=self.device)
        base = PROCESS_BYTES + 2 * sample_bytes
        on_gpu = free_memory(self.device)
        fits = self.base is not None or solver.half <= (memory_limit(self.options) - base if on_gpu is None else on_gpu)
        solving = solver.half if fits else solver.matrix_free
        if self.base is not None:
            solving = 0
        if on_gpu is not None and solving > on_gpu:
            raise OutOfResources(
                f"the eigenproblem on {m:,} nodes needs {solving / 1e9:.1f} GB on the GPU",
                why=f"{on_gpu / 1e9:.1f} GB are free.",
                do="Sample fewer nodes with --n-sample, or use --device cpu.",
            )
        if on_gpu is not None:
            solving = 0
        total = sum(sizes)
        return Plan(
            phases=phases,
            memory=base + max(solving, streaming),
            disk=total * c * 4 * (2 if self.params.orthogonalize else 1)
            + len(self.groups) * m * (self.dim * 4 + c * 4 + 16),
            notes={
                "nodes": total,
                "groups": len(self.groups),
                "sampled": m,
                "search": "none, every node is sampled"
                if all(map(self._exact, range(len(self.groups))))
                else self.method,
                "affinity": "upper half held" if fits else "matrix-free (does not fit in memory)",
            },
        )

    # phases

    @cached_property
    def writer(self) -> Writer:
        """Return the store under construction."""
        return Writer(self.work.staging)

    def _create(self) -> None:
        root = create_group(self.work.staging)
        g, m, c = len(self.groups), self.n_sample, self.params.n_eig
        for name in ("eigenvalues", "residual"):
            create_array(root, name, shape=(g, c), dtype="float64", dims=["group", "eig"], chunks=(1, c))
        create_array(root, "sample/node", shape=(g, m), dtype="int64", dims=["group", "sample"], chunks=(1, m))
        create_array(root, "sample/degree", shape=(g, m), dtype="float64", dims=["group", "sample"], chunks=(1, m))
        create_array(
            root,
            "sample/features",
            shape=(g, m, self.dim),
            dtype="float32",
            dims=["group", "sample", "channel"],
            chunks=(1, min(m, 4096), self.dim),
        )
        create_array(
            root,
            "sample/eigvecs",
            shape=(g, m, c),
            dtype="float32",
            dims=["group", "sample", "eig"],
            chunks=(1, m, c),
        )
        if self.params.orthogonalize:
            dims = ["group", "eig", "orthogonal"]
            create_array(root, "sample/orthogonalizer", shape=(g, c, c), dtype="float64", dims=dims, chunks=(1, c, c))
        images = self.source.images()
        put_images(root, images, {})
        create_node_arrays(
            root, self.axes, "eigvecs", dtype="float32", last=("eig", c), images_per_block=self.images_per_block
        )
        if self.params.orthogonalize:
            scratch = create_group(self.work.scratch)
            create_node_arrays(
                scratch, self.axes, "carried", dtype="float32", last=("eig", c), images_per_block=self.images_per_block
            )
            create_array(
                scratch,
                "gram",
                shape=(len(self.blocks), c, c),
                dtype="float64",
                dims=["block", "eig", "eig2"],
                chunks=(1, c, c),
            )
        self.work.mark("create")

    def _sample(self) -> None:
        """Choose the sampled nodes of every group and keep their unit features, so that the store stands alone."""
        if self.base is not None:
            self._take_over(self.base)
        else:
            for group, (_, slots) in enumerate(self.groups):
                if self.params.sample == "fps":
                    nodes, rows = self._farthest_sample(slots)
                else:
                    nodes = self._draw(slots, self.n_sample, "sample")
                    rows = self._gather(slots, nodes, "sample")
                self.writer.write("sample/node", group, nodes)
                self.writer.write("sample/features", group, rows)
        self.work.mark("sample")

    def _take_over(self, base: Store) -> None:
        """Copy the sample and the solution of a basis; groups are matched by name."""
        known: list[str] = base.record["groups"]
        names = ["eigenvalues", "residual", "sample/node", "sample/degree", "sample/features", "sample/eigvecs"]
        if self.params.orthogonalize:
            names.append("sample/orthogonalizer")
        for group, (title, _) in enumerate(self.groups):
            if title not in known:
                raise BadInput(f"{base.path} has no group {title!r} to extend", do=f"It has: {', '.join(known)}.")
            for name in names:
                self.writer.write(name, group, base.read(name, known.index(title)))

    def _draw(self, slots: list[Slot], count: int, purpose: str) -> NDArray[np.int64]:
        ids = [str(name) for name in self.source.read("images/id")]
        return choose_nodes(self.axes, slots, ids, count, seed=self.params.seed, purpose=purpose)

    def _gather(self, slots: list[Slot], nodes: NDArray[np.int64], label: str) -> NDArray[np.float32]:
        """Return unit rows of some nodes, (n, D)."""
        out = np.empty((len(nodes), self.dim), dtype=np.float32)
        for slot, where, rows in gather_rows(
            self.source,
            "tokens",
            slots,
            nodes,
            images_per_read=self.space.images_per_read(),
            console=self.console,
            label=label,
        ):
            if not np.isfinite(rows).all():
                raise BadInput(f"{self.source.path}: features of {slot} are not finite", do="Extract again.")
            out[where] = self.space.unit_rows(rows, slot).cpu().numpy()
        return out

    def _farthest_sample(self, slots: list[Slot]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Choose nodes by farthest points in a random projection of a larger uniform sample."""
        size = min(FPS_POOL * self.n_sample, self.axes.n_group_nodes(slots))
        pool = self._draw(slots, size, "sample")
        rows = self._gather(slots, pool, "sample")
        points = rows
        if self.dim > FPS_DIMS:
            projection = np.random.default_rng(self.params.seed).standard_normal((self.dim, FPS_DIMS))
            points = rows @ (projection / np.sqrt(FPS_DIMS)).astype(np.float32)
        chosen = np.sort(farthest_point_sample(torch.from_numpy(points), self.n_sample, start=0).numpy())
        return pool[chosen], rows[chosen]

    def _solve(self) -> None:
        """Solve Eq. 3 on the sampled nodes of each group."""
        for group in self.work.pending("solve"):
            if self.base is not None:
                self.work.mark("solve", group)
                continue
            rows = self.writer.read("sample/features", group)
            limit = memory_limit(self.options) - PROCESS_BYTES - rows.nbytes
            on_gpu = free_memory(self.device)
            with self.console.progress(f"solve {self.groups[group][0]}", 1, unit="steps") as progress:
                solution = solve_normalized_cut(
                    torch.from_numpy(rows),
                    n_eig=self.params.n_eig,
                    device=self.device,
                    memory_limit=limit if on_gpu is None else on_gpu,
                    seed=self.params.seed,
                    progress=progress.reach,
                )
            self.console.detail(
                f"{self.groups[group][0]}: {solution.iterations} products, {solution.storage}, "
                f"largest residual {solution.residuals.max():.1e}"
            )
            self.writer.write("sample/eigvecs", group, solution.eigenvectors)
            self.writer.write("sample/degree", group, solution.degrees)
            self.writer.write("eigenvalues", group, solution.eigenvalues)
            self.writer.write("residual", group, solution.residuals)
            self.work.mark("solve", group)

    def _carry(self) -> None:
        """Carry the sampled eigenvectors to every node of every block (Eq. 4, or the Nystrom extension)."""
        scratch = Writer(self.work.scratch)
        carrier: tuple[int, _Carrier] | None = None

        def compute(index: int, block: Block, rows: NDArray[Any]) -> None:
            nonlocal carrier
            group = self.group_of[index]
            if carrier is None or carrier[0] != group:
                carrier = (group, self._carrier(group))
            carried = carrier[1].carry(block, rows)
            axes = self.axes[block.slot.model]
            values = carried.cpu().numpy().reshape(-1, axes.n_tokens, self.params.n_eig)
            if self.params.orthogonalize:
                scratch.write(f"{block.slot.model}/carried", block.select(), values)
                scratch.write("gram", index, gram(carried))
            else:
                self.writer.write(f"{block.slot.model}/eigvecs", block.select(), values)

        stream_blocks(
            self.work,
            "carry",
            self.blocks,
            load=self.space.load,
            compute=compute,
            axes=self.axes,
            console=self.console,
        )

    def _carrier(self, group: int) -> _Carrier:
        eigvecs = torch.from_numpy(self.writer.read("sample/eigvecs", group)).to(self.device)
        nodes = self.writer.read("sample/node", group)
        if self._exact(group):
            return _Carrier(self.space, self.axes, eigvecs, nodes=nodes)
        features = torch.from_numpy(self.writer.read("sample/features", group)).to(self.device)
        if self.params.extend == "nystrom":
            extension = NystromExtension(
                features,
                eigenvectors=eigvecs,
                eigenvalues=self.writer.read("eigenvalues")[group],
                degrees=self.writer.read("sample/degree", group),
                tolerance=NYSTROM_TOLERANCE,
            )
            self.console.detail(f"Nystrom extension in {extension.rank} of {self.dim} directions")
            return _Carrier(self.space, self.axes, eigvecs, extension=extension)
        search = build_search(features, method=self.method, metric="cosine", seed=self.params.seed, device=self.device)
        write_json(self._search_file, search.record)
        return _Carrier(self.space, self.axes, eigvecs, search=search, neighbors=min(self.params.neighbors, len(nodes)))

    def _orthogonalize(self) -> None:
        """Make each group's carried eigenvectors orthonormal over all its nodes, in a second pass.

        They are scaled so that a column's mean square is that of the sampled problem, 1 / m.
        """
        scratch = Writer(self.work.scratch)
        if self.base is None:
            grams = scratch.read("gram")
            groups = np.array(self.group_of)
            for group, (_, slots) in enumerate(self.groups):
                size = self.axes.n_group_nodes(slots)
                transform = orthogonalizer(grams[groups == group].sum(axis=0)) * np.sqrt(size / self.n_sample)
                self.writer.write("sample/orthogonalizer", group, transform)
        transforms = self.writer.read("sample/orthogonalizer")

        def compute(index: int, block: Block, values: NDArray[np.float32]) -> None:
            rotated = (values.astype(np.float64) @ transforms[self.group_of[index]]).astype(np.float32)
            self.writer.write(f"{block.slot.model}/eigvecs", block.select(), rotated)

        stream_blocks(
            self.work,
            "orthogonalize",
            self.blocks,
            load=lambda block: scratch.read(f"{block.slot.model}/carried", block.select()),
            compute=compute,
            axes=self.axes,
            console=self.console,
        )

    def _check(self) -> None:
        """Measure the residual of random rows of the full graph, against all its nodes."""
        for group in self.work.pending("check"):
            name, slots = self.groups[group]
            n_nodes = self.axes.n_group_nodes(slots)
            nodes = self._draw(slots, min(self.params.check, n_nodes), "check")
            rows = torch.from_numpy(self._gather(slots, nodes, f"check {name}")).to(self.device)
            carried = torch.from_numpy(self._carried_rows(slots, nodes)).to(self.device)
            check = ResidualCheck(rows, carried, eigenvalues=self.writer.read("eigenvalues")[group], n_nodes=n_nodes)
            blocks = [block for block, at in zip(self.blocks, self.group_of, strict=True) if at == group]
            with self.console.progress(f"check {name}", n_nodes, unit="nodes") as progress:
                for block, values in zip(
                    blocks, read_ahead(lambda b=b: self.space.load(b) for b in blocks), strict=True
                ):
                    eigvecs = self.writer.read(f"{block.slot.model}/eigvecs", block.select())
                    flat = torch.from_numpy(eigvecs.reshape(-1, self.params.n_eig)).to(self.device)
                    check.add(self.space.unit_rows(values, block.slot), flat)
                    progress.advance(len(flat))
            report = check.result()
            result = {
                "rows": report.n_rows,
                "residual": report.residuals.tolist(),
                "rayleigh": report.eigenvalues.tolist(),
            }
            write_json(self.work.wip / f"check-{group}.json", result)
            self.work.mark("check", group)

    def _carried_rows(self, slots: list[Slot], nodes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the written eigenvectors of some nodes."""
        parts = []
        for slot in slots:
            places = self.axes.locate(nodes, slot)
            if len(places):
                values = self.writer.read(f"{slot.model}/eigvecs", (slot.position,))
                parts.append(values[places[:, 0], places[:, 1]])
        return np.concatenate(parts)

    def _finish(self) -> Outcome:
        residual, values = self.writer.read("residual"), self.writer.read("eigenvalues")
        checks = {
            self.groups[group][0]: json.loads((self.work.wip / f"check-{group}.json").read_text())
            for group in range(len(self.groups) if self.params.check else 0)
        }
        exact = all(map(self._exact, range(len(self.groups))))
        summary: dict[str, Any] = {
            "nodes": self.axes.n_nodes,
            "groups": len(self.groups),
            "sampled": self.n_sample,
            "exact": exact,
            "extend": "none" if exact else self.params.extend,
            "largest_residual": float(residual.max()),
            "eigenvalues": values[0].tolist() if len(values) == 1 else None,
        }
        if not exact and self.params.extend == "knn":
            summary["search"] = json.loads(self._search_file.read_text())
        if checks:
            summary["check"] = checks
        outcome = self.work.finish(
            models=self.axes.names,
            summary=summary,
            groups=[name for name, _ in self.groups],
            controls=collect_controls(self.source, self.space.alignment, self.base),
        )
        self._say(summary)
        return outcome

    @property
    def _search_file(self) -> Path:
        return self.work.wip / "search.json"

    def _say(self, summary: Mapping[str, Any]) -> None:
        self.console.note(
            f"{summary['nodes']:,} nodes, {summary['sampled']:,} sampled"
            f"{' (exact)' if summary['exact'] else ''}, {self.params.n_eig} eigenvectors, "
            f"largest residual {summary['largest_residual']:.1e}"
        )
        for name, check in summary.get("check", {}).items():
            worst = ", ".join(f"{value:.3f}" for value in check["residual"])
            self.console.note(f"check {name}: relative residual of {check['rows']} full-graph rows: {worst}")


class _Carrier:
    """Carries one group's sampled eigenvectors to a block: by lookup, by neighbours or by the Nystrom extension."""

    def __init__(
        self,
        space: FeatureSpace,
        axes: NodeAxes,
        eigvecs: torch.Tensor,
        *,
        nodes: NDArray[np.int64] | None = None,
        extension: NystromExtension | None = None,
        search: NeighbourSearch | None = None,
        neighbors: int = 0,
    ) -> None:
        self.space, self.axes, self.eigvecs = space, axes, eigvecs
        self.nodes, self.extension, self.search, self.neighbors = nodes, extension, search, neighbors

    def carry(self, block: Block, rows: NDArray[Any]) -> torch.Tensor:
        """Return the eigenvectors of a block's nodes, (n, C)."""
        if self.nodes is not None:
            first = self.axes.first_node(block.slot) + block.images.start * self.axes[block.slot.model].n_tokens
            at = int(np.searchsorted(self.nodes, first))
            return self.eigvecs[at : at + len(rows)]
        unit = self.space.unit_rows(rows, block.slot)
        if self.extension is not None:
            return self.extension.extend(unit)
        if self.search is None:
            raise RuntimeError("a carrier has neither a search nor an extension")
        cosine, neighbours = self.search.search(unit, self.neighbors)
        return propagate_eigenvectors(affinity_from_cosine_(cosine), neighbours, self.eigvecs)
