"""How vectors code a token: how much of their variance, in how many dimensions, and from how many it can be told.

With mu_t the mean of the vectors of token t, p_t its share and mu = sum_t p_t mu_t,

    B = sum_t p_t (mu_t - mu)(mu_t - mu)^T,   W = the covariance around the means
    share       tr B / tr (B + W), of the variance
    dimensions  (tr B)^2 / tr B^2, the participation ratio of B's eigenvalues
    accuracy    of argmax_t log p_t - |a - a_t|^2 / 2, with a and a_t the vector and its token's mean in the r leading
                directions of W^-1/2 B W^-1/2, with W^-1/2 applied (linear discriminant analysis: Fisher 1936; Rao
                1948), on vectors that nothing was fitted on

Vectors may be those of a head, coding the token that it copies or the one that it matches, or of the residual stream.
The means of rare tokens are noisy, which adds to B: compare `share` and `dimensions` with those of permuted tokens.
Other controls: `random_accuracy` in r random directions, and `chance`, the share of the most frequent token, which is
what the rule answers where the vectors code nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.numerics.seeds import generator
from sae.registry import UserError

RIDGE = 1e-3
"""Added to W on its diagonal, relative to its mean there."""


@dataclass(frozen=True, eq=False)
class TokenCode:
    """How vectors code a token."""

    share: float
    """The share of the fitted vectors' variance that is between tokens."""
    share_permuted: float
    """The same with permuted tokens."""
    dimensions: float
    """The participation ratio of the variance between tokens."""
    dimensions_permuted: float
    """The same with permuted tokens."""
    accuracy: dict[int, float]
    """By number of directions: the share of held-out vectors whose token is told."""
    random_accuracy: dict[int, float]
    """The same in as many random directions."""
    chance: float
    """The share of the most frequent token in the held-out vectors."""
    directions: Float[Tensor, "n d"]
    """Orthonormal directions, of which the first r span the leading r ones."""


def token_code(
    fitted: tuple[Float[Tensor, "rows d"], Int[Tensor, " rows"]],
    held_out: tuple[Float[Tensor, "test_rows d"], Int[Tensor, " test_rows"]],
    ranks: Sequence[int] = (1, 2, 4, 8, 16, 32),
    seed: int = 0,
) -> TokenCode:
    """How the vectors of both parts code their tokens; held-out tokens that were not fitted count as not told.

    Raises `UserError` where a part is empty, or the fitted vectors have one token only or no variance.
    """
    (x, tokens), (x_test, tokens_test) = fitted, held_out
    known, label = tokens.unique(return_inverse=True)
    if not len(x_test) or len(known) < 2 or not float(x.var(0).sum()) > 0:
        raise UserError("vectors, tokens: fewer than two tokens, or vectors without variance; give more rows")
    x, x_test = x.double(), x_test.double()
    centre, d = x.mean(0), x.shape[1]
    x, x_test = x - centre, x_test - centre
    means, between = _between(x, label, len(known))
    within = x.T @ x / len(x) - between
    permuted = _between(x, label[torch.randperm(len(x), generator=generator("token_code", seed))], len(known))[1]
    whiten = _inverse_root(within + RIDGE * within.trace() / d * torch.eye(d, dtype=x.dtype))
    leading = torch.linalg.eigh(whiten @ between @ whiten).eigenvectors.flip(1)
    random = torch.randn(d, d, generator=generator("token_code", "directions", seed), dtype=x.dtype)
    log_share = (label.bincount().double() / len(label)).log()
    ranks = sorted({min(r, d) for r in ranks})

    def accuracies(along: Tensor) -> dict[int, float]:
        """The accuracy in the first columns of directions of whitened vectors."""
        a, b = x_test @ whiten @ along, means @ whiten @ along
        likely = {r: (log_share - torch.cdist(a[:, :r], b[:, :r]).square() / 2).argmax(1) for r in ranks}
        return {r: float((known[found] == tokens_test).double().mean()) for r, found in likely.items()}

    total = float((between + within).trace())
    return TokenCode(
        share=float(between.trace()) / total,
        share_permuted=float(permuted.trace()) / total,
        dimensions=_participation(between),
        dimensions_permuted=_participation(permuted),
        accuracy=accuracies(leading),
        random_accuracy=accuracies(torch.linalg.qr(random).Q),
        chance=float(tokens_test.bincount().max()) / len(tokens_test),
        # Directions of the vectors themselves, of which those of the whitened ones are linear functions.
        directions=torch.linalg.qr(whiten @ leading).Q.T.float(),
    )


def _between(x: Tensor, label: Tensor, n: int) -> tuple[Float[Tensor, "tokens d"], Float[Tensor, "d d"]]:
    """The mean of the centred vectors of each token, and their covariance."""
    count = label.bincount(minlength=n).to(x)
    means = torch.zeros(n, x.shape[1], dtype=x.dtype).index_add_(0, label, x) / count[:, None]
    return means, (means.T * (count / len(x))) @ means


def _participation(covariance: Float[Tensor, "d d"]) -> float:
    return float(covariance.trace() ** 2 / covariance.square().sum())


def _inverse_root(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors / values.clamp(min=1e-12).sqrt()) @ vectors.T
