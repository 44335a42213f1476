"""Orthogonal maps of every slot's leading directions into one frame, where the same token lands near itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Rounds of generalized Procrustes; it converges in a few, and nothing rests on the last digit.
_ROUNDS = 6


def find_shared_frame(tokens: Sequence[Tensor], *, n_channels: int) -> list[Tensor]:
    """Generalized Procrustes analysis (Gower 1975): rotate slots onto each other, changing no distance within one.

    An orthogonal map keeps the cosines of a slot's leading directions, and so the eigenvectors of its affinity, as
    L_eigen wants (Eq. 5); of all such maps these bring the slots' tokens nearest to their common mean.

    tokens     : per slot (n, D_i) centred, the same n tokens in every slot
    n_channels : k of the frame; a slot with fewer dimensions fills as many of them as it has
    returns    : per slot (D_i, k) float32 with orthonormal columns (rows where D_i < k). The channels are the
                 principal axes of all slots together, largest first, so that they do not covary
    """
    leading: list[Tensor] = []
    placed: list[Tensor] = []
    for rows in tokens:
        size = float(rows.square().sum(dim=1).mean()) ** 0.5
        _, vectors = torch.linalg.eigh((rows.T @ rows).double())
        basis = vectors.flip(1)[:, :n_channels].float()
        leading.append(basis)
        placed.append(rows @ basis / (size if size > 0 else 1.0))
    rotations = [torch.eye(part.shape[1], n_channels) for part in placed]
    total = sum((part @ turn for part, turn in zip(placed, rotations, strict=True)), torch.zeros(()))
    for _ in range(_ROUNDS):
        for number, part in enumerate(placed):
            others = total - part @ rotations[number]
            left, _, right = torch.linalg.svd((part.T @ others).double(), full_matrices=False)
            turned = (left @ right).float()
            total = others + part @ turned
            rotations[number] = turned
    covariance = torch.zeros(n_channels, n_channels, dtype=torch.float64)
    for part, turn in zip(placed, rotations, strict=True):
        covariance += turn.T.double() @ (part.T @ part).double() @ turn.double()
    principal = torch.linalg.eigh(covariance).eigenvectors.flip(1)
    largest = principal.gather(0, principal.abs().argmax(dim=0, keepdim=True))
    principal = (principal * torch.where(largest < 0, -1.0, 1.0)).float()
    return [basis @ turn @ principal for basis, turn in zip(leading, rotations, strict=True)]
