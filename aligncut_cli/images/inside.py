"""Photos inside one file, each with a path of its own: ImageNet-Segmentation's and Stringer's .mat, NSD's .hdf5."""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligncut_cli.errors import BadInput
from aligncut_cli.images.guard import reading, require_file, require_memory

DOWNLOAD = "Download it again: http://calvin-vision.net/bigstuff/proj-imagenet/data/gtsegs_ijcv.mat"
MATLAB, HDF5 = ".mat", (".hdf5", ".h5")
SUFFIXES = (MATLAB, *HDF5)


def is_inside(path: Path) -> bool:
    """Return whether a path is that of a photo in a file, not of a file."""
    return path.parent.suffix.lower() in SUFFIXES and path.parent.is_file()


def list_inside(path: Path) -> list[Path]:
    """Return the path of every photo in a file, in its order; names are the ids of its masks."""
    return [path / image_id for image_id in _open(path).ids]


def read_inside(path: Path) -> Image.Image:
    """Read one photo as an RGB picture."""
    return Image.fromarray(_open(path.parent).read_image(path.name))


def has_inside(path: Path) -> bool:
    """Return whether a photo is there."""
    return is_inside(path) and _open(path.parent).find(path.name) is not None


def hash_inside(path: Path) -> str:
    """SHA-256 of a photo's size and pixels."""
    pixels = _open(path.parent).read_image(path.name)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


@lru_cache(maxsize=4)
def _open(path: Path) -> ImageNetSegFile | NsdStimuli | StringerImages:
    """Keep a file open: each process has its own."""
    if path.suffix.lower() == MATLAB and is_older_matlab(path):
        return StringerImages(path)
    return ImageNetSegFile(path) if path.suffix.lower() == MATLAB else NsdStimuli(path)


def is_older_matlab(path: Path) -> bool:
    """Return whether a .mat is of a version before 7.3, which is no HDF5."""
    require_file(path)
    with path.open("rb") as stream:
        head = stream.read(512)
    return head.startswith(b"MATLAB") and b"MATLAB 7.3" not in head


class StringerImages:
    """`images_natimg2800_all.mat`: imgs (68, 270, 2800) uint8, grey; image k from 1 is called natimg-000k.

    The picture is taken whole: its columns are the three screens around the mouse, 90 each, from left to right.
    """

    def __init__(self, path: Path) -> None:
        from scipy.io import loadmat, whosmat

        self.path = path
        with reading(path, "a MATLAB file"):
            shapes = {name: shape for name, shape, kind in whosmat(path) if kind == "uint8"}
        if len(shapes.get("imgs", ())) != 3 or 0 in shapes["imgs"]:
            raise BadInput(
                f"{path} is not laid out like images_natimg2800_all.mat.",
                why="There is no `imgs` of uint8 with axes height, width and image.",
                do="Give a folder of images, a list of them, or Stringer's own file.",
            )
        require_memory(path, 2 * int(np.prod(shapes["imgs"], dtype=object)))
        with reading(path, "images_natimg2800_all.mat"):
            self._images: NDArray[np.uint8] = loadmat(path, variable_names=["imgs"])["imgs"]
        self.ids = tuple(f"natimg-{number + 1:04d}" for number in range(self._images.shape[2]))

    def find(self, image_id: str) -> str | None:
        """Look an image up by its name."""
        return image_id if image_id in self.ids else None

    def read_image(self, image_id: str) -> NDArray[np.uint8]:
        """Read one photo out of the file, (h, w, 3), grey in all colours."""
        if self.find(image_id) is None:
            raise BadInput(f"{self.path} holds no image {image_id}.", do="They are called natimg-0001 and so on.")
        return np.repeat(self._images[:, :, self.ids.index(image_id), None], 3, axis=2)


def open_hdf5(path: Path, what: str, *, do: str) -> Any:
    """Open an HDF5 file for reading.

    what : the file that was meant, for the message
    """
    try:
        import h5py
    except ImportError as error:
        raise BadInput(
            f"Reading {path} needs h5py, which is not installed.",
            why=f"{what} is HDF5.",
            do="pip install 'aligncut[imagenet-seg]'",
        ) from error
    require_file(path)
    with reading(path, f"{what}, which is HDF5", do=do):
        return h5py.File(path, "r")


class NsdStimuli:
    """`nsd_stimuli.hdf5`: imgBrick (73000, 425, 425, 3) uint8; an image is called by its nsdId from 0, nsd-00028."""

    def __init__(self, path: Path) -> None:
        self.path = path
        file = open_hdf5(path, "nsd_stimuli.hdf5", do="Fetch it again, whole.")
        with reading(path, "nsd_stimuli.hdf5"):
            self._brick = file.get("imgBrick")
        shape: tuple[int, ...] = tuple(getattr(self._brick, "shape", ()))
        if len(shape) != 4 or shape[3] != 3 or self._brick.dtype != np.uint8 or 0 in shape:
            raise BadInput(
                f"{path} is not laid out like nsd_stimuli.hdf5.",
                why="There is no imgBrick of uint8 with axes image, height, width and colour.",
                do="Give a folder of images, a list of them, or NSD's own file.",
            )
        require_memory(path, int(np.prod(shape[1:], dtype=object)))

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the name of every image."""
        return tuple(f"nsd-{number:05d}" for number in range(len(self._brick)))

    def find(self, image_id: str) -> str | None:
        """Look an image up by its name."""
        digits = image_id.removeprefix("nsd-")
        known = image_id.startswith("nsd-") and digits.isdecimal() and int(digits) < len(self._brick)
        return image_id if known else None

    def read_image(self, image_id: str) -> NDArray[np.uint8]:
        """Read one photo out of the file, (h, w, 3) RGB."""
        if self.find(image_id) is None:
            raise BadInput(f"{self.path} holds no image {image_id}.", do="They are called nsd-00000 and so on.")
        with reading(self.path, f"nsd_stimuli.hdf5: {image_id} is damaged"):
            return np.asarray(self._brick[int(image_id.removeprefix("nsd-"))])


class ImageNetSegFile:
    """`gtsegs_ijcv.mat`: value.img{i} is a photo, value.gt{i}{1} its mask (0, 1), value.id{i} its name.

    A MATLAB 7.3 file is HDF5: a cell array is a dataset of references, and every array is stored with its axes
    reversed. Ids are value.id where all differ and are plain names, else the six-digit position. The file is
    opened when it is first read, so that a copy can be sent to another process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open_file: Any = None
        self.ids = self._read_ids()
        self._position = {image_id: position for position, image_id in enumerate(self.ids)}

    def find(self, image_id: str) -> str | None:
        """Look an image up; ids are the file's own."""
        return image_id if image_id in self._position else None

    def read_image(self, image_id: str) -> NDArray[np.uint8]:
        """Read one photo out of the file.

        returns : (h, w, 3) RGB
        raises  : KeyError where there is no such photo
        """
        position = self._position[image_id]
        stored = self._array(self._images[position], f"value/img[{position}]")
        if stored.ndim == 2:  # a grey photo
            stored = np.broadcast_to(stored, (3, *stored.shape))
        if stored.ndim != 3 or stored.shape[0] not in (1, 3) or stored.dtype != np.uint8:
            raise self._malformed(
                f"value/img[{position}] is {stored.dtype} of shape {stored.shape}, not uint8 (3, w, h)."
            )
        image = stored.transpose(2, 1, 0)
        return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))

    def read_labels(self, image_id: str) -> NDArray[np.int64]:
        """Read the first annotation of one photo as it is stored, (h, w)."""
        position = self._position[image_id]
        stored = self._array(self._masks[position], f"value/gt[{position}]")
        if stored.dtype.kind == "O":  # a cell of annotations: the first is the one that everyone uses
            stored = self._array(stored.ravel()[0], f"value/gt[{position}]{{1}}")
        if stored.ndim != 2 or stored.dtype.kind not in "bui":
            raise self._malformed(
                f"value/gt[{position}] is {stored.dtype} of shape {stored.shape}, not integer (w, h)."
            )
        labels: NDArray[np.int64] = stored.T.astype(np.int64)
        if labels.max(initial=0) >= np.iinfo(np.int16).max or labels.min(initial=0) < 0:
            raise self._malformed(f"value/gt[{position}] has values that are no class indices.")
        return labels

    def __getstate__(self) -> dict[str, Any]:
        hidden = {"_open_file": None}
        return {name: value for name, value in self.__dict__.items() if name not in ("_images", "_masks")} | hidden

    @property
    def _file(self) -> Any:
        if self._open_file is None:
            do = "Give the path of gtsegs_ijcv.mat, downloaded whole."
            self._open_file = open_hdf5(self.path, "gtsegs_ijcv.mat", do=do)
        return self._open_file

    @cached_property
    def _images(self) -> NDArray[np.object_]:
        return self._cells("value/img")

    @cached_property
    def _masks(self) -> NDArray[np.object_]:
        return self._cells("value/gt")

    def _cells(self, name: str) -> NDArray[np.object_]:
        """Read the references of one cell array, (n,)."""
        found = self._file.get(name)
        if found is None or getattr(found, "dtype", np.dtype("u1")).kind != "O":
            raise self._malformed(f"There is no cell array {name}.")
        cells: NDArray[np.object_] = found[...].ravel()
        return cells

    def _target(self, reference: Any, name: str) -> Any:
        """Follow a reference to its dataset."""
        with reading(self.path, f"gtsegs_ijcv.mat: {name} does not lead to an array", do=DOWNLOAD):
            found = self._file[reference]
        if not hasattr(found, "shape"):
            raise self._malformed(f"{name} is not an array.")
        return found

    def _array(self, reference: Any, name: str) -> NDArray[Any]:
        target = self._target(reference, name)
        require_memory(self.path, target.dtype.itemsize * int(np.prod(target.shape, dtype=object)))
        with reading(self.path, f"gtsegs_ijcv.mat: {name} is damaged", do=DOWNLOAD):
            return np.asarray(target[...])

    def _read_ids(self) -> tuple[str, ...]:
        n_images = len(self._images)
        if n_images == 0 or len(self._masks) != n_images:
            raise self._malformed(f"It has {n_images} images and {len(self._masks)} masks.")
        if "value/id" in self._file:
            cells = self._cells("value/id")
            codes = [self._array(cell, "value/id").ravel() for cell in cells]
            if len(codes) == n_images and all(code.dtype.kind in "ui" for code in codes):
                names = ["".join(chr(int(letter)) for letter in code).strip() for code in codes]
                plain = all(name and name.replace("_", "").replace("-", "").isalnum() for name in names)
                if plain and len(set(names)) == n_images:
                    return tuple(names)
        return tuple(f"{position:06d}" for position in range(n_images))

    def _malformed(self, why: str) -> BadInput:
        return BadInput(
            f"{self.path} is not laid out like gtsegs_ijcv.mat.",
            why=why,
            do=DOWNLOAD,
        )
