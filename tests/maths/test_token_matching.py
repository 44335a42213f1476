from __future__ import annotations

import numpy as np
import pytest
import torch

from aligncut_cli.maths.grid import Grid
from aligncut_cli.maths.token_matching import average_matched, choose_reference_grid, match_grid


@pytest.mark.parametrize(
    ("grid", "reference"),
    [((14, 14), (16, 16)), ((16, 16), (14, 14)), ((7, 5), (14, 3)), ((1, 1), (4, 4)), ((37, 37), (14, 14))],
)
def test_it_is_torchs_interpolation_between_patch_centres(grid: Grid, reference: Grid) -> None:
    tokens = np.random.default_rng(0).standard_normal((2, grid[0] * grid[1], 3)).astype(np.float32)
    match = match_grid(grid, reference)
    assert match.index.shape == match.weight.shape == (reference[0] * reference[1], 4)
    np.testing.assert_allclose(match.weight.sum(axis=1), 1, rtol=1e-6)
    assert (match.weight >= 0).all()
    assert not match.is_identity
    picture = torch.from_numpy(tokens).transpose(1, 2).reshape(2, 3, *grid)
    expected = torch.nn.functional.interpolate(picture, size=reference, mode="bilinear", align_corners=False)
    found = average_matched(tokens[:, match.index], match.weight)
    np.testing.assert_allclose(found, expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_patches_that_lie_on_each_other_are_taken_as_they_are() -> None:
    match = match_grid((14, 14), (14, 14))
    assert match.is_identity
    assert np.array_equal(match.nearest, np.arange(196))
    tokens = np.random.default_rng(0).standard_normal((196, 5)).astype(np.float16)
    assert np.array_equal(average_matched(tokens[match.index], match.weight), tokens.astype(np.float32))


def test_a_third_of_the_patches_have_their_centres_on_those_of_a_finer_grid() -> None:
    match = match_grid((9, 9), (3, 3))
    assert np.array_equal(match.nearest, [10, 13, 16, 37, 40, 43, 64, 67, 70])
    assert not match.is_identity


def test_a_linear_function_of_place_stays_itself_inside() -> None:
    def ramp(grid: Grid) -> np.ndarray:
        y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in grid), indexing="ij")
        return np.stack([y.ravel(), x.ravel()], axis=1)

    match = match_grid((8, 12), (4, 6))
    np.testing.assert_allclose(average_matched(ramp((8, 12))[match.index], match.weight), ramp((4, 6)), atol=1e-6)


def test_the_reference_is_the_grid_of_most_slots_and_of_those_the_coarsest() -> None:
    assert choose_reference_grid([(14, 14), (16, 16), (14, 14)]) == (14, 14)
    assert choose_reference_grid([(16, 16), (14, 14)]) == (14, 14)
    assert choose_reference_grid([(37, 37), (37, 37), (14, 14)]) == (37, 37)
