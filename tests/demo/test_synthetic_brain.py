from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aligncut_cli.demo import synthetic_brain as brain
from aligncut_cli.demo.scenes import BACKGROUNDS, CATEGORIES, SIZE, Scene, make_scene
from aligncut_cli.demo.synthetic_brain import Responses, simulate_responses, write_responses
from aligncut_cli.errors import BadInput


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(21, index) for index in range(160)]


@pytest.fixture(scope="module")
def responses(scenes: list[Scene]) -> Responses:
    return simulate_responses(scenes, seed=0)


def share_of(scenes: list[Scene], category: str) -> np.ndarray:
    return np.array([(scene.mask == CATEGORIES.index(category) + 1).mean() for scene in scenes])


def test_twelve_rois_divide_the_voxels_among_them(responses: Responses) -> None:
    assert list(responses.rois) == ["V1", "V2", "V3", "V4", "EBA", "FBA", "OFA", "FFA", "OPA", "PPA", "OWFA", "VWFA"]
    together = np.concatenate([np.array(index) for index in responses.rois.values()])
    np.testing.assert_array_equal(np.sort(together), np.arange(600))
    assert responses.values.shape == (160, 600)
    assert responses.values.dtype == np.float32


def test_same_seed_same_answer_and_another_seed_another_brain(scenes: list[Scene], responses: Responses) -> None:
    again, other = simulate_responses(scenes, seed=0), simulate_responses(scenes, seed=1)
    np.testing.assert_array_equal(again.values, responses.values)
    assert np.abs(other.signal - responses.signal).mean() > 0.1


def test_true_signal_explains_what_the_noise_ceiling_says(responses: Responses) -> None:
    predicted = np.sqrt(responses.ceiling) * responses.signal
    variance = responses.values.var(axis=0)
    explained = 1 - ((responses.values - predicted) ** 2).mean(axis=0) / variance
    assert np.abs(explained - responses.ceiling).max() < 0.25  # 160 images: sampling error per voxel
    assert abs((explained - responses.ceiling).mean()) < 0.01
    assert responses.ceiling.min() >= 0.35
    assert responses.ceiling.max() <= 0.75
    np.testing.assert_allclose(responses.signal.std(axis=0), 1, atol=1e-4)


def test_noise_is_independent_across_voxels_and_images(responses: Responses) -> None:
    noise = responses.values - np.sqrt(responses.ceiling) * responses.signal
    noise = noise / np.sqrt(1 - responses.ceiling)
    across = np.corrcoef(noise.T)[np.triu_indices(600, 1)]
    assert abs(across.mean()) < 0.01
    assert across.std() == pytest.approx(1 / np.sqrt(160), rel=0.1)
    assert noise.std() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    ("roi", "category"), [("FFA", "face"), ("OFA", "face"), ("FBA", "person"), ("OWFA", "sign"), ("VWFA", "sign")]
)
def test_object_areas_follow_the_size_of_their_category(
    scenes: list[Scene], responses: Responses, roi: str, category: str
) -> None:
    mean = responses.signal[:, responses.rois[roi]].mean(axis=1)
    correlations = {name: np.corrcoef(mean, np.sqrt(share_of(scenes, name)))[0, 1] for name in CATEGORIES}
    assert max(correlations, key=lambda name: correlations[name]) == category
    assert correlations[category] > 0.75
    assert sorted(correlations.values())[-2] < 0.5


def test_place_areas_tell_backgrounds_apart_and_object_areas_do_not(scenes: list[Scene], responses: Responses) -> None:
    kind = np.array([BACKGROUNDS.index(scene.background) for scene in scenes])

    def explained_by_kind(roi: str) -> float:
        values = responses.signal[:, responses.rois[roi]]
        means = np.stack([values[kind == k].mean(axis=0) for k in range(len(BACKGROUNDS))])
        return float(1 - ((values - means[kind]) ** 2).mean() / values.var(axis=0).mean())

    assert explained_by_kind("PPA") > 0.9
    assert explained_by_kind("OPA") > 0.9
    assert explained_by_kind("FFA") < 0.15


def grating(angle: float, wavelength: float) -> np.ndarray:
    """A picture whose brightness varies along `angle` (radians from the x axis)."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    wave = np.cos(2 * np.pi * (columns * np.cos(angle) + rows * np.sin(angle)) / wavelength)
    return np.repeat(np.round(127.5 + 100 * wave).astype(np.uint8)[..., None], 3, axis=2)


def test_each_oriented_channel_answers_most_to_its_own_grating() -> None:
    filters = brain._make_filters()
    for scale, wavelength in enumerate(brain.WAVELENGTHS):
        for k in range(brain.ORIENTATIONS):
            picture = grating(k * np.pi / brain.ORIENTATIONS, wavelength)
            energy = brain.measure_oriented_energy(picture, filters).mean(axis=1)
            assert energy.argmax() == scale * brain.ORIENTATIONS + k


def test_oriented_energy_equals_a_direct_sum_over_the_picture() -> None:
    filters = brain._make_filters()
    picture = make_scene(4, 0).image
    fast = brain.measure_oriented_energy(picture, filters)
    grey = picture.astype(np.float64).mean(axis=2) / 255
    grey -= grey.mean()
    for channel in (1, 9, 15):
        kernel = np.fft.ifft2(filters[channel].astype(np.complex128))
        for block_row, block_column in ((3, 5), (20, 11)):
            total = 0.0
            for row in range(4 * block_row, 4 * block_row + 4):
                for column in range(4 * block_column, 4 * block_column + 4):
                    turned = np.roll(kernel[::-1, ::-1], (row + 1, column + 1), axis=(0, 1))
                    total += abs((grey * turned).sum()) / 16
            assert fast[channel, block_row * 28 + block_column] == pytest.approx(np.sqrt(total), rel=1e-3)


def test_early_voxels_are_local_and_see_more_from_v1_to_v4() -> None:
    tuning = brain._draw_tuning(np.random.default_rng(0))
    fields = np.concatenate([tuning.early_field, tuning.v4_field])
    np.testing.assert_allclose(fields.sum(axis=1), 1)
    seen = 1 / (fields**2).sum(axis=1)  # how many of the 784 places a field spreads over
    v1, v2, v3, v4 = np.split(seen, np.cumsum([80, 70, 60]))
    assert np.median(v1) < np.median(v2) < np.median(v3) < np.median(v4)
    assert np.median(v1) < 0.1 * 784


def test_v4_sees_colour_and_v1_does_not() -> None:
    scene = make_scene(21, 3)
    dull = Scene(np.repeat(scene.image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8), scene.mask, (), "room")
    swapped = Scene(scene.image[..., ::-1].copy(), scene.mask, (), "room")
    tuning, filters = brain._draw_tuning(np.random.default_rng(0)), brain._make_filters()
    grey, normal, mirrored = (brain._respond(s, tuning, filters) for s in (dull, scene, swapped))
    np.testing.assert_allclose(mirrored[:210], normal[:210], rtol=1e-4)
    np.testing.assert_allclose(grey[:210], normal[:210], rtol=0.1)  # rounding to whole grey levels
    assert np.abs(mirrored[210:270] - normal[210:270]).max() > 0.05


def test_a_scene_keeps_its_noise_when_more_scenes_follow(scenes: list[Scene], responses: Responses) -> None:
    fewer = simulate_responses(scenes[:40], seed=0)
    noise = [r.values[:40] - np.sqrt(r.ceiling) * r.signal[:40] for r in (fewer, responses)]
    usable = fewer.ceiling > 0
    np.testing.assert_allclose(noise[0][:, usable], noise[1][:, usable], atol=1e-5)


def test_written_files_hold_the_responses_and_say_that_they_are_synthetic(tmp_path: Path, scenes: list[Scene]) -> None:
    calls: list[tuple[int, int]] = []
    written = write_responses(tmp_path / "brain", scenes[:12], seed=3, progress=lambda k, n: calls.append((k, n)))
    np.testing.assert_array_equal(np.load(tmp_path / "brain/responses.npy"), written.values)
    np.testing.assert_array_equal(np.load(tmp_path / "brain/noise-ceiling.npy"), written.ceiling)
    assert json.loads((tmp_path / "brain/rois.json").read_text()) == written.rois
    facts = json.loads((tmp_path / "brain/synthetic.json").read_text())
    assert facts["synthetic"] is True
    assert "not recordings" in facts["note"]
    assert (facts["seed"], facts["images"], facts["voxels"]) == (3, 12, 600)
    assert calls[-1] == (12, 12)


def test_one_scene_is_too_few() -> None:
    with pytest.raises(BadInput, match="two or more"):
        simulate_responses([make_scene(0, 0)], seed=0)
