"""The consensus of the slots: axes that all of them predict, without a brain (MAXVAR; Kettenring 1971)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.consensus_axes import (
    SharedAxes,
    SharedProjector,
    estimate_search_memory,
    find_shared_axes,
)
from aligncut_cli.maths.consensus_penalties import choose_penalties
from aligncut_cli.maths.consensus_targets import average_others, sum_present_weights
from aligncut_cli.maths.consensus_weights import estimate_overlap, estimate_overlap_memory, weigh_slots
from aligncut_cli.maths.sampled_tokens import SampledTokens
from aligncut_cli.maths.slot_ridge import SlotRidge

Array = NDArray[np.float64]

# Penalty that the first axes are found with, before any can be chosen.
_FIRST_PENALTY = 1e-3
# Penalties and weights rest on the leading axes, which hold most of what is shared, found this roughly.
_TUNED_AXES, _TUNING_TOLERANCE, _TUNING_PRODUCTS = 32, 0.03, 6


@dataclass(frozen=True, kw_only=True)
class ConsensusSettings:
    """How the consensus is found.

    n_axes        : K
    rounds        : times that penalties and weights are chosen, each on the axes found with the last, at most
    tolerance     : of the axes' residuals, see `find_shared_axes`
    most_products : of one search for axes
    seed          : of start vectors and probes
    """

    n_axes: int
    rounds: int
    tolerance: float
    most_products: int
    seed: int


@dataclass(frozen=True)
class Consensus:
    """Shared axes of the slots, most shared first.

    axes          : eigenvalues (1 = every slot has the axis) and the axes over the training tokens
    weights       : (slots,) of the slots in the sum of projectors; sum to 1
    penalties     : (slots,) of each slot's ridge, relative to its largest eigenvalue; infinite = takes no part
    validation_r2 : (slots,) of each slot's prediction of the others' consensus, over the leading axes together;
                    0 where it is not better than the mean
    supported     : False if fewer than two slots predict the others on the validation images better than the mean
                    does. All slots are then weighted as if they did, and the axes mean nothing
    maps          : per slot (D_i, K) float64, the ridge from its centred tokens to the axes; zeros where the penalty
                    is infinite
    predictors    : per slot (D_i, K) float64, the ridge from its centred tokens to the consensus of the others
    """

    axes: SharedAxes
    weights: Array
    penalties: Array
    validation_r2: Array
    supported: bool
    maps: tuple[Tensor, ...]
    predictors: tuple[Tensor, ...]


def fit_consensus(
    slots: Sequence[SlotRidge],
    n_tokens: int,
    validation: SampledTokens,
    settings: ConsensusSettings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Consensus:
    """Choose penalties and weights on the validation tokens, then find the axes and every slot's map to them.

    slots      : their training tokens, of at least two slots
    n_tokens   : n, sampled training tokens
    validation : tokens of other images in the same slots
    progress   : called with (passes over the tokens made, passes expected), the second growing where more are needed
    """
    _require_enough(slots, n_tokens, settings)
    search = _Search(slots, n_tokens, settings, progress)
    first, equal = np.full(len(slots), _FIRST_PENALTY), np.ones(len(slots))
    penalties, reliability, weights = first, equal, equal / len(slots)
    supported = True
    for _ in range(settings.rounds):
        axes = search.find_axes(weights, penalties, roughly=True)
        maps, correlated = search.map_slots(weights, penalties, axes)
        chosen, scores = choose_penalties(slots, weights, maps, correlated, validation)
        search.count()
        supported = int(np.isfinite(chosen).sum()) > 1
        settled = _are_close(chosen, penalties)
        penalties, reliability = (chosen, scores) if supported else (first, equal)
        weights = search.weigh(penalties, reliability)
        if settled or not supported:
            break
    axes = search.find_axes(weights, penalties, roughly=False)
    maps, correlated = search.map_slots(weights, penalties, axes)
    predictors = [slot.solve(c, float(penalty)) for slot, c, penalty in zip(slots, correlated, penalties, strict=True)]
    search.finish()
    scores = reliability if supported else np.zeros(len(slots))
    return Consensus(axes, weights, penalties, scores, supported, tuple(maps), tuple(predictors))


def estimate_fit_memory(n_tokens: int, widths: Sequence[int], *, n_axes: int, rows_per_block: int) -> int:
    """Say how many bytes taking the slots apart and `fit_consensus` need beside the rows as they are stored.

    widths : (slots,) D_i
    """
    held = sum(8 * width * (width + 2 * n_axes) for width in widths)
    working = 10 * 8 * max(widths) ** 2 + 4 * rows_per_block * (2 * max(widths) + 16 * _TUNED_AXES)
    search = estimate_search_memory(n_tokens, n_axes=n_axes)
    passes = max(estimate_overlap_memory(n_tokens, len(widths)), 6 * 8 * n_tokens * n_axes)
    return held + working + max(search, passes)


def _require_enough(slots: Sequence[SlotRidge], n_tokens: int, settings: ConsensusSettings) -> None:
    if len(slots) < 2:
        raise BadInput("one layer of one model has nothing to agree with", do="Extract several layers or models.")
    most = min(sum(slot.rows.width for slot in slots), n_tokens - 1)
    if settings.n_axes > most:
        raise BadInput(
            f"{settings.n_axes} shared axes asked for, where the slots have {most} at most",
            why=f"{n_tokens} tokens, {sum(slot.rows.width for slot in slots)} channels of all slots together",
            do=f"Ask for at most --universal-dim {most}, or use more images.",
        )


def _are_close(penalties: Array, others: Array) -> bool:
    """Whether the same slots take part, with penalties that are neighbours in `ridge.PENALTIES` at most."""
    used = np.isfinite(penalties)
    if not np.array_equal(used, np.isfinite(others)):
        return False
    return bool((np.abs(np.log10(penalties[used] / others[used])) < 0.6).all())


class _Search:
    """The steps that pass over all slots' training tokens, counted."""

    def __init__(
        self,
        slots: Sequence[SlotRidge],
        n_tokens: int,
        settings: ConsensusSettings,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.slots, self.n_tokens, self.settings, self.progress = slots, n_tokens, settings, progress
        self.passed, self.expected = 0, settings.rounds * 8 + 16

    def count(self) -> None:
        self.passed += 1
        self.expected = max(self.expected, self.passed + 1)
        if self.progress is not None:
            self.progress(self.passed, self.expected)

    def finish(self) -> None:
        if self.progress is not None:
            self.progress(self.passed, self.passed)

    def weigh(self, penalties: Array, reliability: Array) -> Array:
        """Weights in proportion to what a slot predicts, shared among those with the same projector."""
        similarity = estimate_overlap(self.slots, penalties, self.n_tokens, seed=self.settings.seed)
        self.count()
        return weigh_slots(similarity, reliability)

    def find_axes(self, weights: Array, penalties: Array, *, roughly: bool) -> SharedAxes:
        """All axes as exactly as is asked for, or roughly a few to choose penalties by."""
        settings = self.settings
        return find_shared_axes(
            SharedProjector(self.slots, weights, penalties, self.n_tokens),
            n_axes=min(settings.n_axes, _TUNED_AXES) if roughly else settings.n_axes,
            tolerance=max(settings.tolerance, _TUNING_TOLERANCE) if roughly else settings.tolerance,
            most_products=min(settings.most_products, _TUNING_PRODUCTS) if roughly else settings.most_products,
            seed=settings.seed,
            progress=self.count,
        )

    def map_slots(self, weights: Array, penalties: Array, axes: SharedAxes) -> tuple[list[Tensor], list[Tensor]]:
        """Per slot the map to the axes (D, K), and the products V'X'T_i with the consensus of the others (D, K)."""
        slots, total = self.slots, torch.zeros_like(axes.axes)
        maps: list[Tensor] = []
        for slot, weight, penalty in zip(slots, weights, penalties, strict=True):
            maps.append(slot.solve(slot.correlate(axes.axes), float(penalty)))
            slot.add_mapped_(total, maps[-1] * float(weight))
        self.count()
        present = sum_present_weights([slot.rows for slot in slots], weights, self.n_tokens, device=total.device)
        correlated = []
        for slot, own, weight in zip(slots, maps, weights, strict=True):
            target, _ = average_others(total, present, slot.rows, own, slot.mean, float(weight), slot.reader)
            correlated.append(slot.correlate(target))
        self.count()
        return maps, correlated
