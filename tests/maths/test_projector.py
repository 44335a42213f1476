from __future__ import annotations

import numpy as np
import pytest
import torch

from aligncut_cli.maths.projector import (
    MIN_GAP,
    compute_affinity,
    normalize_affinity,
    project_on_leading_eigenvectors,
)


def make_symmetric(eigenvalues: list[float], *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def score(matrix: torch.Tensor, weights: torch.Tensor, n_kept: int) -> torch.Tensor:
    return (project_on_leading_eigenvectors(matrix, n_kept=n_kept) * weights).sum()


def differentiate_numerically(matrix: torch.Tensor, weights: torch.Tensor, n_kept: int) -> torch.Tensor:
    """Central differences along symmetric directions."""
    n, step = len(matrix), 1e-6
    gradient = torch.zeros_like(matrix)
    for i in range(n):
        for j in range(i, n):
            change = torch.zeros_like(matrix)
            change[i, j] = change[j, i] = step
            slope = (score(matrix + change, weights, n_kept) - score(matrix - change, weights, n_kept)) / (2 * step)
            gradient[i, j] = gradient[j, i] = slope if i == j else slope / 2
    return gradient


@pytest.mark.parametrize(
    "eigenvalues",
    [
        [0.05, 0.1, 0.2, 0.5, 0.7, 1.0],
        [0.05, 0.1, 0.2, 0.7, 0.7, 0.7],
        [0.1, 0.1, 0.1, 0.6, 0.6, 1.0],
        [-0.4, -0.4, 0.2, 0.5, 0.5, 0.5],
    ],
    ids=["distinct", "kept ones equal", "both sides repeated", "negative"],
)
def test_the_gradient_matches_finite_differences_even_for_repeated_eigenvalues(eigenvalues: list[float]) -> None:
    matrix = make_symmetric(eigenvalues, seed=0).requires_grad_()
    weights = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(score(matrix, weights, 3), matrix)
    expected = differentiate_numerically(matrix.detach(), weights, 3)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


def test_the_gradient_stays_finite_where_the_textbook_one_does_not() -> None:
    matrix = torch.eye(5, dtype=torch.float64).requires_grad_()
    weights = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors = torch.linalg.eigh(matrix)[1][:, -2:]
    (textbook,) = torch.autograd.grad((vectors @ vectors.T * weights).sum(), matrix)
    assert not torch.isfinite(textbook).all()
    (ours,) = torch.autograd.grad(score(matrix, weights, 2), matrix)
    assert torch.isfinite(ours).all()
    assert ours.abs().max() <= 2 * weights.abs().sum() / MIN_GAP


def test_it_is_batched_and_a_projector() -> None:
    batch = torch.stack([make_symmetric([0.1, 0.2, 0.6, 1.0], seed=seed) for seed in range(3)]).requires_grad_()
    projectors = project_on_leading_eigenvectors(batch, n_kept=2)
    for one, many in zip(batch, projectors, strict=True):
        vectors = np.linalg.eigh(one.detach().numpy())[1][:, -2:]
        np.testing.assert_allclose(many.detach().numpy(), vectors @ vectors.T, atol=1e-12)
    torch.testing.assert_close(projectors @ projectors, projectors)
    projectors.square()[:, 0, 1].sum().backward()
    assert batch.grad is not None
    single = batch[1].detach().requires_grad_()
    project_on_leading_eigenvectors(single, n_kept=2).square()[0, 1].backward()
    torch.testing.assert_close(batch.grad[1], single.grad)


def test_the_whole_chain_from_features_to_projector_matches_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 8, 8, generator=generator, dtype=torch.float64)

    def chain(x: torch.Tensor) -> torch.Tensor:
        return (project_on_leading_eigenvectors(normalize_affinity(compute_affinity(x)), n_kept=3) * weights).sum()

    assert torch.autograd.gradcheck(chain, (features,), eps=1e-6, atol=1e-6)


def test_affinity_and_its_normalization_match_naive_loops() -> None:
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[3] = 0
    affinity, normalized = compute_affinity(x), normalize_affinity(compute_affinity(x))
    for i in range(7):
        for j in range(7):
            norms = x[i].norm() * x[j].norm()
            cosine = float(x[i] @ x[j] / norms) if norms > 0 else 0.0
            assert abs(float(affinity[i, j]) - np.exp(cosine - 1)) < 1e-12
            degrees = affinity[i].sum() * affinity[j].sum()
            assert abs(float(normalized[i, j] - affinity[i, j] / degrees.sqrt())) < 1e-12
    assert abs(float(torch.linalg.eigvalsh(normalized)[-1]) - 1) < 1e-12


def test_tiny_features_have_the_same_affinity_as_large_ones() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(compute_affinity(x * 1e-7), compute_affinity(x))
