from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aligncut_cli.maths.consensus import ConsensusSettings, fit_consensus
from aligncut_cli.maths.consensus_scores import ConsensusScores, score_consensus
from aligncut_cli.maths.consensus_targets import average_others, sum_mapped, sum_present_weights
from aligncut_cli.maths.sampled_tokens import SampledTokens, SlotRows
from aligncut_cli.maths.slot_ridge import RowReader
from tests.planted_slots import CPU, READER, decompose, lay_out, name_keys, plant_slots, take_images

Array = NDArray[np.float64]
IMAGES, POSITIONS = lay_out(120, 6)
WEIGHTS = np.array([0.5, 0.2, 0.3])


def make_tokens(chosen: range) -> SampledTokens:
    """Three slots; the last lacks the class token."""
    latent = np.random.default_rng(0).standard_normal((len(IMAGES), 3))
    tokens = take_images(plant_slots(latent, (6, 9, 5), seed=1, noise=0.3), IMAGES, POSITIONS, chosen)
    places = np.flatnonzero(tokens.positions > 0)
    last = SlotRows(tokens.slots[2].values[places], places)
    return SampledTokens((*tokens.slots[:2], last), tokens.images, tokens.positions)


def make_maps(k: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(width, k, generator=generator, dtype=torch.float64) for width in (6, 9, 5)]


MEANS = [torch.full((width,), 0.1, dtype=torch.float64) for width in (6, 9, 5)]


def score(tokens: SampledTokens, *, draws: int = 50, reader: RowReader = READER) -> ConsensusScores:
    return score_consensus(
        tokens,
        make_maps(4, 0),
        make_maps(4, 1),
        MEANS,
        WEIGHTS,
        reader=reader,
        draws=draws,
        confidence=0.9,
        seed=0,
    )


def score_naively(tokens: SampledTokens, rows: list[int]) -> tuple[Array, Array, Array]:
    """Shared variance per axis, R2 per slot and R2 per slot and axis of these rows, token by token."""
    have = [range(len(tokens)) if slot.places is None else list(slot.places) for slot in tokens.slots]
    values = [dict(zip(places, slot.values, strict=True)) for places, slot in zip(have, tokens.slots, strict=True)]
    maps, predictors = ([each.numpy() for each in make_maps(4, seed)] for seed in (0, 1))
    mean, total = [], []
    own: list[list[Array]] = [[], [], []]
    targets: list[list[Array]] = [[], [], []]
    predicted: list[list[Array]] = [[], [], []]
    for row in rows:
        present = [i for i in range(3) if row in values[i]]
        mapped = {i: (values[i][row] - 0.1) @ maps[i] for i in present}
        total.append(sum(WEIGHTS[i] for i in present))
        mean.append(sum(WEIGHTS[i] * mapped[i] for i in present) / total[-1])
        for i in present:
            others = [j for j in present if j != i]
            own[i].append(mapped[i])
            targets[i].append(sum(WEIGHTS[j] * mapped[j] for j in others) / sum(WEIGHTS[j] for j in others))
            predicted[i].append((values[i][row] - 0.1) @ predictors[i])
    centre = np.average(mean, axis=0, weights=total)
    between = np.array(total) @ np.square(mean - centre)
    within = sum(WEIGHTS[i] * len(own[i]) * np.var(own[i], axis=0) for i in range(3))
    missed = np.array([np.square(np.subtract(targets[i], predicted[i])).sum(axis=0) for i in range(3)])
    varied = np.array([len(targets[i]) * np.var(targets[i], axis=0) for i in range(3)])
    return between / within, 1 - missed.sum(axis=1) / varied.sum(axis=1), 1 - missed / varied


def test_scores_are_their_definitions_token_by_token() -> None:
    tokens = make_tokens(range(20, 40))
    found = score(tokens)
    shared, r2, axis_r2 = score_naively(tokens, list(range(len(tokens))))
    np.testing.assert_allclose(found.shared.value, shared, rtol=1e-9)
    np.testing.assert_allclose(found.r2.value, r2, rtol=1e-9)
    np.testing.assert_allclose(found.axis_r2, axis_r2, rtol=1e-9)
    np.testing.assert_allclose(found.mean_r2.value, [r2.mean()], rtol=1e-9)
    np.testing.assert_allclose(found.floor, 0.38)


def test_intervals_are_those_of_scores_on_images_drawn_again() -> None:
    tokens = make_tokens(range(20, 40))
    found = score(tokens, draws=30)
    counts = np.random.default_rng([0, 7]).multinomial(20, np.full(20, 1 / 20), size=30)
    draws = []
    for drawn in counts:
        rows = [row for k, times in enumerate(drawn) for _ in range(times) for row in range(k * 6, k * 6 + 6)]
        draws.append(score_naively(tokens, rows)[:2])
    for interval, values in ((found.shared, [d[0] for d in draws]), (found.r2, [d[1] for d in draws])):
        moved = interval.value - np.median(values, axis=0)
        np.testing.assert_allclose(interval.low, np.quantile(values, 0.05, axis=0) + moved, rtol=1e-8)
        np.testing.assert_allclose(interval.high, np.quantile(values, 0.95, axis=0) + moved, rtol=1e-8)


def test_blocks_of_rows_and_the_slots_order_change_nothing() -> None:
    tokens = make_tokens(range(20, 40))
    whole, parts = score(tokens), score(tokens, reader=RowReader(CPU, 11))
    np.testing.assert_allclose(parts.shared.low, whole.shared.low, rtol=1e-10)
    np.testing.assert_allclose(parts.r2.high, whole.r2.high, rtol=1e-10)


def test_a_real_consensus_is_shared_on_new_images_and_shuffled_images_share_nothing() -> None:
    train, validation, test = (make_tokens(part) for part in (range(60), range(60, 90), range(90, 120)))
    settings = ConsensusSettings(n_axes=3, rounds=2, tolerance=1e-6, most_products=60, seed=0)
    scores = {}
    for name in ("real", "shuffled"):
        if name == "shuffled":
            train, validation, test = (
                part.shuffle_images(seed=0, keys=name_keys(3)) for part in (train, validation, test)
            )
        slots = decompose(train)
        fitted = fit_consensus(slots, len(train), validation, settings)
        assert fitted.supported == (name == "real")
        scores[name] = score_consensus(
            test,
            fitted.maps,
            fitted.predictors,
            [slot.mean for slot in slots],
            fitted.weights,
            reader=READER,
            draws=100,
            confidence=0.95,
            seed=0,
        )
    real, shuffled = scores["real"], scores["shuffled"]
    assert (real.shared.low > 0.8).all()
    assert (real.r2.low > 0.6).all()
    assert (real.r2.low < real.r2.value).all()
    assert (real.r2.value < real.r2.high).all()
    assert (shuffled.mean_shared.low <= shuffled.floor * 1.1).all()
    assert (shuffled.r2.value < 0.05).all()


def test_others_are_averaged_where_there_are_any() -> None:
    tokens = make_tokens(range(5))
    maps = make_maps(4, 0)
    weights = np.array([0, 0, 1.0])
    total = sum_mapped(tokens, maps, MEANS, weights, READER)
    present = sum_present_weights(tokens.slots, weights, len(tokens), device=CPU)
    patches = torch.from_numpy(tokens.positions > 0)
    assert torch.equal(present, patches.double())
    average, known = average_others(total, present, tokens.slots[0], maps[0], MEANS[0], 0.0, READER)
    assert torch.equal(known, patches)
    expected = (tokens.slots[2].values - 0.1) @ maps[2].numpy()
    np.testing.assert_allclose(average[patches], expected, rtol=1e-10)
    assert not average[~patches].any()
    alone, nobody = average_others(total, present, tokens.slots[2], maps[2], MEANS[2], 1.0, READER)
    assert not nobody.any()
    assert not alone.any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_slots_that_say_nothing_have_no_score_rather_than_a_wrong_one(value: float) -> None:
    tokens = SampledTokens(tuple(SlotRows(np.full((len(IMAGES), 2), value)) for _ in range(2)), IMAGES, POSITIONS)
    maps = [torch.ones(2, 3, dtype=torch.float64)] * 2
    means = [torch.full((2,), value, dtype=torch.float64)] * 2
    found = score_consensus(
        tokens, maps, maps, means, np.array([0.5, 0.5]), reader=READER, draws=0, confidence=0.9, seed=0
    )
    assert not found.shared.value.any()
    assert not found.r2.value.any()
