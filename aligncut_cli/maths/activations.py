"""Mean activation of foreground and background in the brain's space (Fig. 6, 7, 16), and similarity to one token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.segmentation import normalize_rows

Floats = NDArray[np.float64]
ROWS = ("foreground", "background", "difference")


def average_over_roi(values: NDArray[np.floating], rois: NDArray[np.bool_]) -> Floats:
    """Mean over the voxels of each ROI; of a readout beta it gives the readout of ROI means.

    values  : (..., voxel)
    rois    : (roi, voxel); may overlap
    returns : (..., roi), NaN for an ROI without voxels
    """
    size = rois.sum(axis=1)
    total = values.astype(np.float64) @ rois.T.astype(np.float64)
    return np.where(size > 0, total / np.maximum(size, 1), np.nan)


def pool_figure_and_ground(tokens: NDArray[np.floating], weights: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Sum tokens under the foreground (any class but 0) and under the background, weighted by the mask.

    tokens  : (slot, token, channel) without the class token
    weights : (token, class) from weigh_tokens_by_class
    returns : (slot, 2, channel) weighted sums, foreground first, and (2,) sums of weights
    """
    both = np.stack([weights[:, 1:].sum(axis=1), weights[:, 0]]).astype(np.float64)
    return both @ tokens.astype(np.float64), both.sum(axis=1)


@dataclass(frozen=True)
class FigureGroundResult:
    """Activations B = V' beta averaged over ROIs; rows are ROWS: foreground, background, difference of the two.

    mean     : (slot, 3, roi) over all pixels of all images, as if pixels were listed one by one
    error    : (slot, 3, roi) standard error with images as the independent units, the difference paired
    features : (slot, 2, channel) mean features, to be mapped to single voxels
    weights  : (2,) tokens' worth of foreground and background
    n_images : images with at least one labelled pixel
    """

    mean: Floats
    error: Floats
    features: Floats
    weights: Floats
    n_images: int


class FigureGroundActivation:
    """Average foreground and background activations image by image.

    Pooling and readout are linear, so an image's tokens are pooled first and mapped to ROIs after. A mean over all
    pixels is a ratio of sums over images, sum(w x) / sum(w); its standard error follows from the second moments of
    (w, w x) of foreground and background (delta method), which are a 4 x 4 matrix per slot and ROI.

    readout : (slot, channel, roi) from features to ROI means, W_i times average_over_roi(beta)
    """

    def __init__(self, readout: NDArray[np.floating]) -> None:
        self.readout = readout.astype(np.float64)
        n_slots, n_channels, n_rois = readout.shape
        self.pooled = np.zeros((n_slots, 2, n_channels))
        self.weights = np.zeros(2)
        self.n_images = 0
        self._sums = np.zeros((n_slots, n_rois, 4))
        self._moments = np.zeros((n_slots, n_rois, 4, 4))
        self._shift: Floats | None = None  # (slot, roi) near the mean, so that moments keep their digits

    def add(self, tokens: NDArray[np.floating], weights: NDArray[np.floating]) -> None:
        """Add one image.

        tokens  : (slot, token, channel) without the class token
        weights : (token, class) from weigh_tokens_by_class
        """
        pooled, weight = pool_figure_and_ground(tokens, weights)
        if not weight.any():
            return
        activation = pooled @ self.readout  # (slot, 2, roi), times weight
        if self._shift is None:
            self._shift = activation.sum(axis=1) / weight.sum()
        self.pooled += pooled
        self.weights += weight
        self.n_images += 1
        terms = np.empty_like(self._sums)
        for side in range(2):
            terms[..., 2 * side] = weight[side]
            terms[..., 2 * side + 1] = activation[:, side] - weight[side] * self._shift
        self._sums += terms
        self._moments += terms[..., :, None] * terms[..., None, :]

    def finish(self) -> FigureGroundResult:
        """Return means and errors; NaN where there is no foreground or no background, errors from two images on."""
        scale = np.where(self.weights > 0, 1 / np.where(self.weights > 0, self.weights, 1), np.nan)
        shift = self._shift if self._shift is not None else np.zeros(self._sums.shape[:2])
        means, slopes = [], []
        for side in range(2):
            centred = self._sums[..., 2 * side + 1] * scale[side]
            slope = np.zeros_like(self._sums)
            slope[..., 2 * side] = -centred * scale[side]
            slope[..., 2 * side + 1] = scale[side]
            means.append(centred + shift)
            slopes.append(slope)
        means.append(means[0] - means[1])
        slopes.append(slopes[0] - slopes[1])
        small_sample = self.n_images / (self.n_images - 1) if self.n_images > 1 else np.nan
        errors = [
            np.sqrt(np.maximum(np.einsum("sri,srij,srj->sr", slope, self._moments, slope), 0) * small_sample)
            for slope in slopes
        ]
        return FigureGroundResult(
            mean=np.stack(means, axis=1),
            error=np.stack(errors, axis=1),
            features=self.pooled * scale[:, None],
            weights=self.weights,
            n_images=self.n_images,
        )


def compare_to_reference(
    tokens: NDArray[np.floating], reference: NDArray[np.floating], *, readout_gram: Floats | None
) -> NDArray[np.float32]:
    """Cosine similarity of every token to one (Fig. 6, right).

    tokens       : (..., channel)
    reference    : (channel,)
    readout_gram : (channel, channel) beta beta^T to compare activations in the brain's space, which needs no voxel
                   to be computed: (V beta)(U beta)^T = V (beta beta^T) U^T; None compares the features themselves
    returns      : (...), 0 for a token of zeros
    """
    rows, one = tokens.astype(np.float64), reference.astype(np.float64)
    if readout_gram is None:
        return (normalize_rows(rows) @ normalize_rows(one)).astype(np.float32)
    mapped = one @ readout_gram
    length = np.sqrt(np.maximum(np.einsum("...i,...i->...", rows @ readout_gram, rows), 0) * max(mapped @ one, 0.0))
    return np.where(length > 0, rows @ mapped / np.where(length > 0, length, 1.0), 0.0).astype(np.float32)
