"""The computation of `tsne`: fit on sampled nodes, place every node by its nearest sampled one, colour it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.tsne import fit_tsne
from aligncut_cli.params import TsneParams
from aligncut_cli.stages.comparability import share_a_space
from aligncut_cli.stages.device import settle_device
from aligncut_cli.stages.sample import choose_nodes, gather_rows
from aligncut_cli.stages.tsne.basis import copy_fit, require_same_space
from aligncut_cli.stages.tsne.place import NearestPlaces
from aligncut_cli.store.kinds.base import create_node_arrays, put_images
from aligncut_cli.store.kinds.eigs import Eigs
from aligncut_cli.store.kinds.tsne import COORDS, RGB, SAMPLE, SAMPLE_COORDS, SAMPLE_EIGVECS, SAMPLE_NODE, Tsne
from aligncut_cli.store.nodes import Block, images_per_chunk
from aligncut_cli.store.phases import Phase, node_phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work, write_json
from aligncut_cli.store.write import Writer, create_group
from aligncut_cli.viz.colours import colour_range, to_rgb

PROCESS_BYTES = 700_000_000
BLOCK_BYTES = 500_000
FEWEST_POINTS = 5
BYTES_PER_POINT = 3_000  # affinities to about 3 x perplexity neighbours, both ways, and the gradient's buffers


class Layout:
    """What is cut into what: maps, one per graph of the eigs store, and blocks of nodes.

    groups   : (name, slots) of each map
    sizes    : nodes of each map
    n_sample : m, the nodes each map is fitted on, so that the sample is one array
    blocks   : each one chunk of the output and whole chunks of the input; `group_of` says whose each is
    """

    def __init__(self, source: Eigs, base: Tsne | None, params: TsneParams) -> None:
        self.axes, self.groups = source.axes, source.groups
        self.sizes = [self.axes.n_group_nodes(slots) for _, slots in self.groups]
        self.n_sample = min(params.n_sample, *self.sizes) if base is None else base.n_sample
        if base is None and self.n_sample < FEWEST_POINTS:
            raise BadInput(
                f"t-SNE of {self.n_sample} nodes means nothing",
                do=f"Give it at least {FEWEST_POINTS}: more images, or a larger --n-sample.",
            )
        self.images_per_block = {
            model.name: max(
                source.images_per_chunk[model.name],
                images_per_chunk(model.n_tokens * params.dims * 4, model.n_images, target=BLOCK_BYTES),
            )
            for model in self.axes.models
        }
        self.blocks, self.group_of = self.axes.group_blocks(self.groups, self.images_per_block)

    @property
    def names(self) -> list[str]:
        """Return the names of the maps."""
        return [name for name, _ in self.groups]


class TsneStage:
    """One run of the stage: maps, their blocks, and the phases in order."""

    def __init__(
        self,
        work: Work,
        source: Store,
        base: Store | None,
        params: TsneParams,
    ) -> None:
        self.work, self.params, self.console = work, params, work.console
        self.controls = collect_controls(source, base)
        self.device = settle_device(work)
        self.source, self.base = Eigs(source), None if base is None else Tsne(base)
        self.axes = self.source.axes
        self.layout = Layout(self.source, self.base, params)
        if self.base is not None:
            require_same_space(source, self.base, self.layout.names)
        self.writer = Writer(work.staging)
        self._places: tuple[int, NearestPlaces] | None = None

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        return [
            single_step("create", self._create),
            single_step("sample", self._sample),
            Phase("fit", range(len(self.layout.groups)), self._fit, parallel=True),
            node_phase(
                "place",
                self.axes,
                self.layout.blocks,
                load=self.source.read_block,
                compute=self._place,
                write=self._write,
                part=self.layout.group_of.__getitem__,
            ),
        ]

    def plan(self) -> Plan:
        """Return what fitting needs in memory, and what is written."""
        total, m, c, d = sum(self.layout.sizes), self.layout.n_sample, self.source.n_eig, self.params.dims
        return Plan(
            memory=PROCESS_BYTES + m * (BYTES_PER_POINT + 8 * c),
            disk=total * d * (4 + (d == 3)) + m * (c * 4 + 24),
            notes={"nodes": total, "fitted on": m},
        )

    # phases

    def _create(self) -> None:
        root = create_group(self.work.staging)
        sizes = {
            "group": len(self.layout.groups),
            "sample": self.layout.n_sample,
            "eig": self.source.n_eig,
            "dim": self.params.dims,
            "rgb": 3,
        }
        for array in SAMPLE:
            array.create(root, sizes)
        put_images(root, self.source.images(), {})
        arrays = [COORDS, RGB] if self.params.dims == 3 else [COORDS]
        create_node_arrays(root, self.axes, arrays, sizes, images_per_block=self.layout.images_per_block)

    def _sample(self) -> None:
        """Choose the nodes to fit on and keep their eigenvectors, or take over those of a basis."""
        if self.base is not None:
            copy_fit(self.base, self.layout.names, self.writer)
            return
        for group, (_, slots) in enumerate(self.layout.groups):
            nodes = choose_nodes(self.source, slots, self.layout.n_sample, seed=self.params.seed, purpose="tsne")
            rows = gather_rows(self.source, slots, nodes, console=self.console, label="sample")
            self.writer.write(SAMPLE_NODE.at(), group, nodes)
            self.writer.write(SAMPLE_EIGVECS.at(), group, rows)

    def _fit(self, index: int, group: int, data: None) -> None:
        """Fit t-SNE to the sampled nodes of one map."""
        if self.base is not None:
            return
        points = self.writer.read(SAMPLE_EIGVECS.at(), group)
        with self.console.progress(f"fit {self.layout.names[group]}", 1, unit="steps") as progress:
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
        self.writer.write(SAMPLE_COORDS.at(), group, fit.coords)
        write_json(
            self.work.wip / f"fit-{group}.json",
            {
                "kl_divergence": fit.kl_divergence,
                "engine": fit.engine,
                "iterations": fit.iterations,
                "perplexity": fit.perplexity,
            },
        )

    def _place(self, index: int, block: Block, eigvecs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give every node of a block the place of its nearest sampled node in eigenvector space."""
        return self._places_of(self.layout.group_of[index]).place(eigvecs)

    def _write(self, index: int, block: Block, coords: NDArray[np.float32]) -> None:
        """Write the places, and the colours that follow from them."""
        self.writer.write(COORDS.at(block.slot.model), block.select(), coords)
        if self.params.dims == 3:
            self.writer.write(RGB.at(block.slot.model), block.select(), to_rgb(coords, *self._colour_range))

    def _places_of(self, group: int) -> NearestPlaces:
        """Return what places a map's nodes; the last one made is kept."""
        if self._places is not None and self._places[0] == group:
            return self._places[1]
        self._places = None  # free its memory before the next is made
        places = NearestPlaces(
            self.writer.read(SAMPLE_EIGVECS.at(), group),
            self.writer.read(SAMPLE_COORDS.at(), group),
            n_queries=self.layout.sizes[group],
            seed=self.params.seed,
            device=self.device,
        )
        self._places = (group, places)
        return places

    @cached_property
    def _colour_range(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the ends of the colour range per axis, one for all maps; a basis hands on its own."""
        if self.base is not None:
            low, high = self.base.colour_range
            return np.array(low), np.array(high)
        coords = self.writer.read(SAMPLE_COORDS.at())
        return colour_range(coords.reshape(-1, self.params.dims), clip=self.params.clip)

    # ending

    def finish(self) -> Outcome:
        """Give the store its name, with figures of the fits."""
        low, high = self._colour_range
        names, n_sample = self.layout.names, self.layout.n_sample
        fits: dict[str, Any] = {}
        if self.base is None:
            fits = {
                name: json.loads((self.work.wip / f"fit-{group}.json").read_text(encoding="utf-8"))
                for group, name in enumerate(names)
            }
        divergence = ", ".join(f"{fit['kl_divergence']:.3f}" for fit in fits.values())
        found = f", KL divergence {divergence}" if fits else ", as in the basis"
        return self.work.finish(
            models=self.axes.names,
            summary={"nodes": self.axes.n_nodes, "fitted_on": n_sample, "fit": fits},
            said=[f"{self.axes.n_nodes:,} nodes placed in {self.params.dims}-D, fitted on {n_sample:,}{found}"],
            groups=names,
            colour_range={"low": low.tolist(), "high": high.tolist()},
            controls=self.controls,
            comparable=share_a_space(self.source.store),
        )
