from __future__ import annotations

import numpy as np
import pytest
import torch

from aligncut_cli.maths.alignment_losses import (
    compute_brain_loss,
    compute_covariance_loss,
    compute_eigen_loss,
    compute_zero_loss,
    differentiate_brain_loss,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.3


def lead(features: np.ndarray, n_kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvectors and affinity of one node set, step by step (Eq. 3)."""
    n = len(features)
    affinity = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            cosine = features[i] @ features[j] / np.linalg.norm(features[i]) / np.linalg.norm(features[j])
            affinity[i, j] = np.exp(cosine - 1)
    root = np.diag(affinity.sum(axis=1) ** -0.5)
    return np.linalg.eigh(root @ affinity @ root)[1][:, -n_kept:], affinity


def test_brain_loss_is_the_mean_absolute_error() -> None:
    a, b = draw(4, 3), draw(4, 3, seed=1)
    naive = sum(abs(float(a[i, j] - b[i, j])) for i in range(4) for j in range(3)) / 12
    assert abs(float(compute_brain_loss(a, b)) - naive) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n_voxels", [2, 2048, 5000])
def test_brain_loss_of_a_readout_and_its_gradient_are_those_of_all_predictions_at_once(
    n_voxels: int, dtype: torch.dtype
) -> None:
    averaged, readout = draw(96, 24).to(dtype), draw(24, n_voxels, seed=1).to(dtype)
    measured = draw(96, n_voxels, seed=2).to(dtype)
    measured[:, 0] = 0
    readout[:, 0] = 0  # predicted exactly: no slope
    inputs = [averaged.clone().requires_grad_(), readout.clone().requires_grad_()]
    loss = compute_brain_loss(inputs[0] @ inputs[1], measured)
    loss.backward()
    twins = [loss.detach(), *(value.grad for value in inputs)]
    found = differentiate_brain_loss(averaged.requires_grad_(), readout.requires_grad_(), measured)
    for ours, twin in zip(found, twins, strict=True):
        assert twin is not None
        assert not ours.requires_grad
        assert torch.allclose(ours, twin, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-9)
    assert float(found[2].abs().max()) > 0
    assert not found[2][:, 0].any()


def test_eigen_loss_matches_its_formula_slot_by_slot() -> None:
    before, after = draw(3, 12, 5), draw(3, 12, 7, seed=1)
    naive = []
    for slot in range(3):
        x_b, affinity = lead(before[slot].numpy(), 4)
        x_a, _ = lead(after[slot].numpy(), 4)
        weighted = (x_b @ x_b.T - x_a @ x_a.T) * np.exp(-affinity)
        naive.append(np.sqrt((weighted**2).sum()))
    assert abs(float(compute_eigen_loss(before, after, n_kept=4)) - np.mean(naive)) < 1e-10


def test_a_rotation_costs_no_eigen_loss_and_its_gradient_is_finite() -> None:
    before = draw(2, 10, 5)
    rotation = torch.linalg.qr(draw(5, 5, seed=3)).Q.requires_grad_()
    loss = compute_eigen_loss(before, before @ rotation, n_kept=3)
    loss.backward()
    assert loss.item() < 1e-7
    assert rotation.grad is not None
    assert torch.isfinite(rotation.grad).all()
    identity = before.clone().requires_grad_()
    compute_eigen_loss(before, identity, n_kept=3).backward()
    assert identity.grad is not None
    assert torch.isfinite(identity.grad).all()


def test_zero_loss_matches_its_formula() -> None:
    after = draw(2, 6, 4)
    naive = 0.0
    for slot in range(2):
        for channel in range(4):
            naive += float(sum(after[slot, node, channel] for node in range(6)) / 6) ** 2 / (2 * 4)
    assert abs(float(compute_zero_loss(after)) - naive) < 1e-12
    assert float(compute_zero_loss(after - after.mean(dim=1, keepdim=True))) < 1e-30


def test_covariance_loss_matches_its_formula() -> None:
    after = draw(2, 6, 9)
    naive = []
    for slot in range(2):
        covariance = np.cov(after[slot].numpy(), rowvar=False)
        naive.append(sum(covariance[i, j] ** 2 for i in range(9) for j in range(9) if i != j) / 9)
    assert abs(float(compute_covariance_loss(after)) - np.mean(naive)) < 1e-10
