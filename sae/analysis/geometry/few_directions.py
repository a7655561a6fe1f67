"""Activations redrawn under the hypothesis that at most as many features as dimensions explain them.

The hypothesis H0, for activations of rank d:

    x = b + sum_{j in S} v_j W_j + noise

with at most d linearly independent directions W, any joint distribution of the activities (S, and the sign of each v_j
in it), and magnitudes v that are independent of one another and of everything else, given the activities.

W are the directions of a fit along which the activations are not Gaussian: those whose values ``(x - b) W^-1`` have a
kurtosis further than `LEAST_EXCESS` from 3. The others are noise. S are the latents with a code
(:mod:`sae.numerics.concave_coding`), v their least squares, and what these leave stays with its sample. The threshold
of these codes is that of the test, or lower where there is less noise, since small values that have no code would tie
what is left to the values that have one:

    at most the test's,  at least an eighth of it,  between them 3 median_j spread_j,
    spread_j = 1.4826 median |u_j - median u_j|,    u_j = (x - b) . W_j

A redraw permutes the values of each latent among the samples in which it is active with the same sign.
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

from sae.analysis.geometry.basis import kurtosis
from sae.numerics.concave_coding import ConcavePenalty, Overcomplete

_JITTER = 1e-6
"""Added to the diagonal of the inner products of a support."""
LEAST_EXCESS = 0.5
"""The least difference from the kurtosis of a Gaussian."""
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
        """Divides rows by the codes of a dictionary of as many directions as dimensions."""
        values = torch.linalg.solve(fit.W.double().T, (x - fit.b).double().T).T
        kept = Overcomplete(fit.W[(kurtosis(values) - 3).abs() >= LEAST_EXCESS], fit.b)
        along = (x - fit.b) @ kept.W.T
        spread = 1.4826 * (along - along.median(0).values).abs().median(0).values
        least = 3 * float(spread.median()) if len(kept.W) else 0.0
        threshold = min(max(least, penalty.threshold / 8), penalty.threshold)
        active = kept.codes(x, penalty._replace(threshold=threshold)) != 0
        at_once = max(1, _AT_ONCE // max(1, len(kept.W)) ** 2)
        pieces = zip((x - fit.b).split(at_once), active.split(at_once), strict=True)
        values = torch.cat([_least_squares(rows, kept.W, some) for rows, some in pieces])
        return cls(kept, values, x - fit.b - values @ kept.W)

    @property
    def share_active(self) -> float:
        """The share of values that are active."""
        return float((self.values != 0).double().sum() / max(1, self.values.numel()))

    def redrawn(self, draw: torch.Generator, independent: bool = False) -> Float[Tensor, "rows d"]:
        """Rows under H0; with `independent`, activities are independent of one another."""
        values = self.values.clone()
        for j in range(values.shape[1]):
            column = self.values[:, j]
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
