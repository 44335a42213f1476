"""Oracle segmentation (Appendix C.4): class centres from masks, nearest centre by cosine, threshold grid, mIoU.

Everything streams over images: ClassCentres in a first pass, OracleScore in a second, each of a size that depends
on slots, classes and thresholds only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.grid import (
    Grid,
    Labels,
    build_bilinear_matrix,
    round_mask_to_grid,
    spread_tokens,
)
from aligncut_cli.maths.iou import (
    compute_iou,
    count_confusion,
    expect_iou_by_chance,
    mean_over_classes,
)

Resolution = Literal["pixels", "tokens"]
Floats = NDArray[np.float64]
BAND_VALUES = 400_000
"""Upsampled similarities held at a time: they stay in the processor's cache, which is what makes this fast."""


class ClassCentres:
    """Mean eigenvector row of the pixels under each class mask, background included (Appendix C.4, step 2).

    A token counts for a class with the share of its cell that the class covers, so ignored pixels count nowhere.

    sums    : (slot, class, eig) weighted sums
    weights : (class,) sums of weights
    """

    def __init__(self, n_slots: int, n_classes: int, n_eig: int) -> None:
        self.sums = np.zeros((n_slots, n_classes, n_eig))
        self.weights = np.zeros(n_classes)

    def add(self, eigenvectors: NDArray[np.floating], weights: NDArray[np.floating]) -> None:
        """Add one image.

        eigenvectors : (slot, token, eig) without the class token
        weights      : (token, class) from weigh_tokens_by_class
        """
        self.sums += weights.T.astype(np.float64) @ eigenvectors.astype(np.float64)
        self.weights += weights.sum(axis=0)

    def finish(self) -> Floats:
        """Return (slot, class, eig); NaN for a class without a single pixel."""
        seen = self.weights > 0
        scale = np.where(seen, 1 / np.where(seen, self.weights, 1), np.nan)
        return self.sums * scale[:, None]


def compare_to_centres(eigenvectors: NDArray[np.floating], centres: Floats) -> NDArray[np.float32]:
    """Cosine similarity of each token to each class centre (Appendix C.4, step 3).

    eigenvectors : (slot, token, eig)
    centres      : (slot, class, eig)
    returns      : (slot, class, token); 0 for a row of zeros
    """
    rows = normalize_rows(eigenvectors.astype(np.float64))
    return (normalize_rows(centres) @ rows.swapaxes(-1, -2)).astype(np.float32)


def label_tokens(
    eigenvectors: NDArray[np.floating], centres: Floats, *, thresholds: NDArray[np.floating]
) -> NDArray[np.int16]:
    """Give each token its nearest class, or the background where that is not near enough (C.4, steps 4 and 5).

    eigenvectors : (slot, token, eig)
    centres      : (slot, class, eig), NaN for a class without a pixel, which no token is given
    thresholds   : (slot,)
    returns      : (slot, token)
    """
    seen = np.flatnonzero(~np.isnan(centres).any(axis=(0, 2)))
    similarity = compare_to_centres(eigenvectors, centres[:, seen])
    near = similarity.max(axis=1) >= thresholds.astype(np.float32)[:, None]
    return np.where(near, seen[similarity.argmax(axis=1)], 0).astype(np.int16)


def normalize_rows(values: Floats) -> Floats:
    """Scale the last axis to unit length; zeros stay zeros."""
    length = np.sqrt(np.einsum("...i,...i->...", values, values))[..., None]
    return values / np.where(length > 0, length, 1.0)


def label_pixels(
    similarity: NDArray[np.float32], grid: Grid, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Upsample one slot's similarities bilinearly and take the best class of every pixel.

    Upsampling is two small matrix products; the rows are done in bands, because (class, h, w) at once would be
    gigabytes for a large photo with many classes.

    similarity : (class, token)
    size       : (h, w) of the image
    returns    : (h, w) best similarity and (h, w) its class, ties to the lower index
    """
    n_classes = len(similarity)
    height, width = size
    down = build_bilinear_matrix(grid[0], height)
    across = np.ascontiguousarray(build_bilinear_matrix(grid[1], width).T)
    narrow = down @ similarity.reshape(n_classes, *grid)  # (class, h, W)
    best = np.empty(size, np.float32)
    lowest = np.empty(size, np.uint8 if n_classes <= 255 else np.uint16)
    # Highest code = lowest class: one maximum over bytes finds the class, three times faster than argmax.
    code = np.arange(n_classes, 0, -1, dtype=lowest.dtype)[:, None, None]
    n_rows = min(height, max(1, BAND_VALUES // (n_classes * width)))
    wide = np.empty((n_classes * n_rows, width), np.float32)
    is_best = np.empty(wide.shape, np.bool_)
    coded = np.empty(wide.shape, lowest.dtype)
    for top in range(0, height, n_rows):
        band = slice(top, min(top + n_rows, height))
        n = n_classes * (band.stop - top)
        shape = (n_classes, band.stop - top, width)
        values = np.matmul(narrow[:, band].reshape(n, -1), across, out=wide[:n]).reshape(shape)
        highest = np.max(values, axis=0, out=best[band])
        equal = np.equal(values, highest, out=is_best[:n].reshape(shape))
        codes = np.multiply(equal, code, out=coded[:n].reshape(shape))
        np.max(codes, axis=0, out=lowest[band])
    return best, n_classes - lowest.astype(np.intp)


def label_slots(
    similarity: NDArray[np.float32], grid: Grid, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Take the best class of every pixel, or of every token where `size` is the grid's, ties to the lower index.

    similarity : (slot, class, token)
    returns    : (slot, h*w) best similarity and (slot, h*w) its class
    """
    if size == grid:
        return similarity.max(axis=1), similarity.argmax(axis=1)
    parts = [label_pixels(one, grid, size) for one in similarity]
    return np.stack([best.ravel() for best, _ in parts]), np.stack([label.ravel() for _, label in parts])


@dataclass(frozen=True)
class OracleResult:
    """Scores at every threshold.

    thresholds : (threshold,)
    iou        : (slot, threshold, class) over the pixels of all images together; NaN = neither there nor predicted
    miou       : (slot, threshold) its mean over the classes there are, as VOC defines it
    image_miou : (slot, threshold) mean IoU of each image over its own classes, averaged over images
    chance     : (slot, threshold) expected mIoU of equally frequent labels placed without regard to the masks
    best       : (slot,) position of the threshold with the highest mIoU, the lower of equals
    """

    thresholds: Floats
    iou: Floats
    miou: Floats
    image_miou: Floats
    chance: Floats
    best: NDArray[np.intp]

    @property
    def best_miou(self) -> Floats:
        """(slot,) mIoU at the best threshold."""
        return self._at_best(self.miou)

    @property
    def best_image_miou(self) -> Floats:
        """(slot,) per-image mIoU at the threshold that is best for the whole set."""
        return self._at_best(self.image_miou)

    @property
    def best_iou(self) -> Floats:
        """(slot, class) IoU at the best threshold."""
        return self._at_best(self.iou)

    @property
    def best_threshold(self) -> Floats:
        """(slot,) the best threshold."""
        return self.thresholds[self.best]

    @property
    def best_chance(self) -> Floats:
        """(slot,) chance at the threshold that is best for chance, since the search over the grid is part of the score.

        A threshold that turns everything into background is in the grid, so this is at least that constant's mIoU.
        """
        highest: Floats = self.chance.max(axis=1)
        return highest

    def _at_best(self, values: Floats) -> Floats:
        picked: Floats = values[np.arange(len(self.best)), self.best]
        return picked


class OracleScore:
    """Label every pixel by its nearest class centre at every threshold and score it (Appendix C.4, steps 3 to 5).

    A pixel whose best similarity is under the threshold is background. All thresholds come out of one histogram of
    pixels by true class, best class and number of thresholds reached.

    histogram  : (slot, true class, best class, thresholds reached) pixels
    image_miou : of every image that was added (slot, threshold) its own mIoU, NaN where no pixel counts
    """

    def __init__(self, centres: Floats, *, thresholds: Floats, grid: Grid, resolution: Resolution) -> None:
        self.centres = centres
        self.thresholds = np.asarray(thresholds, np.float64)
        self.grid = grid
        self.resolution = resolution
        n_slots, n_classes, _ = centres.shape
        self.histogram = np.zeros((n_slots, n_classes, n_classes, len(self.thresholds) + 1), np.int64)
        self.image_miou_sum = np.zeros((n_slots, len(self.thresholds)))
        self.image_miou: list[Floats] = []
        self.n_images = 0
        self._seen = np.flatnonzero(~np.isnan(centres).any(axis=(0, 2)))
        if len(self._seen) == 0:
            raise BadInput("The masks have no labelled pixel: every one is ignored.", do="Check --masks.")

    def add(self, eigenvectors: NDArray[np.floating], mask: Labels) -> None:
        """Add one image.

        eigenvectors : (slot, token, eig) without the class token
        mask         : (h, w) class indices, negative = ignored
        """
        n_classes = self.centres.shape[1]
        truth = mask
        if self.resolution == "tokens":
            truth = round_mask_to_grid(mask, self.grid, n_classes=n_classes).reshape(self.grid)
        valid = truth >= 0
        own = np.full(self.image_miou_sum.shape, np.nan)
        self.image_miou.append(own)
        if not valid.any():
            return
        n_bins = self.histogram.shape[-1]
        kept = slice(None) if valid.all() else valid.ravel()  # taking all is quicker than choosing all
        truth_code = truth.ravel()[kept].astype(np.intp) * (n_classes * n_bins)
        seen_code = self._seen * n_bins
        similarity = compare_to_centres(eigenvectors, self.centres[:, self._seen])
        # Whole tokens are few: all slots at once. Pixels are many: one slot after the other.
        step = len(similarity) if truth.shape == self.grid else 1
        for first in range(0, len(similarity), step):
            part = slice(first, first + step)
            best, label = label_slots(similarity[part], self.grid, truth.shape)
            code = truth_code + seen_code[label[:, kept]] + count_thresholds_reached(best[:, kept], self.thresholds)
            shape = self.histogram[part].shape
            code += np.arange(shape[0])[:, None] * self.histogram[0].size
            counts = np.bincount(code.ravel(), minlength=self.histogram[part].size).reshape(shape)
            self.histogram[part] += counts
            own[part] = mean_over_classes(compute_iou(*sweep_thresholds(counts)))
        self.image_miou_sum += own
        self.n_images += 1

    def finish(self) -> OracleResult:
        """Turn the counts into scores."""
        correct, predicted, truth = sweep_thresholds(self.histogram)
        iou = compute_iou(correct, predicted, truth)
        miou = mean_over_classes(iou)
        return OracleResult(
            thresholds=self.thresholds,
            iou=iou,
            miou=miou,
            image_miou=self.image_miou_sum / self.n_images
            if self.n_images
            else np.full_like(self.image_miou_sum, np.nan),
            chance=mean_over_classes(expect_iou_by_chance(predicted, truth)),
            best=miou.argmax(axis=1),
        )


def count_thresholds_reached(best: NDArray[np.float32], thresholds: Floats) -> NDArray[np.uint8]:
    """Count how many thresholds each similarity reaches (best >= threshold).

    returns : like best
    """
    reached = np.zeros(best.shape, np.uint8)
    for threshold in thresholds.astype(np.float32):
        reached += best >= threshold
    return reached


def sweep_thresholds(
    histogram: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count right, predicted and true pixels per class at every threshold; under the threshold is background (class 0).

    histogram : (..., true class, best class, thresholds reached); thresholds ascend, so the j-th is reached by
                pixels that reach more than j
    returns   : three of (..., threshold, class)
    """
    total = histogram.sum(axis=-1)
    dropped = histogram.cumsum(axis=-1)[..., :-1]  # (..., true, best, threshold)
    kept = total[..., None] - dropped
    correct = np.diagonal(kept, axis1=-3, axis2=-2).copy()  # (..., threshold, class)
    correct[..., 0] += dropped[..., 0, :, :].sum(axis=-2)
    predicted = np.moveaxis(kept.sum(axis=-3), -1, -2).copy()
    predicted[..., 0] += dropped.sum(axis=(-3, -2))
    truth = np.broadcast_to(total.sum(axis=-1)[..., None, :], predicted.shape)
    return correct, predicted, truth


def pick_other_images(n_images: int, *, seed: int) -> NDArray[np.intp]:
    """Pair every image with another one, whose mask it gets in the control with shuffled masks.

    The control runs both passes with those masks, stretched by resize_mask. It keeps what all masks have in common,
    objects in the middle above all, and so is the stricter chance level: what position alone scores.

    returns : (n_images,) a permutation without a fixed point (a single image keeps its own)
    """
    order = np.random.default_rng(seed).permutation(n_images)
    other = np.empty(n_images, np.intp)
    other[order] = np.roll(order, 1)
    return other


def count_grid_rounding(mask: Labels, grid: Grid, *, n_classes: int, resolution: Resolution) -> NDArray[np.int64]:
    """Confusion of a mask with itself rounded to the token grid: what labels that are constant on a token can reach.

    Each token has its cell's most frequent class. That is the ceiling of accuracy for one label per token; upsampled
    similarities can cut through a cell and exceed it by a little. At the resolution of tokens it is 1.

    returns : (class, class) pixels; summed over images and given to score_confusion it is the upper bound of mIoU
    """
    rounded = round_mask_to_grid(mask, grid, n_classes=n_classes)
    if resolution == "tokens":
        return count_confusion(rounded, rounded, n_predicted=n_classes, n_true=n_classes)[:, :-1]
    spread = np.asarray(spread_tokens(rounded, grid, mask.shape), np.int16)
    return count_confusion(spread.ravel(), mask.ravel(), n_predicted=n_classes, n_true=n_classes)[:, :-1]
