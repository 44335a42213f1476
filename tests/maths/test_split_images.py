from __future__ import annotations

import numpy as np
import pytest

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.split_images import split_images


def test_every_image_is_in_one_part_and_the_seed_decides_which() -> None:
    split = split_images(101, validation_share=0.1, test_share=0.2, seed=0)
    assert [len(split.train), len(split.validation), len(split.test)] == [71, 10, 20]
    assert sorted([*split.train, *split.validation, *split.test]) == list(range(101))
    again = split_images(101, validation_share=0.1, test_share=0.2, seed=0)
    other = split_images(101, validation_share=0.1, test_share=0.2, seed=1)
    assert np.array_equal(split.test, again.test)
    assert not np.array_equal(split.test, other.test)


def test_too_few_images_are_refused() -> None:
    assert len(split_images(6, validation_share=0.1, test_share=0.1, seed=0).train) == 2
    with pytest.raises(BadInput, match="5 images"):
        split_images(5, validation_share=0.1, test_share=0.1, seed=0)
