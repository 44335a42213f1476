"""How well held-out images are predicted: per voxel, per ROI with intervals, by the fit, a ridge and the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.console import format_table
from aligncut_cli.controls import title_with_controls
from aligncut_cli.maths.affinity import unit_rows
from aligncut_cli.maths.bootstrap import Interval, bootstrap_rois
from aligncut_cli.maths.response_scores import average_over_rois, score_r, score_r2
from aligncut_cli.maths.slot_similarity import SlotSimilarity, mean_between_models
from aligncut_cli.stages.align.data import Float

Rois = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Predictions:
    """Responses to the test images of all folds of one run, and what was predicted of them; (images, voxels) each.

    null : the mean response of the training images, which an R^2 of 0 would need to be the test images' own
    """

    measured: Float
    fitted: Float
    ridge: Float
    null: Float

    @classmethod
    def join(cls, parts: Sequence[Predictions]) -> Predictions:
        """Put the folds together."""
        names = ("measured", "fitted", "ridge", "null")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def score(self) -> dict[str, Float]:
        """Return R^2 and r of every voxel by name, (voxels,)."""
        return {
            "r2": score_r2(self.fitted, self.measured),
            "r": score_r(self.fitted, self.measured),
            "ridge_r2": score_r2(self.ridge, self.measured),
            "ridge_r": score_r(self.ridge, self.measured),
            "null_r2": score_r2(self.null, self.measured),
        }


def summarize_scores(
    main: Predictions, runs_r2: Float, runs_r: Float, *, rois: Rois, ceiling: Float | None, n_draws: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return for every ROI with voxels, and for `all`, means over voxels: of the first run with intervals.

    runs_r2, runs_r : (runs, voxels) of all runs; their deviation is given where there are several
    rois            : name -> (voxels,)
    ceiling         : (voxels,) or None
    """
    scores = {name: average_over_rois(values, rois) for name, values in main.score().items()}
    spread = [average_over_rois(row, rois) for row in runs_r2], [average_over_rois(row, rois) for row in runs_r]
    normalized = average_over_rois(runs_r2[0], rois, ceiling=ceiling) if ceiling is not None else {}
    intervals = bootstrap_rois(main.fitted, main.measured, rois, n_draws=n_draws, seed=seed)
    table = {}
    for name, value in scores["r2"].items():
        if value is None:
            continue
        deviation = [_deviation([run[name] for run in runs]) for runs in spread]
        table[name] = {
            "voxels": int(rois[name].sum()) if name in rois else runs_r2.shape[1],
            "r2": value,
            **_name_interval("r2", intervals.r2[name]),
            "r2_sd": deviation[0],
            "r": scores["r"][name],
            **_name_interval("r", intervals.r[name]),
            "r_sd": deviation[1],
            "ridge_r2": scores["ridge_r2"][name],
            "ridge_r": scores["ridge_r"][name],
            "null_r2": scores["null_r2"][name],
            "r2_of_ceiling": normalized.get(name),
        }
    return table


def _name_interval(name: str, interval: Interval) -> dict[str, float | None]:
    return {f"{name}_{end}": value for end, value in asdict(interval).items()}


def _deviation(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


def measure_agreement(
    nodes: Sequence[NDArray[np.floating]], weights: Sequence[torch.Tensor], names: Sequence[str]
) -> float | None:
    """Return the mean cosine of one token between slots of different models; None where there is one model.

    nodes   : per model (layers, n, D_i) tokens of images that the maps were not fitted to, the same in every slot
    weights : per model (layers, D_i, D')
    names   : of the models
    """
    similarity = SlotSimilarity(sum(len(part) for part in nodes))
    similarity.add(
        [
            unit_rows(torch.from_numpy(rows.astype(np.float32)) @ weight.cpu())
            for part, stack in zip(nodes, weights, strict=True)
            for rows, weight in zip(part, stack, strict=True)
        ]
    )
    models = [name for name, part in zip(names, nodes, strict=True) for _ in part]
    return mean_between_models(similarity.result(), models)


def choose_shown_voxels(rois: Rois, n_voxels: int, *, most: int) -> NDArray[np.int64]:
    """Choose voxels for the table of single slots: evenly spaced, at most so many of every ROI and of all."""

    def thin(voxels: NDArray[np.int64]) -> NDArray[np.int64]:
        return voxels[np.unique(np.linspace(0, len(voxels) - 1, min(len(voxels), most)).round().astype(np.int64))]

    parts = [thin(np.flatnonzero(mask)) for mask in rois.values() if mask.any()]
    return np.unique(np.concatenate([thin(np.arange(n_voxels)), *parts]))


def score_slot(
    predicted: Float, measured: Float, rois: Rois, *, n_draws: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return R^2 and r of one slot's own prediction: (roi, 3) each, value, low and high; `all` first.

    predicted, measured : (images, voxels)
    rois                : name -> (voxels,), those with voxels
    """
    names = ["all", *rois]
    values = [average_over_rois(score(predicted, measured), rois) for score in (score_r2, score_r)]
    bounds = bootstrap_rois(predicted, measured, rois, n_draws=n_draws, seed=seed)
    rows = [
        [[value[name], interval[name].low, interval[name].high] for name in names]
        for value, interval in zip(values, (bounds.r2, bounds.r), strict=True)
    ]
    r2, r = (np.array(row, dtype=np.float32) for row in rows)
    return r2, r


COLUMNS = {
    "voxels": "voxels",
    "r2": "R2",
    "r2_low": "low",
    "r2_high": "high",
    "r2_sd": "sd of runs",
    "r": "r",
    "r_low": "low",
    "r_high": "high",
    "ridge_r2": "ridge R2",
    "ridge_r": "ridge r",
    "null_r2": "mean's R2",
    "r2_of_ceiling": "R2 of ceiling",
}


def tabulate_scores(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows, ROI by ROI; columns without a figure are left out.

    summary : of the store's record
    """
    rows = [[name, *(scores.get(column) for column in COLUMNS)] for name, scores in summary["scores"].items()]
    used = [i for i in range(len(COLUMNS)) if any(row[i + 1] is not None for row in rows)]
    titles = list(COLUMNS.values())
    return ["ROI", *(titles[i] for i in used)], [[row[0], *(row[i + 1] for i in used)] for row in rows]


def format_scores(summary: Mapping[str, Any], controls: Sequence[str]) -> list[str]:
    """Write the scores as a table, ROI by ROI, with the ridge and the training mean beside them, and two lines more.

    summary : of the store's record
    """
    title = f"held-out images: {summary['test_images']:,}; low and high: 95 % over images drawn anew"
    if summary["synthetic"]:
        title += "\nSYNTHETIC responses, computed and not recorded"
    header, rows = tabulate_scores(summary)
    table = format_table(header, rows, title=title_with_controls(title, controls))
    lines = [table, f"median r over voxels {summary['median_r']:.3f}, by ridge {summary['median_ridge_r']:.3f}"]
    if summary["between_models"] is not None:
        lines.append(f"cosine of one token between models, validation images: {summary['between_models']:.3f}")
    return [*lines, *describe_loss(summary["eq10"])]


def describe_loss(states: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what Eq. 10 and its terms are on the validation images: at the start, as kept, and at its lowest."""
    rows = [
        [
            name,
            state["epoch"],
            *(state[f"validation_{term}"] for term in ("loss", "r2", "brain", "eigen", "zero", "cov")),
        ]
        for name, state in states.items()
    ]
    header = ["Eq. 10", "epoch", "loss", "R2", "L_brain", "L_eigen", "L_zero", "L_cov"]
    return [format_table(header, rows, title="on the validation images:")]
