"""What values the masks of a folder have, and what they can mean: decided once, from all of them, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput
from aligncut_cli.masks.label_image import DEEPEST

IGNORE_VALUE = 255
MOST_UNNAMED_CLASSES = 128
"""More distinct values than this without class names are a grey picture, not a map of classes."""
THREADS = 4

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Coding:
    """What values mean.

    n_classes : background included
    object    : the lowest value of the one object, where masks are binary by 255 or by --threshold; else None
    """

    n_classes: int
    object: int | None = None


@dataclass(frozen=True)
class Survey:
    """How often each value is met in all masks together.

    pixels  : (DEEPEST + 1,) pixels of each value
    example : a file for each value that is met
    both    : whether some mask has 255 beside a class, so that 255 is ignored everywhere
    """

    pixels: Counts
    example: dict[int, Path]
    both: bool

    @property
    def values(self) -> list[int]:
        """Return the values that are met, ascending."""
        return [int(value) for value in np.flatnonzero(self.pixels)]

    def describe(self, *, most: int = 8) -> str:
        """Return the histogram in one line: the values with their shares of pixels, the commonest of many."""
        values = self.values
        shown = sorted(sorted(values, key=lambda value: -int(self.pixels[value]))[:most])
        total = int(self.pixels.sum())
        parts = [f"{value} ({self.pixels[value] / total:.2%})" for value in shown]
        return ", ".join(parts) + (f" and {len(values) - most} more values" if len(values) > most else "")


def survey_masks(files: Sequence[Path], read: Callable[[Path], NDArray[np.int32]]) -> Survey:
    """Count the values of all masks, a few files at a time."""
    pixels = np.zeros(DEEPEST + 1, dtype=np.int64)
    example: dict[int, Path] = {}
    both = False

    def count(file: Path) -> Counts:
        return np.bincount(read(file).ravel())

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(files), 16 * THREADS):  # so that few results wait
            part = files[start : start + 16 * THREADS]
            for file, counts in zip(part, pool.map(count, part), strict=True):
                pixels[: len(counts)] += counts
                both |= bool(counts[IGNORE_VALUE:].any() and counts[1:IGNORE_VALUE].any())
                for value in np.flatnonzero(counts):
                    example.setdefault(int(value), file)
    return Survey(pixels, example, both)


def decide_coding(survey: Survey, names: Sequence[str] | None, *, path: Path, names_file: Path | None) -> Coding:
    """Tell what values mean, and refuse what could mean two things.

    Values are 0 = background, 1, 2, ... = classes, 255 = ignore. Masks of nothing but 0 and 255 are binary, and 255 is
    the object. Without names the classes must be nearly all of those from 1 on: sparse values, or values at both ends,
    are those of smoothed masks, of trimaps, or of a list of classes that is not here.

    names : of the classes, or None
    """
    inside = [value for value in survey.values if value not in (0, IGNORE_VALUE)]
    if names is not None:
        _require_names_fit(survey, inside, names, path=path, names_file=names_file)
        if len(names) == 2 and inside == [1]:
            _require_one_coding(survey, path=path)
        binary = len(names) == 2 and not inside and IGNORE_VALUE in survey.values
        coding = Coding(len(names), IGNORE_VALUE if binary else None)
    elif not inside:
        coding = Coding(2, IGNORE_VALUE)
    else:
        _require_dense(survey, inside, path=path)
        coding = Coding(max(2, inside[-1] + 1))
    if coding.object is None:
        ignored = () if coding.n_classes > IGNORE_VALUE else (IGNORE_VALUE,)
        require_two_classes(survey, [value for value in survey.values if value not in ignored], path=path)
    else:
        require_two_classes(survey, {min(value, 1) for value in survey.values}, path=path)
    return coding


def require_two_classes(survey: Survey, present: Iterable[int], *, path: Path) -> None:
    """Refuse masks in which nothing is told from anything else: any score of them would be perfect."""
    if len(set(present)) < 2:
        raise BadInput(
            f"The masks in {path} hold one class only: {survey.describe()} of all pixels.",
            why="0 is the background, 255 is ignored where there are classes; there is nothing to tell apart.",
            do="Check that these are the masks: --masks DIR. Grey values are parted by --threshold 128.",
        )


def _require_names_fit(
    survey: Survey, inside: Sequence[int], names: Sequence[str], *, path: Path, names_file: Path | None
) -> None:
    limit = len(names)
    beyond = [value for value in inside if value >= limit]
    if not beyond and (inside or limit == 2 or IGNORE_VALUE not in survey.values or limit > IGNORE_VALUE):
        return
    raise BadInput(
        f"{survey.example[beyond[0]]} has class index {beyond[0]}, but only {limit} classes are named "
        f"(0 to {limit - 1}) in {names_file}."
        if beyond
        else f"{names_file} names {limit} classes, and the masks in {path} hold 0 and 255 only, as binary ones do.",
        why=f"All masks together: {survey.describe()}.",
        do="Name every class with --classes FILE, one per line from 0 = background; or read the masks as binary: "
        "--threshold 128",
    )


def _require_dense(survey: Survey, inside: Sequence[int], *, path: Path) -> None:
    highest = inside[-1]
    if len(inside) > MOST_UNNAMED_CLASSES:
        what, why = "look like grey pictures", f"They have {len(inside)} values besides 0 and 255."
    elif highest > 2 * len(inside) + 1:
        what = "are neither binary nor classes that are counted from 1"
        why = "Smoothed or JPEG-compressed masks, trimaps and lists of classes that are not here look so."
    else:
        if inside == [1]:
            _require_one_coding(survey, path=path)
        return
    deep = " They have 16 bits per pixel." if highest > IGNORE_VALUE else ""
    low, high = survey.values[0], survey.values[-1]
    middle = 128 if high <= IGNORE_VALUE else 1 << (high.bit_length() - 1)
    if not low < middle <= high:  # 128 would leave one class
        middle = (low + high + 1) // 2
    raise BadInput(
        f"The masks in {path} {what}: {survey.describe()}; {survey.example[highest].name} has {highest}.{deep}",
        why=why,
        do=f"Say from which value on a pixel is the object: --threshold {middle}; or name the classes: --classes FILE, "
        "one per line from 0 = background.",
    )


def _require_one_coding(survey: Survey, *, path: Path) -> None:
    """Refuse masks of {0, 1} beside masks of {0, 255}: whether 255 is the object or ignored could not be told."""
    one, other = survey.example[1], survey.example.get(IGNORE_VALUE)
    if other is not None and not survey.both:
        raise BadInput(
            f"The masks in {path} are coded in two ways: {one.name} with 1, {other.name} with 255.",
            why="255 is the object where a folder has only 0 and 255, and 'ignore' where it has class indices.",
            do="Save all masks with 0 = background, 1 = object and 255 = ignore; or, where both are the object: "
            "--threshold 1",
        )
