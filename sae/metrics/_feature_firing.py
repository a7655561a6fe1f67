"""Which single features, or pairs of them, the firing of latents predicts; for the family `splitting`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.metric import Case
from sae.numerics.active_codes import ActiveCodes, SplitCodes

_ROWS_AT_ONCE = 4096
_CELLS = 2**22
"""Cells of a matrix of latents and features, or of samples and features, that are calculated at once."""
_PAIRS = 256
"""Latents with a pair of features whose samples are compared at once."""
RIVALS = 4
"""Number of next-best features that are tried as the second feature of a pair."""


@dataclass(frozen=True)
class Firing:
    """The samples of a split in which each latent fires and each represented feature is active."""

    z: SplitCodes
    """The codes."""
    above: Float[Tensor, " n_latents"]
    """The code above which each latent fires."""
    is_active: Bool[Tensor, "n_represented rows"]
    """Whether each represented feature is active in each sample."""
    active: Int[Tensor, " n_represented"]
    """Number of samples in which each feature is active."""

    @classmethod
    def of_half(cls, case: Case, half: Literal["choose", "test"], above: Float[Tensor, " n_latents"]) -> Firing:
        evidence = case.evidence
        batch, z = (evidence.choose, case.choose) if half == "choose" else (evidence.test, case.test)
        assert batch.codes is not None and evidence.truth is not None
        is_active = batch.codes[:, evidence.truth.represented] > 0
        return cls(z, above, is_active.T.contiguous(), _count(is_active))

    @property
    def n_rows(self) -> int:
        return self.is_active.shape[1]

    def of(self, latents: Int[Tensor, " n"]) -> ActiveCodes:
        """The codes with which these latents fire."""
        return _firing(self.z.at(latents), self.above[latents])

    def parts(self) -> Iterator[tuple[slice, ActiveCodes]]:
        """The codes with which latents fire, for ranges of latents."""
        for latents, z in self.z.parts(max(1, _CELLS // max(1, len(self.active)))):
            yield latents, _firing(z, self.above[latents])

    def union(self, g: int, fires: Bool[Tensor, "n rows"], jump: float) -> list[int]:
        """The first latent and, in order, those that raise the F1 of the OR so far by more than `jump`."""
        taken, covered = [0], fires[0]
        best = self.f1(g, covered)
        for j in range(1, len(fires)):
            wider = covered | fires[j]
            f1 = self.f1(g, wider)
            if f1 > best + jump:
                taken, covered, best = [*taken, j], wider, f1
        return taken

    def f1_of_pair(self, latent: Int[Tensor, " n"], g: Int[Tensor, " n"], h: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """F1 of each latent with the AND of two features."""
        parts = [torch.zeros(0, device=self.active.device)]
        chosen, place = latent.unique(return_inverse=True)
        columns = self.of(chosen)
        for j, a, b in zip(*(part.split(_PAIRS) for part in (place, g, h)), strict=True):
            both, fires = self.is_active[a] & self.is_active[b], columns.dense(j).T > 0
            total = fires.sum(1) + both.sum(1)
            parts.append(2 * (both & fires).sum(1) / total.clamp_min(1))
        return torch.cat(parts)

    def f1(self, g: int, rows: Bool[Tensor, " rows"]) -> float:
        """F1 of predicting feature g in these samples."""
        total = int(rows.sum() + self.active[g])
        return 2 * int((rows & self.is_active[g]).sum()) / total if total else 0.0


@dataclass(frozen=True)
class SingleFeatures:
    """The single features that each latent's firing predicts best on the validation samples."""

    fired: Int[Tensor, " n_latents"]
    """Number of samples in which each latent fires."""
    f1: Float[Tensor, " n_latents"]
    """The largest F1 with any feature."""
    feature: Int[Tensor, " n_latents"]
    """That feature."""
    hits: Float[Tensor, " n_latents"]
    """Number of samples in which both are active."""
    top_f1: Float[Tensor, "n_latents n"]
    """The largest F1s, descending."""
    top: Int[Tensor, "n_latents n"]
    """Their features."""

    @classmethod
    def nothing(cls, n_latents: int, n: int, device: torch.device) -> SingleFeatures:
        """Zeros, to be filled in place: small results kept between large temporaries would fragment the memory."""
        fired, feature = torch.zeros(2, n_latents, dtype=torch.int64, device=device)
        f1, hits = torch.zeros(2, n_latents, device=device)
        top = torch.zeros(n_latents, n, device=device)
        return cls(fired, f1, feature, hits, top, torch.zeros_like(top, dtype=torch.int64))

    @classmethod
    def of(cls, firing: Firing) -> SingleFeatures:
        from scipy.sparse import csr_matrix

        # Sparse on both sides: a sample has few active features even where many latents are active.
        active = firing.is_active
        places = [(row + begin, g) for begin, (g, row) in _places(active)]
        rows, features = (torch.cat(part).cpu().numpy() for part in zip(*places, strict=True))
        is_active = csr_matrix((np.ones(len(rows), np.int32), (rows, features)), shape=(firing.n_rows, len(active)))
        n = min(RIVALS + 1, len(active))
        found = cls.nothing(len(firing.above), n, active.device)
        for latents, z in firing.parts():
            fires = z.matrix()
            fires.data = np.ones(len(fires.data), np.int32)
            hits = torch.from_numpy((fires @ is_active).toarray()).to(active.device, torch.float32)
            f1 = 2 * hits / (z.count[:, None] + firing.active[None]).clamp_min(1)
            top = f1.topk(n, dim=1)
            found.fired[latents], found.top_f1[latents], found.top[latents] = z.count, top.values, top.indices
            if n:
                best, feature = f1.max(1)
                found.f1[latents], found.feature[latents] = best, feature
                found.hits[latents] = hits.gather(1, feature[:, None])[:, 0]
        return found


def _places(active: Bool[Tensor, "n_represented rows"]) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """The true entries of ranges of samples, each range with its first sample."""
    size = max(1, _CELLS // max(1, len(active)))
    for begin in range(0, active.shape[1], size):
        g, row = active[:, begin : begin + size].nonzero(as_tuple=True)
        yield begin, (g, row)


def _firing(z: ActiveCodes, above: Float[Tensor, " n_latents"]) -> ActiveCodes:
    """Only the codes above the threshold of their latent."""
    return z.where(z.value > above.repeat_interleave(z.count))


def _count(columns: Bool[Tensor, "rows n"]) -> Int[Tensor, " n"]:
    """Number of true entries of each column; summing floats is exact and several times faster than summing booleans."""
    return torch.stack([piece.float().sum(0) for piece in columns.split(_ROWS_AT_ONCE)]).sum(0).long()
