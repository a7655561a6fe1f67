"""Activations redrawn under the hypothesis that at most as many features as dimensions explain them.

The hypothesis H0, for activations of rank d:

    x = b + sum_{j in S} v_j W_j + noise

with at most d linearly independent directions W, any joint distribution of the activities (S, and the sign of each v_j
in it), and magnitudes v that are independent of one another and of everything else, given the activities.

S are the latents with a code (:mod:`sae.numerics.concave_coding`), v their least squares, and what these leave stays
with its sample. A redraw permutes the values of each latent among the samples in which it is active with the same sign.
If W and S were known and the noise were isotropic, redraws would be exchangeable with the data (least squares are then
independent of what they leave), and a test by them exact, a permutation test. What the estimates of W and S change is
measured by `python -m benchmarks.toys superposition_size`. `independent` permutes whole columns, so that activities are
independent as well: a narrower hypothesis, which features that are active together also violate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.numerics.concave_coding import ConcavePenalty, Overcomplete

_JITTER = 1e-6
"""Added to the diagonal of the inner products of a support."""
_AT_ONCE = 2**23
"""Numbers in the inner products of supports that are computed at once."""


@dataclass(frozen=True, eq=False)
class FewDirections:
    """Samples as values along few directions and what these leave."""

    fit: Overcomplete
    """The directions, at most as many as dimensions."""
    values: Float[Tensor, "rows n"]
    """The values of active latents; 0 elsewhere."""
    left: Float[Tensor, "rows d"]
    """What they leave of each row."""

    @classmethod
    def of(cls, x: Float[Tensor, "rows d"], fit: Overcomplete, penalty: ConcavePenalty) -> FewDirections:
        """Divides rows by the codes of a dictionary."""
        active = fit.codes(x, penalty) != 0
        at_once = max(1, _AT_ONCE // len(fit.W) ** 2)
        pieces = zip((x - fit.b).split(at_once), active.split(at_once), strict=True)
        values = torch.cat([_least_squares(rows, fit.W, some) for rows, some in pieces])
        return cls(fit, values, x - fit.b - values @ fit.W)

    @property
    def share_active(self) -> float:
        """The share of values that are active."""
        return float((self.values != 0).double().mean())

    def redrawn(self, draw: torch.Generator, independent: bool = False) -> Float[Tensor, "rows d"]:
        """Rows under H0; with `independent`, activities are independent of one another."""
        values = self.values.clone()
        for j, column in enumerate(self.values.T):
            for rows in ((column > 0).nonzero()[:, 0], (column < 0).nonzero()[:, 0]):
                values[rows, j] = column[rows[torch.randperm(len(rows), generator=draw)]]
            if independent:
                values[:, j] = values[torch.randperm(len(values), generator=draw), j]
        return self.fit.b + values @ self.fit.W + self.left


def _least_squares(
    x: Float[Tensor, "rows d"], W: Float[Tensor, "n d"], active: Bool[Tensor, "rows n"]
) -> Float[Tensor, "rows n"]:
    """Least squares of each row on its active directions; 0 elsewhere."""
    both = active[:, :, None] & active[:, None, :]
    gram = torch.where(both, W @ W.T, 0) + torch.diag_embed(torch.where(active, _JITTER, 1.0))
    return torch.linalg.solve(gram, torch.where(active, x @ W.T, 0)[..., None])[..., 0]
