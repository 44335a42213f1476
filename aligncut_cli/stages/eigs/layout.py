"""What `eigs` cuts into what: graphs, the size of their samples, and blocks of nodes."""

from __future__ import annotations

from aligncut_cli.errors import BadInput
from aligncut_cli.params import EigsParams
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.kinds.eigs import Eigs
from aligncut_cli.store.nodes import Block, Slot, images_per_chunk

BLOCK_BYTES = 1_000_000


class Layout:
    """The graphs of one run.

    groups   : (name, slots) of each graph
    sizes    : nodes of each graph
    n_sample : m, the same for every graph, so that the sample is one array
    dim      : channels of the rows, D
    blocks   : each one chunk of the output and whole chunks of the input; `group_of` says whose each is
    """

    def __init__(self, space: FeatureSpace, base: Eigs | None, params: EigsParams) -> None:
        self.axes = space.axes
        self.groups: list[tuple[str, list[Slot]]] = self.axes.groups(params.group)
        self.sizes = [self.axes.n_group_nodes(slots) for _, slots in self.groups]
        self.dim = space.width(comparable=params.group == "all")
        self.n_eig = params.n_eig
        self.n_sample = min(params.n_sample, *self.sizes) if base is None else base.n_sample
        if base is None and self.n_sample < params.n_eig:
            raise BadInput(
                f"a graph of {self.n_sample} sampled nodes has no {params.n_eig} eigenvectors",
                do="Ask for fewer with --n-eig, or sample more with --n-sample.",
            )
        self.exact = [base is None and size == self.n_sample for size in self.sizes]
        self.images_per_block = {
            name: max(read, self._images_per_chunk(name)) for name, read in space.images_per_read().items()
        }
        self.blocks, self.group_of = self.axes.group_blocks(self.groups, self.images_per_block)

    def _images_per_chunk(self, model: str) -> int:
        axes = self.axes[model]
        return images_per_chunk(axes.n_tokens * self.n_eig * 4, axes.n_images, target=BLOCK_BYTES)

    @property
    def names(self) -> list[str]:
        """Return the names of the graphs."""
        return [name for name, _ in self.groups]

    def blocks_of(self, group: int) -> list[Block]:
        """Return the blocks of one graph."""
        return [block for block, at in zip(self.blocks, self.group_of, strict=True) if at == group]
