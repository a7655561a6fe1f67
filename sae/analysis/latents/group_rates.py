"""Which latents are active more often in one group of documents than in another, such as two corpora.

    rate_j = sum_i k_ij / sum_i m_i,    difference_j = rate_j(A) - rate_j(B)

over the documents i of a group, of whose m_i samples latent j fires in k_ij. Samples of one document are alike, so the
unit of all inference is the document.

``p`` comes from permuting documents between the groups, with the studentised difference as the statistic:

    t_j = difference_j / sqrt(v_j(A) + v_j(B)),    v_j = n / (n - 1) sum_i (k_ij - rate_j m_i)^2 / (sum_i m_i)^2

where v is the usual variance of a ratio of sums (Cochran 1977, 'Sampling Techniques', chapter 6). It is exact where
documents of both groups are draws of one distribution, and holds in large groups where only the rates are equal (Chung
and Romano 2013, 'Exact and asymptotically robust permutation tests'). ``q`` is the false discovery rate of Benjamini
and Hochberg 1995 over all latents that fire. Intervals are percentiles of a bootstrap over the documents of each group,
one latent at a time.

Two limits (``pytest -m slow tests/analysis/latents/test_group_rates.py`` measures both). Where documents of one group
are much longer and only the rates are equal, the permutation test finds too much: with 15 documents a group, of 1 to 5
and of 60 to 100 samples, one comparison in four or so named a latent, not one in twenty. Cut all documents to one
length. And with few documents that differ a lot, intervals are too narrow: those of 8 against 40 documents held the
true difference in 85% of cases, not 95%.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from sae.analysis.latents.given_text import GivenTextVectors, hook_of, tokenizer_for
from sae.dictionary import Dictionary, check_one_dictionary
from sae.metric import block_rows
from sae.model.hooked import Model
from sae.numerics.arrays import Numbers, as_tensor
from sae.numerics.memory import check_memory
from sae.numerics.paired_tests import benjamini_hochberg
from sae.numerics.seeds import generator
from sae.numerics.statistics import LEVEL
from sae.registry import UserError
from sae.source import check_finite

LEAST_DOCUMENTS = 5
"""The fewest documents of a group: with five in both, the smallest p is 1/126."""
UNEQUAL = 3.0
"""From this ratio of the mean lengths of documents on, the comparison says that it may find too much."""
_COPIES = 4
"""Numbers of each document and latent that are held at once."""
_AT_ONCE = 2**23
"""Draws times latents that are worked on at once."""


class DocumentCounts:
    """In how many samples of each document each latent fires."""

    def __init__(self, d: Dictionary, n_documents: int) -> None:
        check_memory(f"documents = {n_documents}", _COPIES * 8 * n_documents * d.n_latents)
        self.d = d
        self.fired = torch.zeros(n_documents, d.n_latents, dtype=torch.float64)
        self.samples = torch.zeros(n_documents, dtype=torch.float64)

    def add(self, acts: Float[Tensor, "samples d_in"], document: Tensor) -> None:
        """Adds samples; `document` has the number of the document of each ``[samples]``."""
        size = block_rows(self.d.n_latents)
        for x, of in zip(acts.split(size), document.cpu().split(size), strict=True):
            with torch.no_grad():
                fires = (self.d.encode(x.to(self.d.W_dec)) > 0).double().cpu()
            self.fired.index_add_(0, of, fires)
        self.samples += document.cpu().bincount(minlength=len(self.samples)).double()

    def kept(self) -> _Counted:
        """The counts of the documents that have samples."""
        some = self.samples > 0
        return _Counted(self.fired[some], self.samples[some])


@dataclass(frozen=True, eq=False)
class _Counted:
    fired: Float[Tensor, "documents n_latents"]
    samples: Float[Tensor, " documents"]

    def rates(self) -> Float[Tensor, " n_latents"]:
        return self.fired.sum(0) / self.samples.sum()

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, eq=False)
class FiringComparison:
    """How much more often each latent fires in documents of A than in those of B; ``print`` shows the clearest."""

    rate_a: Float[Tensor, " n_latents"]
    """The share of the samples of A in which each latent fires."""
    rate_b: Float[Tensor, " n_latents"]
    """The same for B."""
    low: Float[Tensor, " n_latents"]
    """The lower end of the 95% interval of ``rate_a - rate_b``."""
    high: Float[Tensor, " n_latents"]
    """The upper end."""
    t: Float[Tensor, " n_latents"]
    """The difference in standard errors."""
    p: Float[Tensor, " n_latents"]
    """The p-value of the permutation test; NaN for a latent that never fires."""
    q: Float[Tensor, " n_latents"]
    """The smallest false discovery rate at which the latent is among those that differ; NaN where ``p`` is."""
    n_documents: tuple[int, int]
    """Documents of A and of B."""
    n_samples: tuple[int, int] = field(repr=False)
    """Samples of A and of B."""

    @property
    def difference(self) -> Float[Tensor, " n_latents"]:
        """``rate_a - rate_b``."""
        return self.rate_a - self.rate_b

    def differing(self, q: float = 0.05) -> list[int]:
        """The latents that differ at a false discovery rate, the largest ``|t|`` first."""
        found = (self.q <= q).nonzero()[:, 0]
        return found[self.t[found].abs().argsort(descending=True, stable=True)].tolist()

    def _note(self) -> list[str]:
        """A line where the lengths of documents are so different that the test may find too much."""
        mean = [samples / n for samples, n in zip(self.n_samples, self.n_documents, strict=True)]
        if max(mean) < UNEQUAL * min(mean):
            return []
        return [
            f"documents have {mean[0]:.1f} samples on average in A and {mean[1]:.1f} in B: with few documents of such "
            "different lengths more than 5% may be false; cut them to one length"
        ]

    def __str__(self) -> str:
        found, n_tested = self.differing(), int((~self.p.isnan()).sum())
        counts = " and ".join(f"{n:,}" for n in self.n_documents)
        lines = [
            f"{len(found)} of {n_tested} latents differ between {counts} documents at a false discovery rate of 5%",
            *([f"{'latent':>8}{'rate A':>10}{'rate B':>10}  {'difference, 95% interval':32}{'q':>8}"] if found else []),
        ]
        for j in found[:10]:
            change = f"{self.difference[j]:+.4f}  [{self.low[j]:+.4f}, {self.high[j]:+.4f}]"
            lines.append(f"{j:8}{self.rate_a[j]:10.4f}{self.rate_b[j]:10.4f}  {change:32}{self.q[j]:8.2g}")
        more = [f"and {len(found) - 10} more"] if len(found) > 10 else []
        return "\n".join([*lines, *more, *self._note()])


def compare_firing(
    d: Dictionary, a: Iterable[Numbers], b: Iterable[Numbers], draws: int = 5000, seed: int = 0
) -> FiringComparison:
    """How much more often each latent of `d` fires in the documents `a` than in the documents `b`.

    Each document is a tensor, an array or a list of its raw activations ``[n_samples, d_in]``; samples that are
    independent of each other are documents of one sample. `draws` is the number of permutations and of bootstrap draws:
    p is at least ``1 / (draws + 1)``. Raises `UserError` for fewer than five documents in a group, for another width,
    and for activations that are NaN or infinite.
    """
    check_one_dictionary(d)
    groups: list[_Counted] = []
    for name, given in (("a", a), ("b", b)):
        documents = list(given)
        counts = DocumentCounts(d, len(documents))
        for i, one in enumerate(documents):
            x = as_tensor(f"{name}[{i}]", one)
            if x.dim() != 2 or x.shape[1] != d.d_in:
                raise UserError(
                    f"{name}[{i}]: shape {list(x.shape)}; give the activations of a document, [n_samples, {d.d_in}]"
                )
            check_finite(f"{name}[{i}]", x)  # a latent would not fire on NaN, and seem to differ
            counts.add(x, torch.full((len(x),), i))
        groups.append(counts.kept())
    return _compare(groups[0], groups[1], draws, seed)


def compare_texts(
    model: Any, d: Dictionary, a: Iterable[str], b: Iterable[str], *, hook: str | None = None, draws: int = 5000,
    seed: int = 0,
) -> FiringComparison:  # fmt: skip
    """How much more often each latent of `d` fires in the texts `a` than in the texts `b`, each text one document.

    `model` is a :class:`sae.model.hooked.Model` or a TransformerLens Bridge; `hook` its hook point, the one on the
    dictionary's card where None. Positions that the dictionary was not trained on, according to its card, do not count.
    Raises `UserError` as :func:`compare_firing` does, and for what does not fit together.
    """
    check_one_dictionary(d)
    hook = hook_of(d, hook)
    if isinstance(model, str):
        raise UserError(f"model = {model!r}: a name; give the model, sae.model.Model.boot({model!r})")
    tokenizer, site = tokenizer_for(model), Model.of(model)
    groups: list[_Counted] = []
    for given in (a, b):
        texts = [given] if isinstance(given, str) else list(given)
        vectors = GivenTextVectors(site, tokenizer, texts, d, hook)
        counts = DocumentCounts(d, len(texts))
        for piece in vectors.pieces():
            counts.add(piece.acts, vectors.document[piece.row])
        groups.append(counts.kept())
    return _compare(groups[0], groups[1], draws, seed)


def _compare(a: _Counted, b: _Counted, draws: int, seed: int) -> FiringComparison:
    for name, group in (("a", a), ("b", b)):
        if len(group) < LEAST_DOCUMENTS:
            raise UserError(
                f"{name}: {len(group)} documents with samples; give at least {LEAST_DOCUMENTS}, because samples of one "
                "document are alike and count once"
            )
    if draws < 1:
        raise UserError(f"draws = {draws}: give at least 1")
    pooled = _Counted(torch.cat([a.fired, b.fired]), torch.cat([a.samples, b.samples]))
    width = max(1, _AT_ONCE // draws)
    t, p, low, high = [], [], [], []
    for begin in range(0, pooled.fired.shape[1], width):
        part = [_Counted(g.fired[:, begin : begin + width], g.samples) for g in (pooled, a, b)]
        of_part = _permuted(part[0], len(a), draws, seed)
        t.append(of_part[0])
        p.append(of_part[1])
        ends = _bootstrapped(part[1], part[2], draws, seed)
        low.append(ends[0])
        high.append(ends[1])
    p_values = torch.cat(p)
    q = torch.tensor(benjamini_hochberg(p_values.tolist()), dtype=torch.float64)
    samples = int(a.samples.sum()), int(b.samples.sum())
    return FiringComparison(
        a.rates(), b.rates(), torch.cat(low), torch.cat(high), torch.cat(t), p_values, q, (len(a), len(b)), samples
    )


def _permuted(g: _Counted, n_a: int, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """The statistic of the first `n_a` documents against the others, and its p-value."""
    t = _studentised(g, (torch.arange(len(g)) < n_a)[None])[0]
    as_large = torch.ones_like(t)  # the groups as they are count as one of the permutations
    for chosen in _choices(len(g), n_a, draws, seed):
        as_large += (_studentised(g, chosen).abs() >= t.abs() * (1 - 1e-9)).double().sum(0)
    return t, (as_large / (draws + 1)).masked_fill(g.fired.sum(0) == 0, math.nan)


def _choices(n: int, n_a: int, draws: int, seed: int) -> Iterator[Tensor]:
    """Random subsets of `n_a` of `n` documents, as rows ``[draws, n]`` of which documents are in them."""
    random = generator("permutation", seed)
    for size in [256] * (draws // 256) + [draws % 256] * (draws % 256 > 0):
        order = torch.rand(size, n, generator=random, dtype=torch.float64).argsort(1)
        yield torch.zeros(size, n, dtype=torch.bool).scatter_(1, order[:, :n_a], True)


def _studentised(g: _Counted, chosen: Tensor) -> Float[Tensor, "draws n_latents"]:
    """The statistic of each choice of documents for A; 0 where no group has a latent that fires."""
    rates, variances = [], []
    for of in (chosen.double(), (~chosen).double()):
        n, total = of.sum(1, keepdim=True), (of @ g.samples)[:, None]
        rate = (of @ g.fired) / total
        squares = of @ g.fired.square() - 2 * rate * (of @ (g.fired * g.samples[:, None]))
        squares = squares + rate.square() * (of @ g.samples.square())[:, None]
        rates.append(rate)
        variances.append(n / (n - 1) * squares.clamp_min(0) / total.square())
    difference, error = rates[0] - rates[1], (variances[0] + variances[1]).sqrt()
    return torch.where(difference.abs() < 1e-12, 0.0, difference / error.clamp_min(1e-12))


def _bootstrapped(a: _Counted, b: _Counted, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """The ends of the interval of the difference. As the bootstrap over n documents has only (n - 1) / n of their
    variance, its levels are widened (Hesterberg 2015, 'What teachers should know about the bootstrap')."""
    random = generator("bootstrap", seed)
    drawn: list[Tensor] = []
    for g in (a, b):
        which = torch.randint(len(g), (draws, len(g)), generator=random)
        weight = torch.zeros(draws, len(g), dtype=torch.float64)
        weight.scatter_add_(1, which, torch.ones_like(which, dtype=torch.float64))
        drawn.append((weight @ g.fired) / (weight @ g.samples)[:, None])
    n = min(len(a), len(b))
    tail = float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf((1 + LEVEL) / 2, n - 1)))
    ordered = (drawn[0] - drawn[1]).sort(dim=0).values
    return ordered[round(tail * (draws - 1))], ordered[round((1 - tail) * (draws - 1))]
