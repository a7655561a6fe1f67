"""What the model loses when a dictionary's reconstruction takes the activations' place.

    ce_increase = ce_spliced - ce_clean                                        in nats per token
    ce_recovered_X = (ce_X - ce_spliced) / (ce_X - ce_clean),                  X = mean or zero ablation
    kl = E[sum_v p_clean(v) (log p_clean(v) - log p_spliced(v))]               in nats per token

Zero ablation is the reference of Bricken et al. 2023 and SAEBench; on residual streams it is so destructive that
every dictionary scores near one, so the mean (taken on the choose half) stands beside it, and the plain increase.
Log-probabilities come from ``log_softmax``; SAEBench's logarithm of a softmax underflows to NaN in float32.
Excluded positions (BOS, EOS, padding, the first) pass unedited and are not counted, nor are predictions of them.

A transcoder reads the activations at the hook, and what it gives back takes the place of those at the target, in the
same forward pass; mean and zero ablation are then at the target too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sae.metric import Case, Evidence, MetricConfig, Scores
from sae.model.hooked import HookEdit, Site
from sae.model.token_rows import TokenRows

KEPT_BYTES = 2**30
"""Up to so much, the clean log-probabilities are kept for the next dictionary; beyond, they are computed again."""


class Config(MetricConfig):
    """Settings. `n_tokens` limits the predictions scored, `rows_at_once` the rows in one forward pass."""

    kind: Literal["downstream"] = "downstream"
    n_tokens: int = Field(20_000, gt=0)
    rows_at_once: int = Field(16, gt=0)
    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def score(self, case: Case) -> Scores:
        """``ce_clean ce_spliced ce_mean ce_zero ce_increase ce_recovered_mean ce_recovered_zero kl``."""
        reference = _reference(case.evidence, self.n_tokens, self.rows_at_once)
        d = case.dictionary.to(reference.site.model.device)
        spliced, kl = reference.compare(d.reconstruct)
        return Scores(
            {
                "ce_clean": reference.clean,
                "ce_spliced": spliced,
                "ce_mean": reference.mean,
                "ce_zero": reference.zero,
                "ce_increase": spliced - reference.clean,
                "ce_recovered_mean": recovered(reference.clean, spliced, reference.mean),
                "ce_recovered_zero": recovered(reference.clean, spliced, reference.zero),
                "kl": kl,
            }
        )


def recovered(clean: float, spliced: float, ablated: float) -> float:
    """The share of an ablation's damage that the splice does not do; NaN where the ablation does none."""
    return (ablated - spliced) / (ablated - clean) if ablated != clean else float("nan")


@dataclass(frozen=True, eq=False)
class _Reference:
    """What does not depend on the dictionary: the text, and the losses without it."""

    site: Site
    pieces: list[TokenRows]
    log_probs: list[Tensor]
    clean: float
    mean: float
    zero: float

    def compare(self, edit: HookEdit) -> tuple[float, float]:
        """The cross-entropy with the edit, and the divergence of its predictions from the clean ones."""
        losses: list[Tensor] = []
        divergences: list[Tensor] = []
        for i, rows in enumerate(self.pieces):
            loss, log_q = self.site.model.losses(rows, self.site.hook, edit, self.site.target)
            log_p = self.log_probs[i] if self.log_probs else self.site.model.losses(rows)[1]
            losses.append(loss)
            divergences.append((log_p.exp() * (log_p - log_q)).sum(-1))
        return _average(losses), _average(divergences)


@lru_cache(maxsize=2)
def _reference(evidence: Evidence, n_tokens: int, rows_at_once: int) -> _Reference:
    site = evidence.model
    assert site is not None
    counted = site.text.counted.sum(1).cumsum(0)
    n_rows = min(int((counted < n_tokens).sum()) + 1, len(site.text))
    pieces = [site.text[i : min(i + rows_at_once, n_rows)] for i in range(0, n_rows, rows_at_once)]
    mean = evidence.choose.wanted.double().mean(0).float().to(site.model.device)
    losses: list[Tensor] = []
    log_probs: list[Tensor] = []
    room = KEPT_BYTES
    for rows in pieces:
        loss, log_p = site.model.losses(rows)
        losses.append(loss)
        room -= log_p.nbytes
        log_probs = [*log_probs, log_p] if room >= 0 else []
    ablated = [
        _average([site.model.losses(rows, site.target or site.hook, edit)[0] for rows in pieces])
        for edit in (mean.expand_as, torch.zeros_like)
    ]
    return _Reference(site, pieces, log_probs, _average(losses), *ablated)


def _average(values: list[Tensor]) -> float:
    """The mean over all predictions, summed in float64."""
    return float(torch.cat(values).double().mean())
