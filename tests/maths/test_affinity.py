from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aligncut_cli.maths.affinity import affinity, unit_rows


def affinity_naively(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    result = np.empty((len(a), len(b)))
    for i, row in enumerate(a.astype(np.float64)):
        for j, other in enumerate(b.astype(np.float64)):
            size = np.linalg.norm(row) * np.linalg.norm(other)
            result[i, j] = math.exp((row @ other / size if size > 0 else 0.0) - 1)
    return result


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_affinity_is_exp_of_cosine_minus_one(dtype):
    generator = torch.Generator().manual_seed(0)
    a = (3 * torch.randn(13, 24, generator=generator)).to(dtype)
    b = torch.randn(9, 24, generator=generator).to(dtype)
    a[3] = 0
    b[5] = 0
    found = affinity(unit_rows(a), unit_rows(b))
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), affinity_naively(a.numpy(), b.numpy()), rtol=0, atol=1e-6)


def test_a_zero_row_has_affinity_one_over_e_to_everything():
    rows = unit_rows(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    assert rows.tolist() == [[0.0, 0.0], [pytest.approx(0.6), pytest.approx(0.8)]]
    assert torch.allclose(affinity(rows[:1], rows), torch.full((1, 2), math.exp(-1)))


def test_opposite_and_equal_rows_stay_in_range_whatever_the_rounding():
    rows = unit_rows(torch.randn(200, 768, generator=torch.Generator().manual_seed(1)))
    found = affinity(rows, torch.cat([rows, -rows]))
    assert float(found.max()) <= 1.0
    assert float(found.min()) >= math.exp(-2) * (1 - 1e-6)
    assert torch.allclose(found.diagonal(), torch.ones(200), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-3, 1e25, 3e38])
def test_tiny_and_huge_rows_have_unit_length(scale):
    rows = torch.tensor([[scale, 0.0], [scale, scale / 2], [1.0, 2.0]])
    before = rows.clone()
    norms = unit_rows(rows).norm(dim=1)
    assert torch.allclose(norms, torch.ones(3), atol=1e-6)
    assert torch.equal(rows, before)


def test_rows_do_not_depend_on_the_block_they_come_in():
    rows = torch.randn(50, 33, generator=torch.Generator().manual_seed(2))
    assert torch.equal(unit_rows(rows)[7:9], unit_rows(rows[7:9]))
