from __future__ import annotations

import numpy as np
import pytest
import torch

from aligncut_cli.maths.centring import CentredMaps, centre_map, find_centring_direction
from aligncut_cli.maths.token_moments import TokenMoments


def make_tokens(seed: int = 0, *, mean: float = 30.0, n: int = 500, width: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-2, 1, width, dtype=torch.float64)
    tokens = torch.randn(n, width, generator=generator, dtype=torch.float64) * spread
    return tokens @ torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q + mean


def measure(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return tokens.mean(dim=0), torch.cov(tokens.T, correction=0)


def test_the_mean_token_is_mapped_to_zero_whatever_its_size() -> None:
    tokens = make_tokens()
    mean, covariance = measure(tokens)
    weight = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    before, after = tokens.float() @ weight, tokens @ centre_map(weight, mean, covariance).double()
    assert float(before.mean(dim=0).abs().min() / before.std()) > 0.1
    assert float(after.mean(dim=0).abs().max() / after.square().mean().sqrt()) < 1e-5


def test_no_other_map_orthogonal_to_the_mean_changes_the_mapped_tokens_less() -> None:
    """Least squares under the constraint, solved as one dense system of Lagrange's conditions."""
    mean, covariance = measure(make_tokens())
    weight = torch.randn(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ridge = 1e-6 * covariance.diagonal().mean() * torch.eye(12, dtype=torch.float64)
    system = torch.zeros(13, 13, dtype=torch.float64)
    system[:12, :12] = covariance + ridge
    system[:12, 12] = system[12, :12] = mean
    right = torch.cat([(covariance + ridge) @ weight, torch.zeros(1, 5, dtype=torch.float64)])
    expected = torch.linalg.solve(system, right)[:12]
    torch.testing.assert_close(centre_map(weight, mean, covariance), expected, rtol=1e-8, atol=1e-8)


def test_projecting_twice_is_projecting_once_and_units_do_not_matter() -> None:
    mean, covariance = measure(make_tokens())
    maps = CentredMaps.of([mean], [covariance])
    weight = torch.randn(1, 12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    once = maps.project(weight)
    torch.testing.assert_close(maps.project(once), once, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(maps.project(weight * 7), once * 7)
    torch.testing.assert_close(centre_map(weight[0], mean * 1e-6, covariance), once[0])


@pytest.mark.parametrize("covariance", [torch.eye(4), torch.zeros(4, 4), torch.diag(torch.tensor([1.0, 1, 0, 0]))])
def test_a_mean_of_zero_and_channels_without_variance_are_harmless(covariance: torch.Tensor) -> None:
    weight = torch.arange(8.0).view(4, 2)
    assert torch.equal(centre_map(weight, torch.zeros(4), covariance), weight)
    mean = torch.tensor([1.0, 2, 3, 4])
    centred = centre_map(weight, mean, covariance)
    assert torch.isfinite(centred).all()
    torch.testing.assert_close(mean @ centred, torch.zeros(2), atol=1e-4, rtol=0)


def test_layers_are_projected_together_after_a_step_of_an_optimizer() -> None:
    tokens = [make_tokens(seed, mean=5) for seed in range(3)]
    maps = CentredMaps.of(*zip(*(measure(each) for each in tokens), strict=True))
    weight = torch.nn.Parameter(torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(2)))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
        assert maps.to(torch.device("cpu")).project_(weight) is weight
    assert weight.dtype == torch.float32
    assert weight.requires_grad
    for layer, each in enumerate(tokens):
        mapped = each @ weight[layer].detach().double()
        assert float(mapped.mean(dim=0).abs().max() / mapped.square().mean().sqrt()) < 1e-5
        alone = centre_map(weight[layer].detach(), *measure(each))
        torch.testing.assert_close(weight[layer].detach(), alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("block", [1, 7, 500])
def test_moments_of_a_stream_are_those_of_all_rows(block: int) -> None:
    tokens = make_tokens(mean=1000)
    moments = TokenMoments(12, device=torch.device("cpu"))
    moments.add(tokens[:0])
    for start in range(0, len(tokens), block):
        moments.add(tokens[start : start + block])
    assert moments.count == 500
    np.testing.assert_allclose(moments.mean, tokens.numpy().mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(tokens.numpy().T, bias=True), rtol=1e-8, atol=1e-10)


def test_moments_of_float32_rows_far_from_zero_keep_their_digits() -> None:
    tokens = make_tokens(mean=1000).float()
    moments = TokenMoments(12, device=torch.device("cpu"))
    for part in tokens.split(100):
        moments.add(part)
    expected = np.cov(tokens.double().numpy().T, bias=True)
    np.testing.assert_allclose(moments.covariance, expected, atol=1e-6 * np.abs(expected).max())


def test_the_direction_is_the_formula() -> None:
    mean, covariance = measure(make_tokens())
    solved = torch.linalg.solve(covariance + 1e-6 * covariance.diagonal().mean() * torch.eye(12), mean)
    torch.testing.assert_close(find_centring_direction(mean, covariance), solved / (mean @ solved))
