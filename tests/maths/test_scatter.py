from __future__ import annotations

import pytest
import torch

from aligncut_cli.maths.scatter import _add_in_fixed_point_, add_at_


def example(scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(50, (4000,), generator=generator, dtype=torch.int32)
    return torch.randn(50, generator=generator), index, scale * torch.randn(4000, generator=generator)


@pytest.mark.parametrize("route", [add_at_, lambda t, i, s, alpha: _add_in_fixed_point_(t, i, s, alpha)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_values_are_summed_where_they_belong(route, scale):
    target, index, source = example(scale)
    expected = target.double()
    for place, value in zip(index.tolist(), source.tolist(), strict=True):
        expected[place] -= value
    found = route(target.clone(), index, source, alpha=-1.0)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=2e-5 * scale)


def test_sums_in_fixed_point_do_not_depend_on_the_order():
    target, index, source = example(1.0)
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(1))
    plain = _add_in_fixed_point_(target.clone(), index, source, 1.0)
    assert torch.equal(_add_in_fixed_point_(target.clone(), index[order], source[order], 1.0), plain)


def test_nothing_and_zeros_change_nothing():
    target, index, source = example(1.0)
    assert torch.equal(_add_in_fixed_point_(target.clone(), index[:0], source[:0], 1.0), target)
    assert torch.equal(_add_in_fixed_point_(target.clone(), index, 0 * source, 1.0), target)
