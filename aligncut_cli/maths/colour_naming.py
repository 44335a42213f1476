"""Whether a category keeps its colour from model to model: objects of one model named by another's mean colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def name_by_colour(colours: NDArray[np.floating], categories: NDArray[np.integer]) -> float:
    """Share of objects whose category another model's mean colours name, averaged over categories and pairs of models.

    colours    : (models, objects, dims), one mean colour per object in each model; NaN where an object has no token
    categories : (objects,), each with two objects or more
    returns    : chance is 1 / number of categories. The object itself takes no part in the means that name it, so that
                 nothing but its category can help
    """
    models = range(len(colours))
    kinds = np.unique(categories)
    member = (categories[:, None] == kinds).astype(np.float64)  # (objects, kinds)
    known = np.isfinite(colours).all(axis=2)
    filled = np.where(known[..., None], colours, 0.0)
    sums = np.einsum("mod,ok->mkd", filled, member)
    counts = np.einsum("mo,ok->mk", known.astype(np.float64), member)
    shares = []
    for named in models:
        for naming in (model for model in models if model != named):
            left_out = sums[naming][None] - member[..., None] * filled[naming][:, None]
            rest = counts[naming][None] - member * known[naming][:, None]
            means = left_out / np.maximum(rest, 1)[..., None]  # (objects, kinds, dims)
            distance = np.linalg.norm(filled[named][:, None] - means, axis=2)
            distance[rest == 0] = np.inf
            right = (kinds[distance.argmin(axis=1)] == categories) & known[named]
            seen = member * known[named][:, None]
            per_kind = (seen * right[:, None]).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
            shares.append(per_kind[seen.sum(axis=0) > 0].mean())
    return float(np.mean(shares))
