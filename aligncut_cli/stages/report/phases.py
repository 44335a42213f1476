"""The computation of `report`: photos, pieces of data by model and block of images, then the page that loads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import aligncut_cli
from aligncut_cli.console import Console, readable_bytes
from aligncut_cli.images.decode import decode_image, image_exists
from aligncut_cli.params import ReportParams
from aligncut_cli.stages.align.section import is_synthetic
from aligncut_cli.stages.blocks import name_of
from aligncut_cli.stages.report.sections import describe_stores, make_sections
from aligncut_cli.stages.report.views import View, choose_views
from aligncut_cli.store.nodes import ModelAxes, image_slices
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz import page
from aligncut_cli.viz.montage import missing_photo

PROCESS_BYTES = 300_000_000
THUMBS_PER_SHEET = 100
PHOTO_QUALITY, THUMB_QUALITY = 82, 78


@dataclass(frozen=True)
class Piece:
    """Some images of one model of one view."""

    view: int
    model: int
    block: int
    images: slice


@dataclass(frozen=True)
class Photo:
    """One photo of the report; several views may show it."""

    id: str
    path: str
    height: int
    width: int

    def size(self, longer: int) -> tuple[int, int]:
        """Return (height, width) in the photo's proportions."""
        scale = longer / max(self.height, self.width)
        return max(1, round(self.height * scale)), max(1, round(self.width * scale))


class ReportPhases:
    """One run of the stage; files are named by positions, never by what an image or a store is called."""

    def __init__(self, work: Work, stores: Sequence[Store], params: ReportParams, console: Console) -> None:
        self.work, self.stores, self.params, self.console = work, stores, params, console
        self.views, self.notes = choose_views(stores)
        self.photos: list[Photo] = []
        self.photos_of: list[list[int]] = []
        self._list_photos()
        self.per_block = [max(map(view.chunk_images, view.axes.models)) for view in self.views]
        self.pieces = [
            Piece(v, m, b, images)
            for v, view in enumerate(self.views)
            for m in range(len(view.axes.models))
            for b, images in enumerate(image_slices(len(self.photos_of[v]), self.per_block[v]))
        ]
        self.sheets = list(image_slices(len(self.photos), THUMBS_PER_SHEET))

    def _list_photos(self) -> None:
        """List every photo once, and for each view the positions of its own."""
        known: dict[tuple[str, str], int] = {}
        for view in self.views:
            images = view.source.images()
            count = min(self.params.images or len(images["id"]), len(images["id"]))
            of_view = []
            for i in range(count):
                key = str(images["id"][i]), str(images["path"][i])
                if key not in known:
                    known[key] = len(self.photos)
                    self.photos.append(Photo(*key, int(images["height"][i]), int(images["width"][i])))
                of_view.append(known[key])
            self.photos_of.append(of_view)

    def run(self) -> Outcome:
        """Plan, write what is not there yet, and finish."""
        plan = Plan(
            phases={"photos": len(self.sheets), "pieces": len(self.pieces), "page": 1},
            memory=PROCESS_BYTES + 6 * max(map(self._piece_bytes, self.pieces), default=0),
            disk=sum(map(self._piece_bytes, self.pieces)) + len(self.photos) * (self.params.photo_size**2 // 4),
            notes={"photos": len(self.photos), "spaces": len(self.views), "stores": len(self.stores)},
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        for name in ("photos", "thumbs", "data", "tables", "figures"):
            (self.work.staging / name).mkdir(parents=True, exist_ok=True)
        with self.console.progress("photos", len(self.photos), unit="images") as progress:
            for index, images in enumerate(self.sheets):
                if not self.work.done("photos", index):
                    self._write_photos(index, images)
                    self.work.mark("photos", index)
                progress.advance(images.stop - images.start)
        with self.console.progress("pieces", len(self.pieces), unit="pieces") as progress:
            for index, piece in enumerate(self.pieces):
                if not self.work.done("pieces", index):
                    self._write_piece(piece)
                    self.work.mark("pieces", index)
                progress.advance()
        self._write_page()
        self.work.mark("page")
        missing = sum(self._find(photo) is None for photo in self.photos)
        if missing:
            self.console.warn(f"{missing} photos were not found where they were; --photos DIR says where they are")
        size = sum(file.stat().st_size for file in self.work.staging.rglob("*") if file.is_file())
        self.console.note(f"open {self.work.output / 'index.html'} in a browser ({readable_bytes(size)})")
        return self.work.finish(
            summary={"photos": len(self.photos), "missing_photos": missing, "bytes": size},
            controls=collect_controls(*self.stores),
        )

    def _piece_bytes(self, piece: Piece) -> int:
        """Return about how many bytes the files of a piece have."""
        view = self.views[piece.view]
        model = view.axes.models[piece.model]
        n_eig = int(view.eigs.array("eigenvalues").shape[1]) if view.eigs is not None else 0
        per_node = n_eig * 4 // 3 + 3 + 6 + 2 * len(view.label_arrays())
        count: int = piece.images.stop - piece.images.start
        return len(model.layers) * model.n_tokens * count * per_node

    # photos

    def _find(self, photo: Photo) -> Path | None:
        """Return where a photo is: in --photos, or where it was."""
        path = Path(photo.path)
        places = [path]
        if self.params.photos is not None:
            folder = Path(self.params.photos)
            named = [] if ".." in Path(photo.id).parts else [folder / f"{photo.id}{path.suffix}"]
            places = [*named, folder / path.name, path]
        return next((place for place in places if image_exists(place)), None)

    def _write_photos(self, sheet: int, images: slice) -> None:
        """Write some photos, and one sheet with their thumbnails, each squeezed to a square."""
        side = self.params.thumb_size
        thumbs = []
        for index in range(images.start, images.stop):
            photo = self.photos[index]
            path, size = self._find(photo), photo.size(self.params.photo_size)
            large, small = (
                [missing_photo(size), missing_photo((side, side))]
                if path is None
                else decode_image(path, [size, (side, side)])
            )
            self._write(f"photos/{index}.jpg", page.jpeg_bytes(Image.fromarray(large), quality=PHOTO_QUALITY))
            thumbs.append(small)
        picture = page.make_sheet(np.stack(thumbs), page.sheet_columns(THUMBS_PER_SHEET))
        self._write(f"thumbs/{sheet}.jpg", page.jpeg_bytes(picture, quality=THUMB_QUALITY))

    # pieces

    def _write_piece(self, piece: Piece) -> None:
        """Write eigenvectors and colours per layer, and places on the map for all layers together."""
        view = self.views[piece.view]
        model = view.axes.models[piece.model]
        if view.eigs is not None:
            rows = page.quantize_rows(self._patches(view.eigs, model, "eigvecs", piece.images))
            for layer, values in enumerate(rows):
                self._write_script(f"e-{piece.view}-{piece.model}-{layer}-{piece.block}", page.pack(values))
        if view.colours is not None:
            self._write_sheets("c", piece, model, self._patches(view.colours, model, "rgb", piece.images))
        for index, (store, name) in enumerate(view.label_arrays()):
            labels = self._patches(store, model, name, piece.images)
            self._write_sheets(f"s{index}", piece, model, page.paint_labels(labels))
        if view.plane is not None:
            coords = self._patches(view.plane, model, "coords", piece.images)[..., :2]
            places = page.quantize_places(coords, *_corners(view.plane))
            self._write_script(f"m-{piece.view}-{piece.model}-{piece.block}", page.pack(places))

    def _patches(self, store: Store, model: ModelAxes, name: str, images: slice) -> NDArray[Any]:
        """Read (layer, image, patch, ...) of some images, without the class token."""
        return store.read(f"{model.name}/{name}", (slice(None), images))[:, :, int(model.class_token) :]

    def _write_sheets(self, kind: str, piece: Piece, model: ModelAxes, colours: NDArray[np.uint8]) -> None:
        """Write per layer one sheet whose pixels are patches; colours are (layer, image, patch, rgb)."""
        for layer, rgb in enumerate(colours):
            sheet = page.make_sheet(
                rgb.reshape(len(rgb), *model.grid, 3), page.sheet_columns(self.per_block[piece.view])
            )
            name = f"data/{kind}-{piece.view}-{piece.model}-{layer}-{piece.block}.png"
            self._write(name, page.png_bytes(sheet))

    # the page

    def _write_page(self) -> None:
        for name, content in page.page_files():
            self._write(name, content)
        for index, view in enumerate(self.views):
            if view.plane is not None:
                self._write_script(f"points-{index}", self._map_points(index, view))
        sections = make_sections(self.stores, self.work.staging)
        main = {
            "title": self.params.title,
            "version": aligncut_cli.__version__,
            "photoSize": self.params.photo_size,
            "sheet": {
                "tile": self.params.thumb_size,
                "columns": page.sheet_columns(THUMBS_PER_SHEET),
                "per": THUMBS_PER_SHEET,
            },
            "photos": [[photo.id, photo.height, photo.width, self._find(photo) is not None] for photo in self.photos],
            "views": [self._describe_view(index) for index in range(len(self.views))],
            "sections": sections,
            "stores": describe_stores(self.stores),
            "notes": self.notes
            + [
                f"The brain responses of {name_of(s)} are synthetic, not measured."
                for s in self.stores
                if is_synthetic(s)
            ],
            "labelColours": list(page.LABEL_COLOURS),
        }
        self._write_script("main", main)

    def _describe_view(self, index: int) -> dict[str, Any]:
        view = self.views[index]
        return {
            "name": view.name,
            "group": view.group,
            "controls": view.controls,
            "images": self.photos_of[index],
            "perBlock": self.per_block[index],
            "columns": page.sheet_columns(self.per_block[index]),
            "models": [
                {"name": model.name, "layers": list(model.layers), "grid": list(model.grid)}
                for model in view.axes.models
            ],
            "nEig": 0 if view.eigs is None else int(view.eigs.array("eigenvalues").shape[1]),
            "colours": view.colours is not None,
            "plane": None if view.plane is None else int(view.plane.record["params"]["dims"]),
            "labels": [
                {"name": f"{store.path.name.removesuffix('.zarr')} {name}".removesuffix(" labels"), "classes": classes}
                for store, name in view.label_arrays()
                for classes in [_classes(store)]
            ],
        }

    def _map_points(self, index: int, view: View) -> dict[str, str]:
        """Draw nodes at random, the same share of every slot: place, colour, and which patch each is."""
        rng = np.random.default_rng(self.params.seed)
        n_images = len(self.photos_of[index])
        slots = [(m, at) for m, model in enumerate(view.axes.models) for at in range(len(model.layers))]
        columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("place", "colour", "slot", "image", "patch")}
        plane, low_high = view.plane, _corners(view.plane)
        if plane is None:
            return {}
        for position, (m, at) in enumerate(slots):
            model = view.axes.models[m]
            n_patches = model.grid[0] * model.grid[1]
            share = self.params.map_points * (position + 1) // len(slots)
            share -= self.params.map_points * position // len(slots)
            chosen = np.sort(rng.choice(n_images * n_patches, min(share, n_images * n_patches), replace=False))
            image, patch = np.divmod(chosen, n_patches)
            coords, colour = np.empty((len(chosen), 2), np.float32), np.zeros((len(chosen), 3), np.uint8)
            for images in image_slices(n_images, self.per_block[index]):
                here = (image >= images.start) & (image < images.stop)
                token = patch[here] + int(model.class_token)
                block = plane.read(f"{model.name}/coords", (at, images))
                coords[here] = block[image[here] - images.start, token, :2]
                if view.colours is not None:
                    rgb = view.colours.read(f"{model.name}/rgb", (at, images))
                    colour[here] = rgb[image[here] - images.start, token]
            columns["place"].append(page.quantize_places(coords, *low_high))
            columns["colour"].append(colour)
            columns["slot"].append(np.full(len(chosen), position, np.uint16))
            columns["image"].append(image.astype(np.uint32))
            columns["patch"].append(patch.astype(np.uint16))
        return {name: page.pack(np.concatenate(parts)) for name, parts in columns.items()}

    def _write(self, name: str, content: bytes) -> None:
        (self.work.staging / name).write_bytes(content)

    def _write_script(self, name: str, value: Any) -> None:
        self._write(f"data/{name}.js", page.script(name, value).encode("ascii"))


def _corners(plane: Store | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the lowest and highest place of the map; every node stands where a sampled one does."""
    if plane is None:
        return np.zeros(2), np.ones(2)
    coords = plane.read("sample/coords")[..., :2].reshape(-1, 2)
    centre, half = (coords.max(0) + coords.min(0)) / 2, float((coords.max(0) - coords.min(0)).max()) / 2
    return centre - half, centre + half


def _classes(store: Store) -> list[str]:
    """Return the class names that labels stand for, none where labels are clusters."""
    return [] if store.record["params"].get("clusters") else [str(name) for name in store.record.get("classes", [])]
