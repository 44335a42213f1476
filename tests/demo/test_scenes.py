from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligncut_cli.demo import scenes as drawing
from aligncut_cli.demo.scenes import BACKGROUNDS, CATEGORIES, SIZE, TRAINING_SEED, Scene, make_scene, write_scenes
from aligncut_cli.errors import UsageError


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(11, index) for index in range(160)]


def test_a_scene_does_not_depend_on_which_others_are_drawn(scenes: list[Scene]) -> None:
    alone = make_scene(11, 7)
    np.testing.assert_array_equal(alone.image, scenes[7].image)
    np.testing.assert_array_equal(alone.mask, scenes[7].mask)
    assert alone.objects == scenes[7].objects


def test_another_visit_finds_the_same_kinds_of_things_in_the_same_places_and_other_ones_of_them() -> None:
    """Positions, sizes and kinds stay; colours, and so nearly every pixel, do not."""
    for index in range(12):
        first, second = make_scene(11, index), make_scene(11, index, visit=1)
        assert second.background == first.background
        for old, new in zip(first.objects, second.objects, strict=True):
            kept = replace(new, hue=old.hue, texture=old.texture, area=old.area)
            assert kept == old
            assert new.hue != old.hue
        drawn = [scene.mask > 0 for scene in (first, second)]
        assert (drawn[0] & drawn[1]).sum() > 0.5 * (drawn[0] | drawn[1]).sum()
        assert (first.image != second.image).mean() > 0.9
    np.testing.assert_array_equal(make_scene(11, 3, visit=1).image, make_scene(11, 3, visit=1).image)
    assert not np.array_equal(make_scene(11, 3, visit=1).image, make_scene(11, 3, visit=2).image)


def test_all_scenes_of_two_seeds_differ(scenes: list[Scene]) -> None:
    pictures = {hashlib.sha256(scene.image.tobytes()).digest() for scene in scenes}
    pictures |= {hashlib.sha256(make_scene(TRAINING_SEED, index).image.tobytes()).digest() for index in range(20)}
    assert len(pictures) == len(scenes) + 20


def test_mask_holds_the_categories_that_were_drawn_and_their_seen_areas(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == (SIZE, SIZE, 3)
        assert scene.image.dtype == scene.mask.dtype == np.uint8
        values = set(np.unique(scene.mask))
        drawn = {CATEGORIES.index(item.category) + 1 for item in scene.objects}
        assert values <= drawn | {0}
        assert 1 <= len(scene.objects) <= 3
        for item in scene.objects:
            area = (scene.mask == CATEGORIES.index(item.category) + 1).mean()
            assert item.area == pytest.approx(area)
            assert 0.01 < area < 0.6


def test_every_background_and_category_occurs_in_many_sizes_places_and_hues(scenes: list[Scene]) -> None:
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    objects = [item for scene in scenes for item in scene.objects]
    for category in CATEGORIES:
        own = [item for item in objects if item.category == category]
        assert len(own) >= 12
        assert max(item.size for item in own) > 1.4 * min(item.size for item in own)
        assert np.ptp([item.x for item in own]) > 0.4
        assert np.ptp([item.y for item in own]) > 0.4
        assert np.ptp([item.hue for item in own]) > 0.6


def test_mask_lies_where_the_object_changes_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_draw_light", lambda rng, n: np.ones((n, n, 3), np.float32))
    for index in range(6):
        whole = make_scene(3, index)
        with monkeypatch.context() as patch:
            patch.setattr(drawing, "_draw_object", lambda canvas, plan, rng: np.zeros(canvas.shape[:2], np.float32))
            empty = make_scene(3, index)
        ratio = (whole.image + 8.0) / (empty.image + 8.0)
        changed = np.abs(np.log(ratio / np.median(ratio, axis=(0, 1)))).max(axis=2) > 0.08
        inside = whole.mask > 0
        assert changed[inside].mean() > 0.8
        assert changed[~inside].mean() < 0.25  # shadows
        assert not empty.mask.any()


def test_mean_colour_hardly_tells_the_category(scenes: list[Scene]) -> None:
    colours, kinds = [], []
    for scene in scenes:
        for value in np.unique(scene.mask[scene.mask > 0]):
            colours.append(scene.image[scene.mask == value].mean(axis=0))
            kinds.append(value)
    data, truth = np.array(colours), np.array(kinds)
    distance = np.linalg.norm(data[:, None] - data[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    accuracy = (truth[distance.argmin(axis=1)] == truth).mean()  # leave-one-out nearest neighbour; chance is 0.125
    assert accuracy < 0.4


def test_written_scenes_are_read_back_as_they_were_drawn(tmp_path: Path) -> None:
    written = write_scenes(tmp_path, 3, 5)
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [f"scene-{k:04d}.png" for k in range(3)]
    for k, scene in enumerate(written):
        assert scene.background == make_scene(5, k).background
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"images/scene-{k:04d}.png")), scene.image)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"masks/scene-{k:04d}.png")), scene.mask)
    assert (tmp_path / "classes.txt").read_text().split() == ["background", *CATEGORIES]


def test_the_second_object_hides_the_first() -> None:
    for index in range(200):
        scene = make_scene(2, index)
        if len(scene.objects) == 2:
            alone = replace(scene.objects[-1], area=0.0)
            canvas = np.zeros((SIZE * 2, SIZE * 2, 3), np.float32)
            drawing._draw_object(canvas, alone, np.random.default_rng(0))
            value = CATEGORIES.index(alone.category) + 1
            row, column = int(alone.y * SIZE), int(alone.x * SIZE)
            if alone.category in ("ball", "box", "face", "flower"):  # solid at the centre
                assert scene.mask[row, column] == value
                return
    pytest.fail("no such scene among 200")


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="-1"):
        make_scene(-1, 0)
    with pytest.raises(UsageError, match="at least one"):
        write_scenes(tmp_path, 0, 1)
