"""How well held-out images are predicted: voxel by voxel, averaged over ROIs, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.console import format_table
from aligncut_cli.controls import title_with_controls
from aligncut_cli.maths.encoding import AlignmentMaps, predict_from_pooled
from aligncut_cli.maths.response_scores import average_over_rois, score_r, score_r2
from aligncut_cli.stages.align.data import AlignmentData, Float
from aligncut_cli.stages.align.fit import Baseline


def score_maps(data: AlignmentData, maps: AlignmentMaps) -> tuple[Float, Float]:
    """Return R^2 and r of every voxel on the held-out images, which neither the fit nor its stopping has seen.

    maps : in the units of the features and responses as they were given
    """
    device, test = maps.readout.device, data.split.test
    pooled = [torch.from_numpy(values[:, test]).to(device) for values in data.pooled]
    return _score(data, predict_from_pooled(pooled, maps).cpu().numpy())


def score_baseline(data: AlignmentData, baseline: Baseline) -> tuple[Float, Float]:
    """Return R^2 and r of every voxel, as predicted by the ridge."""
    return _score(data, data.targets.restore(baseline.predict(data.split.test)))


def _score(data: AlignmentData, predicted: Float) -> tuple[Float, Float]:
    measured = data.targets.restore(data.targets.values[data.split.test])
    return score_r2(predicted, measured), score_r(predicted, measured)


def summarize_scores(
    r2: Float,
    r: Float,
    ridge_r2: Float,
    ridge_r: Float,
    *,
    rois: Mapping[str, NDArray[np.bool_]],
    ceiling: Float | None,
) -> dict[str, dict[str, Any]]:
    """Return for every ROI with voxels, and for `all`, means over voxels, with mean and deviation over seeds.

    r2, r             : (seeds, voxels)
    ridge_r2, ridge_r : (voxels,)
    rois              : name -> (voxels,)
    ceiling           : (voxels,) or None
    """
    seeds, seeds_r = ([average_over_rois(row, rois) for row in score] for score in (r2, r))
    ridge, ridge_of_r = average_over_rois(ridge_r2, rois), average_over_rois(ridge_r, rois)
    normalized = average_over_rois(r2[0], rois, ceiling=ceiling) if ceiling is not None else {}
    table = {}
    for name in seeds[0]:
        values = [value for seed in seeds if (value := seed[name]) is not None]
        values_r = [value for seed in seeds_r if (value := seed[name]) is not None]
        if not values:
            continue
        table[name] = {
            "voxels": int(rois[name].sum()) if name in rois else r2.shape[1],
            "r2": float(np.mean(values)),
            "r2_sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "r": float(np.mean(values_r)),
            "ridge_r2": ridge[name],
            "ridge_r": ridge_of_r[name],
            "r2_of_ceiling": normalized.get(name),
        }
    return table


def format_scores(summary: Mapping[str, Any], controls: Sequence[str]) -> list[str]:
    """Write the scores as a table, ROI by ROI, with the ridge beside them, and a line of medians.

    summary : of the store's record
    """
    columns = ["voxels", "r2", "r2_sd", "r", "ridge_r2", "ridge_r", "r2_of_ceiling"]
    rows = [[name, *(scores[column] for column in columns)] for name, scores in summary["scores"].items()]
    used = [i for i in range(len(columns)) if any(row[i + 1] is not None for row in rows)]
    title = f"held-out images: {summary['test_images']:,}"
    if summary["synthetic"]:
        title += "; SYNTHETIC responses, computed and not recorded"
    table = format_table(
        ["ROI", *(columns[i] for i in used)],
        [[row[0], *(row[i + 1] for i in used)] for row in rows],
        title=title_with_controls(title, controls),
    )
    medians = f"median r over voxels {summary['median_r']:.3f}, by ridge {summary['median_ridge_r']:.3f}"
    return [table, medians]
