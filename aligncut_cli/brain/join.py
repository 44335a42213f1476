"""Joins the images of a feature store with the rows of the responses: by name, or by an order that is said."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.errors import BadInput
from aligncut_cli.images.names import IMAGE_SUFFIXES, strip_image_suffix

Index = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class JoinedImages:
    """Which image goes with which response.

    feature_rows           : (n,) ascending positions in the feature store
    response_rows          : (n,) row of the responses of each
    responses_without_image: rows that no image asks for
    record                 : by which rule, and which image the first and the last row went to
    """

    feature_rows: Index
    response_rows: Index
    responses_without_image: int
    record: Mapping[str, Any]

    def describe(self) -> str:
        """Say the pairing in one line, so that a reader can see whether it is right."""
        ends = ", ".join(f"row {end['row']} = {end['image']}" for end in (self.record["first"], self.record["last"]))
        return f"responses joined by {self.record['rule']}: {ends}"


def join_images(
    feature_ids: Sequence[str],
    response_ids: Sequence[str] | None,
    *,
    n_responses: int,
    paths: Sequence[str] | None = None,
    order: str | None = None,
    usable: Bool | None = None,
    partial: bool = False,
) -> JoinedImages:
    """Match images and responses by name, or by an order of names that is the only plausible one or the one asked for.

    feature_ids  : ids of the feature store: path below the images' folder, mostly without suffix
    response_ids : one name per row, or None: row k belongs to the k-th image of an order
    n_responses  : rows of the responses
    paths        : where the images were, in the order of the ids; say their suffixes
    order        : one of ORDERS, which decides where rows have no names
    usable       : (n_responses,) False for rows that are left out together with their images
    partial      : leave images out that no row has the name of, instead of refusing
    """
    names = (
        list(feature_ids) if paths is None else [_with_suffix(*pair) for pair in zip(feature_ids, paths, strict=True)]
    )
    if response_ids is None:
        rule, pairs = _join_by_order(names, n_responses, order)
    else:
        rule, pairs = _join_by_names(feature_ids, names, response_ids, partial=partial)
    if usable is not None:
        pairs = pairs[usable[pairs[:, 1]]]
        if not len(pairs):
            raise BadInput("Every image lacks a response; nothing is left.")
    by_row = pairs[np.argsort(pairs[:, 1], kind="stable")]
    ends = [{"row": int(row), "image": feature_ids[image]} for image, row in (by_row[0], by_row[-1])]
    record = {"rule": rule, "first": ends[0], "last": ends[1], "images_left_out": len(feature_ids) - len(pairs)}
    return JoinedImages(pairs[:, 0], pairs[:, 1], n_responses - len(pairs), record)


def _with_suffix(image_id: str, path: str) -> str:
    """Return an id with the suffix of its file, whether or not the id keeps it."""
    suffix = PurePosixPath(path).suffix
    whole = PurePosixPath(path).name == PurePosixPath(image_id).name
    return image_id if whole or suffix.lower() not in IMAGE_SUFFIXES else image_id + suffix


# ---- by name


def _plain(name: str) -> str:
    """Return a name as all file systems would write it: composed letters, slashes, no `./`."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def _bare(name: str) -> str:
    return strip_image_suffix(_plain(name))


def _base(name: str) -> str:
    return _plain(name).rsplit("/", 1)[-1]


def _bare_base(name: str) -> str:
    return _bare(_base(name))


def _caseless(name: str) -> str:
    return _bare_base(name).casefold()


def _nsd_name(name: str) -> str:
    """Return nsd-00028 for every name that ends in an NSD number: train-0001_nsd-00028, nsd28.png, 28."""
    match = re.search(r"(?:^|nsd[-_]?)0*(\d+)$", _bare_base(name), re.IGNORECASE)
    return f"nsd-{int(match[1]):05d}" if match else _bare_base(name)


# From strict to lax; the first that joins most images is taken.
NAME_RULES: dict[str, Callable[[str], str]] = {
    "whole names": _plain,
    "names without suffix": _bare,
    "file names": _base,
    "file names without suffix": _bare_base,
    "file names without suffix, upper and lower case alike": _caseless,
}


def _join_by_names(
    feature_ids: Sequence[str], names: Sequence[str], response_ids: Sequence[str], *, partial: bool
) -> tuple[str, npt.NDArray[np.int64]]:
    rules = dict(NAME_RULES)
    if all(re.fullmatch(r"nsd-\d+", name) for name in response_ids):
        rules["NSD's numbers"] = _nsd_name
    keys, matched = [], []
    for rule in rules.values():
        ours, theirs = [rule(name) for name in names], [rule(name) for name in response_ids]
        known = set(theirs)
        keys.append((ours, theirs))
        matched.append(sum(name in known for name in ours))
        if matched[-1] == len(names):
            break
    best = int(np.argmax(matched))
    ours, theirs = keys[best]
    if not matched[best]:
        raise BadInput(
            "No image of the features has a response.",
            why=f"Images are called {_few(feature_ids)}; responses belong to {_few(response_ids)}.",
            do="Extract features of the images that were shown, or name the rows with --image-ids ids.csv.",
        )
    _refuse_doubles(ours, theirs)
    row_of = {name: row for row, name in enumerate(theirs)}
    lacking = [image for image, name in zip(feature_ids, ours, strict=True) if name not in row_of]
    if lacking and not partial:
        raise BadInput(
            f"{len(lacking):,} of {len(feature_ids):,} images have no response: {_few(lacking)}.",
            do="Extract only images that were shown: `extract` takes a .txt file that lists them.",
        )
    pairs = [(image, row_of[name]) for image, name in enumerate(ours) if name in row_of]
    return list(rules)[best], np.array(pairs, dtype=np.int64)


def _refuse_doubles(ours: Sequence[str], theirs: Sequence[str]) -> None:
    for names, other in ((ours, set(theirs)), (theirs, set(ours))):
        repeated = [name for name, count in Counter(names).items() if count > 1 and name in other]
        if repeated:
            raise BadInput(
                f"Several images are called {repeated[0]}, so whose response is whose is open.",
                why="They differ in their folders, their suffixes or how an accent is written.",
                do="Extract features of one folder, or write whole paths with suffix into --image-ids.",
            )


# ---- by order


def _number_key(name: str) -> Hashable:
    """Sort key under which image10 comes after image2."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((k % 2 == 0, int(part) if k % 2 else 0, part) for k, part in enumerate(parts) if part)


def _folder_key(name: str) -> Hashable:
    """Sort key of torchvision's ImageFolder: classes, then folders in them, then files."""
    folder, _, file = name.rpartition("/")
    return folder.partition("/")[0], folder, file


ORDERS: dict[str, tuple[str, Callable[[str], Any] | None]] = {
    "name": ("sorted names without suffix", strip_image_suffix),
    "path": ("sorted paths with suffix, as by sorted(os.listdir())", str),
    "natural": ("numbers in names by their value", _number_key),
    "imagefolder": ("torchvision's ImageFolder", _folder_key),
    "caseless": ("sorted paths, upper and lower case alike", str.casefold),
    "given": ("the order in which `extract` was given the images", None),
}


def _join_by_order(names: Sequence[str], n_responses: int, order: str | None) -> tuple[str, npt.NDArray[np.int64]]:
    """Let row k belong to the k-th image; where no order is asked for, all that are plausible must agree."""
    if len(names) != n_responses:
        raise BadInput(
            f"There are {len(names):,} images but {n_responses:,} rows of responses.",
            why="Without names, row k belongs to the k-th image, so the counts must agree.",
            do="Extract all images that were shown, or name the rows with --image-ids ids.csv; "
            "a table of voxels x images must be transposed.",
        )
    plain = [_plain(name) for name in names]
    chosen = "name" if order is None else order
    places = _sort_places(plain, chosen)
    if order is None:
        for other in ORDERS:
            found = _sort_places(plain, other)
            if found != places:
                raise _differing(names, places, found, other)
    pairs = np.array(sorted(zip(places, range(n_responses), strict=True)), dtype=np.int64).reshape(-1, 2)
    return f"order {chosen}" if order is not None else "the only plausible order of names", pairs


def _sort_places(names: Sequence[str], order: str) -> list[int]:
    key = ORDERS[order][1]
    return list(range(len(names))) if key is None else sorted(range(len(names)), key=lambda place: key(names[place]))


def _differing(names: Sequence[str], places: Sequence[int], found: Sequence[int], other: str) -> BadInput:
    rows = [row for row, (one, two) in enumerate(zip(places, found, strict=True)) if one != two][:2]
    shown = "\n".join(f"  row {row}: {names[places[row]]} or {names[found[row]]}" for row in rows)
    return BadInput(
        f"Which image each row of the responses belongs to is ambiguous, by {ORDERS['name'][0]} or by "
        f"{ORDERS[other][0]}:\n{shown}",
        do=f"Name the image of each row with --image-ids ids.csv, or say the order: --order {'|'.join(ORDERS)}",
    )


def suspect_pairing(r: npt.NDArray[np.floating[Any]], n_images: int) -> str | None:
    """Say so where held-out images are predicted no better than by chance, as they are when rows are shuffled.

    Under the null the r of a voxel has a deviation of about 1 / sqrt(n_images), however voxels hang together; a
    twentieth of voxels above 2.5 of these is the least that a fit of use would reach.

    r        : (voxels,) correlation on held-out images, of the ridge
    n_images : held out
    """
    high = float(np.nanquantile(r, 0.95)) if np.isfinite(r).any() else 0.0
    limit = 2.5 / max(1.0, float(np.sqrt(n_images)))
    if high > limit or limit >= 1:  # so few images can tell nothing
        return None
    return (
        f"held-out responses are predicted no better than by chance: r of {high:.3f} in the best twentieth of voxels, "
        f"where chance reaches {limit:.3f}. Are rows and images paired as they were shown?"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
