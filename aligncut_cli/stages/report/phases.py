"""The computation of `report`: photos, pieces of data by model and block of images, then the page that loads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aligncut_cli.console import Console, readable_bytes
from aligncut_cli.params import ReportParams
from aligncut_cli.stages.report.files import PageFolder
from aligncut_cli.stages.report.layout import Layout, Piece
from aligncut_cli.stages.report.page import write_page
from aligncut_cli.stages.report.photos import write_sheet
from aligncut_cli.stages.report.pieces import write_piece
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work

PROCESS_BYTES = 300_000_000


class ReportStage:
    """One run of the stage."""

    def __init__(self, work: Work, stores: Sequence[Store], params: ReportParams, console: Console) -> None:
        self.work, self.stores, self.params, self.console = work, stores, params, console
        self.layout = Layout(stores, params)
        self.folder = PageFolder(work.staging)

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        return [
            Phase(
                "photos",
                self.layout.sheets,
                self._write_photos,
                unit="images",
                size=lambda images: images.stop - images.start,
                parallel=True,
            ),
            Phase("pieces", self.layout.pieces, self._write_piece, unit="pieces", parallel=True),
            single_step("page", self._write_page),
        ]

    def plan(self) -> Plan:
        """Return what the largest piece needs in memory, and all of them on the disk."""
        layout = self.layout
        sizes = [layout.piece_bytes(piece) for piece in layout.pieces]
        return Plan(
            memory=PROCESS_BYTES + 6 * max(sizes, default=0),
            disk=sum(sizes) + len(layout.photos) * (self.params.photo_size**2 // 4),
            notes={"photos": len(layout.photos), "spaces": len(layout.views), "stores": len(self.stores)},
        )

    def _write_photos(self, sheet: int, images: slice, data: None) -> None:
        write_sheet(self.folder, self.layout.photos, images, sheet, self.params)

    def _write_piece(self, index: int, piece: Piece, data: None) -> None:
        write_piece(self.folder, self.layout.views[piece.view], piece)

    def _write_page(self) -> None:
        write_page(self.folder, self.layout, self.stores, self.params)

    def finish(self) -> Outcome:
        """Say where to look, and give the folder its name."""
        photos, staging = self.layout.photos, self.work.staging
        photos.look_for(range(len(photos)))
        photos.say_missing(self.console)
        size = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
        return self.work.finish(
            said=[f"open its index.html in a browser ({readable_bytes(size)})"],
            summary={"photos": len(photos), "missing_photos": len(photos.missing), "bytes": size},
            controls=collect_controls(*self.stores),
        )
