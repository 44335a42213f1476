"""What a report is made of: views, the photos they share, and pieces that the page loads when they are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aligncut_cli.params import ReportParams
from aligncut_cli.stages.photos import Photos, list_once
from aligncut_cli.stages.report.views import choose_views
from aligncut_cli.store.nodes import image_slices
from aligncut_cli.store.read import Store

THUMBS_PER_SHEET = 100


@dataclass(frozen=True)
class Piece:
    """Some images of one model of one view; all but the images are positions.

    block  : which of the view's blocks of images it is
    images : which of the view's images
    """

    view: int
    model: int
    block: int
    images: slice


class Layout:
    """Everything the page is made of, by position; files are named by these, never by what an image or store is called.

    views     : spaces of eigenvectors
    notes     : why stores were left out of them
    photos    : each photo once, though several views may show it
    photos_of : for each view the positions of its photos
    pieces    : of all views
    sheets    : which photos have their thumbnails on one picture
    """

    def __init__(self, stores: Sequence[Store], params: ReportParams) -> None:
        self.views, self.notes = choose_views(stores)
        shown = [
            {name: values[: params.images] for name, values in view.source.images().items()} for view in self.views
        ]
        photos, self.photos_of = list_once(shown)
        self.photos = Photos(photos, params.photos)
        self.pieces = [
            Piece(v, m, b, images)
            for v, view in enumerate(self.views)
            for m in range(len(view.axes.models))
            for b, images in enumerate(image_slices(len(self.photos_of[v]), view.images_per_block))
        ]
        self.sheets = list(image_slices(len(self.photos), THUMBS_PER_SHEET))

    def piece_bytes(self, piece: Piece) -> int:
        """Return about how many bytes the files of a piece have."""
        view = self.views[piece.view]
        model = view.axes.models[piece.model]
        per_node = view.n_eig * 4 // 3 + 3 + 6 + 2 * len(view.labellings)
        count: int = piece.images.stop - piece.images.start
        return len(model.layers) * model.n_tokens * count * per_node
