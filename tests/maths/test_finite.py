from __future__ import annotations

import numpy as np
import pytest

from aligncut_cli.maths.finite import all_finite


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_found(dtype, bad):
    values = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(dtype)
    values[0, 0, :3] = [0, -np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal]
    assert all_finite(values)
    assert all_finite(values[:0])
    assert all_finite(values[:, ::2])
    values[1, 2, 3] = bad
    assert not all_finite(values)
