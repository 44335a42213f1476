"""The images that are decoded: those of all sources that have a response."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.brain.join import join_images
from aligncut_cli.brain.responses import load_responses
from aligncut_cli.errors import BadInput
from aligncut_cli.images.workers import check_images
from aligncut_cli.params import DecodeParams
from aligncut_cli.stages.decode.repeats import Repeats
from aligncut_cli.stages.decode.sources import Source
from aligncut_cli.stages.response_paths import ResponsePaths
from aligncut_cli.store.kinds.base import read_images
from aligncut_cli.store.run import Work

HELD_BYTES = 1 << 28

Table = dict[str, NDArray[Any]]


class DecodedImages:
    """Responses, and the images that they belong to; all sources have the same images in the same order.

    table     : `images/` of those that take part: id, path, height and width
    responses : of all images, repeats averaged
    joined    : where each image lies in the sources and in the responses
    repeats   : halves of the repeats of each image; None where no image has any
    """

    def __init__(self, sources: Sequence[Source], paths: ResponsePaths, params: DecodeParams, work: Work) -> None:
        subject = paths.only("decode")
        self.responses = load_responses(
            subject.responses,
            image_ids=subject.image_ids,
            drop_nan_voxels=params.drop_nan_voxels,
            drop_nan_images=params.drop_nan_images,
            average_repeats=True,
        )
        tables = work.settle("images", lambda: [_list_images(source) for source in sources])
        whole = tables[0]
        ids = [str(name) for name in whole["id"]]
        for source, table in zip(sources[1:], tables[1:], strict=True):
            if [str(name) for name in table["id"]] != ids:
                raise BadInput(
                    f"{source.path} has other images than {sources[0].path}",
                    why="Runs side by side hold out the same images, so that their scores compare.",
                    do="Extract the same photos, or decode the two one by one.",
                )
        self.joined = join_images(
            ids,
            self.responses.ids,
            n_responses=self.responses.shape[0],
            paths=[str(path) for path in whole["path"]],
            order=None if params.order == "auto" else params.order,
            usable=self.responses.usable,
        )
        rows = self.joined.feature_rows
        self.table: Table = {name: values[rows] for name, values in whole.items()}
        self.ids = [ids[row] for row in rows]
        self.repeats = Repeats.find(self.responses, self.joined.response_rows)

    def hold(self, path: Path) -> None:
        """Write the responses of all images, repeats averaged, (images, neurons) float32, for reading in any order.

        What lies on disk is read in order once for every HELD_BYTES of the result.
        """
        path.parent.mkdir(exist_ok=True)
        shape = (self.n_images, self.n_neurons)
        held = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        step = max(1, HELD_BYTES // (4 * self.n_neurons))
        for start in range(0, self.n_images, step):
            held[start : start + step] = self.responses.read(self.joined.response_rows[start : start + step])
        held.flush()

    @property
    def n_images(self) -> int:
        """Return how many images take part."""
        return len(self.ids)

    @property
    def n_neurons(self) -> int:
        """Return how many neurons or voxels respond."""
        return self.responses.shape[1]


def _list_images(source: Source) -> Table:
    """Return `images/` of a source."""
    if source.store is not None:
        return read_images(source.store)
    good, sizes, _ = check_images(source.files, workers=0, skip_bad=False)
    heights, widths = zip(*sizes, strict=True)
    return {
        "id": np.array([file.id for file in good], dtype=object),
        "path": np.array([str(file.path.resolve()) for file in good], dtype=object),
        "height": np.array(heights, dtype=np.int32),
        "width": np.array(widths, dtype=np.int32),
    }
