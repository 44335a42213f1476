from __future__ import annotations

import numpy as np
import pytest

from aligncut_cli.brain.join import join_images
from aligncut_cli.errors import BadInput


def test_images_and_responses_meet_by_name_in_any_order() -> None:
    joined = join_images(["c", "a"], ["a", "b", "c"], n_responses=3)
    assert joined.feature_rows.tolist() == [0, 1]
    assert joined.response_rows.tolist() == [2, 0]
    assert joined.responses_without_image == 1


def test_folders_are_ignored_only_where_that_is_unambiguous() -> None:
    joined = join_images(["x/a", "y/b"], ["b", "a"], n_responses=2)
    assert joined.response_rows.tolist() == [1, 0]
    joined = join_images(["a", "b"], ["stimuli/b", "stimuli/a"], n_responses=2)
    assert joined.response_rows.tolist() == [1, 0]
    exact = join_images(["x/a", "y/a"], ["y/a", "x/a"], n_responses=2)
    assert exact.response_rows.tolist() == [1, 0]
    with pytest.raises(BadInput, match="called a"):
        join_images(["x/a", "y/a"], ["a"], n_responses=1)
    with pytest.raises(BadInput, match="called a"):
        join_images(["a", "b"], ["x/a", "y/a", "x/b"], n_responses=3)


def test_images_without_a_response_are_named() -> None:
    with pytest.raises(BadInput, match=r"2 of 3 images have no response: q, r"):
        join_images(["a", "q", "r"], ["a", "b"], n_responses=2)
    with pytest.raises(BadInput, match="No image"):
        join_images(["q"], ["a"], n_responses=1)


def test_without_names_row_k_is_the_kth_image_by_name() -> None:
    joined = join_images(["b", "c", "a"], None, n_responses=3)
    responses = np.array(["of a", "of b", "of c"])
    assert responses[joined.response_rows].tolist() == ["of b", "of c", "of a"]


def test_without_names_counts_must_agree_and_numbers_must_be_padded() -> None:
    with pytest.raises(BadInput, match="2 images but 3 rows"):
        join_images(["a", "b"], None, n_responses=3)
    with pytest.raises(BadInput, match="image10 in alphabetical order, but image2 by number"):
        join_images(["image1", "image2", "image10"], None, n_responses=3)
    join_images(["image01", "image02", "image10", "é²"], None, n_responses=4)
