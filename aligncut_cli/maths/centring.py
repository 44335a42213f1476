"""Maps that send a slot's mean token to zero: the mapped features are centred exactly (Eq. 6 as a constraint)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Added to the covariance, as a share of its mean eigenvalue, so that directions without variance can be divided by.
_RIDGE = 1e-6


def find_centring_direction(mean: Tensor, covariance: Tensor) -> Tensor:
    """a = C^-1 mu / (mu' C^-1 mu): W - a (mu' W) is orthogonal to mu and, of all such maps, changes fewest features.

    "Fewest" is in the metric of C: tr((W - W_0)' C (W - W_0)), the mean squared change of a mapped, centred token.

    mean       : (D,) mu, of a slot's tokens
    covariance : (D, D) C of the same tokens; 1e-6 of its mean eigenvalue is added to the diagonal
    returns    : (D,) float64; zeros where mu is zero
    """
    mean, covariance = mean.double(), covariance.double()
    size = float(mean.norm())
    if size == 0:
        return torch.zeros_like(mean)
    unit = mean / size
    average = float(covariance.diagonal().mean())
    # Tokens that are all the same have no metric of their own; then the closest map is meant as it is.
    scaled = covariance / average if average > 0 else torch.zeros_like(covariance)
    scaled.diagonal().add_(_RIDGE)
    solved = torch.cholesky_solve(unit[:, None], torch.linalg.cholesky(scaled))[:, 0]
    return solved / (unit @ solved) / size


@dataclass(frozen=True)
class CentredMaps:
    """The constraint mu' W = 0 of one or more layers, for use after each step of an optimizer.

    mean      : (..., D) float64, mu of each layer's tokens
    direction : (..., D) float64, a of `find_centring_direction`
    """

    mean: Tensor
    direction: Tensor

    @classmethod
    def of(cls, means: Sequence[Tensor], covariances: Sequence[Tensor]) -> CentredMaps:
        """Stack the constraints of several layers of one width.

        means       : per layer (D,)
        covariances : per layer (D, D)
        returns     : arrays (layers, D)
        """
        directions = [find_centring_direction(mean, c) for mean, c in zip(means, covariances, strict=True)]
        return cls(torch.stack([mean.double() for mean in means]), torch.stack(directions))

    def to(self, device: torch.device) -> CentredMaps:
        """Return the same constraint on a device."""
        return CentredMaps(self.mean.to(device), self.direction.to(device))

    def project(self, weight: Tensor) -> Tensor:
        """Return the closest maps with mu' W = 0: W - a (mu' W), computed in float64.

        weight  : (..., D, D'), any floating type; a factor per layer (units of features) changes nothing
        returns : same shape and type
        """
        return self.project_(weight.clone(memory_format=torch.contiguous_format))

    def remove(self, rows: Tensor) -> Tensor:
        """Return features x - mu (a' x), of which any map predicts what its projection predicts of x.

        rows : (..., n, D), any floating type
        """
        exact = rows.double()
        along = exact @ self.direction[..., :, None]
        return (exact - along * self.mean[..., None, :]).to(rows.dtype)

    @torch.no_grad()
    def project_(self, weight: Tensor) -> Tensor:
        """Project parameters (..., D, D') in place, without a gradient; returns them."""
        width = self.mean.shape[-1]
        layers = weight.view(-1, *weight.shape[-2:])  # one at a time, since float64 of all would leave the cache
        for mean, direction, own in zip(self.mean.view(-1, width), self.direction.view(-1, width), layers, strict=True):
            exact = own.double()
            own.copy_(exact.addr_(direction, mean @ exact, alpha=-1))
        return weight


def centre_map(weight: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Return the map closest to W that sends a slot's mean token to zero.

    weight     : (D, D')
    mean       : (D,); covariance (D, D)
    returns    : (D, D'), W's type
    """
    return CentredMaps(mean.double(), find_centring_direction(mean, covariance)).project(weight)
