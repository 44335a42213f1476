from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligncut_cli.brain.algonauts import SUB_AREAS
from aligncut_cli.brain.responses import load_responses
from aligncut_cli.errors import BadInput, UsageError

NUMBERS = [13, 27, 8, 4000, 5]


def write_subject(root: Path, *, left: int = 6, right: int = 4) -> Path:
    """A subject in the release's layout: 5 images, labels that use some sub-areas and leave ROIs empty."""
    subject = root / "subj01"
    images, fmri = subject / "training_split" / "training_images", subject / "training_split" / "training_fmri"
    masks = subject / "roi_masks"
    for folder in (images, fmri, masks):
        folder.mkdir(parents=True)
    for number, nsd in enumerate(NUMBERS, 1):
        Image.new("RGB", (4, 4)).save(images / f"train-{number:04d}_nsd-{nsd:05d}.png")
    np.save(fmri / "lh_training_fmri.npy", np.arange(5 * left, dtype=np.float32).reshape(5, left))
    np.save(fmri / "rh_training_fmri.npy", 1000 + np.arange(5 * right, dtype=np.float32).reshape(5, right))
    np.save(masks / "mapping_prf-visualrois.npy", {0: "Unknown", 1: "V1v", 2: "V1d", 7: "hV4"})  # type: ignore[arg-type]
    np.save(masks / "lh.prf-visualrois_challenge_space.npy", np.array([0, 1, 2, 2, 7, 0]))
    np.save(masks / "rh.prf-visualrois_challenge_space.npy", np.array([1, 0, 0, 7]))
    np.save(masks / "mapping_floc-bodies.npy", {0: "Unknown", 1: "EBA", 2: "FBA-1", 3: "FBA-2", 4: "mTL-bodies"})  # type: ignore[arg-type]
    np.save(masks / "lh.floc-bodies_challenge_space.npy", np.array([2, 0, 0, 0, 3, 4]))
    np.save(masks / "rh.floc-bodies_challenge_space.npy", np.zeros(4, dtype=np.int64))
    np.save(masks / "lh.all-vertices_fsaverage_space.npy", np.ones(20))
    return subject


def test_rows_belong_to_the_numbers_in_the_names_and_hemispheres_lie_side_by_side(tmp_path: Path) -> None:
    responses = load_responses(write_subject(tmp_path))
    assert responses.ids == [f"train-{k:04d}_nsd-{nsd:05d}" for k, nsd in enumerate(NUMBERS, 1)]
    assert responses.shape == (5, 10)
    values = responses.values
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values[2], [12, 13, 14, 15, 16, 17, 1008, 1009, 1010, 1011])
    np.testing.assert_array_equal(responses.read([4, 0]), values[[4, 0]])
    assert responses.record["hemispheres"] == {"lh": [0, 6], "rh": [6, 10]}


def test_the_number_decides_even_where_sorting_would_not(tmp_path: Path) -> None:
    subject = write_subject(tmp_path)
    images = subject / "training_split" / "training_images"
    for file in list(images.iterdir()):
        number, nsd = file.stem.removeprefix("train-").split("_nsd-")
        file.rename(images / f"train-{int(number)}_nsd-{nsd}.png")
    (images / "train-5_nsd-00005.png").rename(images / "train-05_nsd-00005.png")
    assert load_responses(subject).ids == [
        "train-1_nsd-00013", "train-2_nsd-00027", "train-3_nsd-00008", "train-4_nsd-04000", "train-05_nsd-00005",
    ]  # fmt: skip


def test_sub_areas_of_both_hemispheres_merge_and_empty_rois_stay(tmp_path: Path) -> None:
    responses = load_responses(write_subject(tmp_path))
    assert sorted(responses.rois) == sorted(SUB_AREAS)
    assert np.flatnonzero(responses.rois["V1"]).tolist() == [1, 2, 3, 6]
    assert np.flatnonzero(responses.rois["V4"]).tolist() == [4, 9]
    assert np.flatnonzero(responses.rois["FBA"]).tolist() == [0, 4]
    assert not responses.rois["EBA"].any()
    assert not responses.rois["FFA"].any()
    assert responses.record["sub_areas_left_out"] == ["mTL-bodies"]


@pytest.mark.parametrize("where", [".", "..", "training_split"])
def test_the_subject_is_found_from_its_folder_its_parent_and_its_split(tmp_path: Path, where: str) -> None:
    assert load_responses((write_subject(tmp_path) / where).resolve()).shape == (5, 10)


def test_several_subjects_must_be_chosen_from(tmp_path: Path) -> None:
    write_subject(tmp_path)
    (tmp_path / "subj02" / "training_split" / "training_fmri").mkdir(parents=True)
    with pytest.raises(BadInput, match="subj01, subj02"):
        load_responses(tmp_path)


def test_without_masks_there_are_no_rois(tmp_path: Path) -> None:
    subject = write_subject(tmp_path)
    for file in (subject / "roi_masks").iterdir():
        file.unlink()
    assert load_responses(subject).rois == {}
    (subject / "roi_masks").rmdir()
    assert load_responses(subject).rois == {}


def test_a_missing_image_a_gap_and_a_double_claim_are_refused(tmp_path: Path) -> None:
    images = write_subject(tmp_path) / "training_split" / "training_images"
    (images / "train-0002_nsd-00027.png").unlink()
    with pytest.raises(BadInput, match="4 training images, but the fMRI has 5 rows"):
        load_responses(tmp_path)
    Image.new("RGB", (4, 4)).save(images / "train-0006_nsd-00027.png")
    with pytest.raises(BadInput, match="train-0002"):
        load_responses(tmp_path)
    Image.new("RGB", (4, 4)).save(images / "train-0003_nsd-00099.png")
    with pytest.raises(BadInput, match="claim row 3"):
        load_responses(tmp_path)


def test_hemispheres_of_different_subjects_are_refused(tmp_path: Path) -> None:
    fmri = write_subject(tmp_path) / "training_split" / "training_fmri"
    np.save(fmri / "rh_training_fmri.npy", np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(BadInput, match="left hemisphere has 5 images, the right 4"):
        load_responses(tmp_path)


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    masks = write_subject(tmp_path) / "roi_masks"
    np.save(masks / "lh.prf-visualrois_challenge_space.npy", np.zeros(5))
    with pytest.raises(BadInput, match=r"labels 5 voxels, but this hemisphere's fMRI has 6"):
        load_responses(tmp_path)
    np.save(masks / "lh.prf-visualrois_challenge_space.npy", np.array([0, 1, 2, 9, 7, 0]))
    with pytest.raises(BadInput, match="label 9"):
        load_responses(tmp_path)
    (masks / "lh.prf-visualrois_challenge_space.npy").unlink()
    with pytest.raises(BadInput, match=r"lh\.prf-visualrois"):
        load_responses(tmp_path)


def test_image_ids_make_no_sense_for_a_subject(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_responses(write_subject(tmp_path), image_ids=tmp_path / "ids.csv")


def test_given_rois_add_to_the_subjects_own(tmp_path: Path) -> None:
    subject = write_subject(tmp_path)
    (tmp_path / "rois.json").write_text('{"mine": [0, 9], "V1": [5]}')
    rois = load_responses(subject, rois=tmp_path / "rois.json").rois
    assert np.flatnonzero(rois["mine"]).tolist() == [0, 9]
    assert np.flatnonzero(rois["V1"]).tolist() == [5]
    assert rois["V4"].any()
