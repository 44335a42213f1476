from __future__ import annotations

import pytest
import torch

from aligncut_cli.maths import products
from aligncut_cli.maths.products import inner_products, linear, slot_products


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 300, 7), (33, 70, 129), (200, 31, 768)])
@pytest.mark.parametrize("layout", ["rows", "columns", "gaps"])
@pytest.mark.parametrize("route", ["oneDNN", "torch"])
def test_inner_products_are_those_of_a_plain_sum_on_every_route(monkeypatch, shape, layout, route):
    monkeypatch.setattr(products, "_ONEDNN_FROM", 0)
    if route == "torch":
        monkeypatch.setattr(products, "_onednn_linear", None)
    n, m, dim = shape
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(rows, dim + 3, generator=generator)[:, :dim] for rows in (n, m))
    b = {"rows": b.contiguous(), "columns": b.T.contiguous().T, "gaps": b}[layout]
    exact = (a.double().unsqueeze(1) * b.double().unsqueeze(0)).sum(dim=-1)
    found = inner_products(a, b)
    assert found.is_contiguous()
    assert torch.allclose(found.double(), exact, rtol=0, atol=5e-6 * dim**0.5)
    assert torch.allclose(inner_products(a.double(), b.double()), exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(40,), (6, 40), (2, 5, 40)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("route", ["oneDNN", "torch"])
def test_linear_is_the_layer_of_a_network(monkeypatch, shape, bias, route):
    monkeypatch.setattr(products, "_ONEDNN_FROM", 0)
    if route == "torch":
        monkeypatch.setattr(products, "_onednn_linear", None)
    torch.manual_seed(2)
    layer = torch.nn.Linear(40, 24, bias=bias)
    x = torch.randn(shape)
    found = linear(x, layer.weight.detach(), layer.bias.detach() if bias else None)
    assert found.shape == (*shape[:-1], 24)
    assert torch.allclose(found, layer(x), atol=1e-5)


def test_the_private_product_is_taken_only_if_it_is_there_and_right(monkeypatch):
    def gives(answer):
        def operation(x, weight, *rest):
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(products.torch.ops.mkldnn, "_linear_pointwise", operation)
        return products._find_onednn()

    assert gives(torch.eye(2, 3) @ torch.arange(12.0).view(3, 4)) is not None
    assert gives(torch.zeros(2, 4)) is None
    assert gives(RuntimeError("another signature")) is None
    assert gives(TypeError("another signature")) is None


@pytest.mark.parametrize("route", ["oneDNN", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slot_products_and_their_gradient_are_those_of_one_slot_after_the_other(monkeypatch, route, dtype):
    monkeypatch.setattr(products, "_ONEDNN_FROM", 0)
    if route == "torch":
        monkeypatch.setattr(products, "_onednn_linear", None)
    generator = torch.Generator().manual_seed(3)
    rows, weights, slope = (
        torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((3, 20, 7), (3, 7, 5), (3, 20, 5))
    )
    found, twin = weights.clone().requires_grad_(), weights.clone().requires_grad_()
    mapped = slot_products(rows, found)
    expected = torch.stack([own @ weight for own, weight in zip(rows, twin, strict=True)])
    for each in (mapped, expected):
        (each * slope).sum().backward()
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    assert torch.allclose(mapped, expected, **near)
    assert torch.allclose(found.grad, twin.grad, **near)
