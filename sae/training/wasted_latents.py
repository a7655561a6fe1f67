"""Latents that a dictionary could do without, found without knowing the features, and directions that it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.numerics.matching import unit
from sae.numerics.stagewise import SupportCodes

_ALONG = 0.4
"""The cosine above which two residuals share a direction. Where the noise is as large as a feature, that of two
residuals with the feature is .5; by chance it is rarely above .25 in 256 dimensions."""
_SUSPECT = 0.5
"""A latent may be explained by others if its largest cosine with one of them is above this."""
_EXPLAINED = 0.25
"""The share of a direction's squared norm that others leave of one that they explain."""
_MOST = 3
"""The most latents that explain another."""
_PROPORTIONAL = 0.99
"""The cosine, over the samples in which two latents fire together, above which their codes are proportional."""
_TOGETHER = 0.5
"""The share of the rarer latent's samples in which two latents that code one feature fire together."""
_ALWAYS = 0.8
"""The share of the more frequent one's, from which it has no other use."""
_LEAST = 8
"""The fewest samples in which a pair must have fired together."""
_ENTRIES = 2**22
"""The most pairs of active latents, over all samples, that are looked at."""


def explained_by_others(
    W: Float[Tensor, "n_latents d_in"], energy: Float[Tensor, " n_latents"], at_once: int = 1024
) -> Bool[Tensor, " n_latents"]:
    """Latents whose unit direction is, nearly, a non-negative combination of at most three latents of larger
    energy: doubles, and mixtures of features that have latents of their own."""
    wasted = torch.zeros(len(W), dtype=torch.bool, device=W.device)
    place = torch.arange(len(W), device=W.device)
    for latents in place.split(at_once):
        e = energy[latents, None]
        larger = (energy > e) | ((energy == e) & (place < latents[:, None]))
        cosine = torch.where(larger, W[latents] @ W.T, -1.0)
        suspect = cosine.amax(1) > _SUSPECT
        latents, larger = latents[suspect], larger[suspect]
        if len(latents):
            wasted[latents] = _left_by(W, W[latents], larger) < _EXPLAINED
    return wasted


def _left_by(W: Tensor, target: Tensor, allowed: Tensor) -> Tensor:
    """The squared norm that a greedy combination of `allowed` rows of `W` leaves of every target."""
    chosen = torch.empty(len(target), 0, dtype=torch.int64, device=W.device)
    residual, least = target, target.square().sum(1)
    for _ in range(_MOST):
        best = torch.where(allowed, residual @ W.T, -1.0).argmax(1)
        chosen = torch.cat([chosen, best[:, None]], 1)
        rows = W[chosen]
        gram = rows @ rows.mT + 1e-6 * torch.eye(chosen.shape[1]).to(W)
        code = torch.linalg.solve(gram, rows @ target[:, :, None])[..., 0].clamp_min(0)
        residual = target - (code[:, None, :] @ rows)[:, 0]
        least = torch.minimum(least, residual.square().sum(1))
    return least


class OneFeature(NamedTuple):
    """Two latents that code one feature together."""

    frequent: int
    """The latent that fires more often."""
    rare: int
    """The other one."""
    direction: Float[Tensor, " d_in"]
    """The direction of their mean contribution, a unit vector."""
    always_together: bool
    """Whether the more frequent latent hardly ever fires alone."""


@dataclass(frozen=True)
class Pairs:
    """Sums over the samples in which two latents fire together; pairs are in the order of their latents."""

    first: Int[Tensor, " pairs"]
    """The latent of the smaller number."""
    second: Int[Tensor, " pairs"]
    """The other one."""
    count: Float[Tensor, " pairs"]
    """The number of samples."""
    code: Float[Tensor, "pairs 2"]
    """The sums of their codes."""
    square: Float[Tensor, "pairs 2"]
    """The sums of the squares."""
    product: Float[Tensor, " pairs"]
    """The sum of the products."""
    fired: Float[Tensor, " n_latents"]
    """The number of samples in which each latent fires."""

    @classmethod
    def of(cls, batches: Sequence[SupportCodes], n_latents: int) -> Pairs:
        """From the codes of some batches: as many samples as have at most `_ENTRIES` pairs."""
        latent, code = (torch.cat([getattr(b, name) for b in batches]) for name in ("latent", "code"))
        active = code > 0
        n = active.sum(1)
        size = max(1, int(n.amax()))
        code, order = code.topk(size, dim=1)
        rows = int(((n * (n - 1) // 2).cumsum(0) <= _ENTRIES).sum())
        latent, code = latent.gather(1, order)[:rows], code[:rows]
        fired = latent[code > 0].bincount(minlength=n_latents).to(code)
        latent, order = latent.sort(1)
        code = code.gather(1, order)
        i, j = torch.triu_indices(size, size, 1, device=code.device)
        both = (code[:, i] > 0) & (code[:, j] > 0)
        a, b = (torch.stack([side[:, i][both], side[:, j][both]]) for side in (latent, code))
        key, pair = (a[0] * n_latents + a[1]).unique(return_inverse=True)

        def total(values: Tensor) -> Tensor:
            return code.new_zeros(len(key)).index_add_(0, pair, values)

        return cls(
            first=key // n_latents,
            second=key % n_latents,
            count=total(torch.ones_like(b[0])),
            code=torch.stack([total(b[0]), total(b[1])], 1),
            square=torch.stack([total(b[0].square()), total(b[1].square())], 1),
            product=total(b[0] * b[1]),
            fired=fired,
        )

    def coding_one_feature(self, W: Float[Tensor, "n_latents d_in"]) -> Iterator[OneFeature]:
        """Pairs whose codes are proportional where both fire, as two latents have them between which a feature's
        direction lies; every latent in at most one pair, the most proportional first."""
        least = torch.minimum(self.fired[self.first], self.fired[self.second])
        most = torch.maximum(self.fired[self.first], self.fired[self.second])
        cosine = self.product / self.square.prod(1).sqrt().clamp_min(1e-30)
        chosen = (self.count >= _LEAST) & (self.count > _TOGETHER * least) & (cosine > _PROPORTIONAL)
        number, used = chosen.nonzero()[:, 0], set[int]()
        for p in number[cosine[number].argsort(descending=True, stable=True)].tolist():
            i, j = int(self.first[p]), int(self.second[p])
            if i in used or j in used:
                continue
            used |= {i, j}
            direction = unit((self.code[p, :, None] * W[[i, j]]).sum(0, keepdim=True))[0]
            frequent, rare = (i, j) if self.fired[i] >= self.fired[j] else (j, i)
            yield OneFeature(frequent, rare, direction, float(self.count[p]) > _ALWAYS * float(most[p]))


def shared_directions(residuals: Float[Tensor, "rows d_in"]) -> Iterator[tuple[Float[Tensor, " d_in"], float]]:
    """Directions shared by at least two residuals, with the energy that they explain of those, the largest groups
    first."""
    norm, towards = residuals.norm(dim=-1), unit(residuals)
    alike = (towards @ towards.T > _ALONG).float()
    left = torch.ones_like(norm)
    while True:
        gains = (alike @ (norm.square() * left)) * left * (alike @ left >= 2)
        best = int(gains.argmax())
        if float(gains[best]) <= 0:
            return
        members = alike[best] * left
        direction = unit((members[:, None] * residuals).sum(0, keepdim=True))[0]
        for _ in range(2):  # around their mean instead of around one of them
            closer = (towards @ direction > _ALONG).float() * left
            if float(closer.sum()) < 2:
                break
            members, direction = closer, unit((closer[:, None] * residuals).sum(0, keepdim=True))[0]
        yield direction, float(((residuals @ direction).clamp_min(0).square() * members).sum())
        left = left * (1 - members)
        left[best] = 0
