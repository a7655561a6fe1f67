"""How much the language model's loss rises when the dictionary's reconstruction replaces its activations.

    ce_clean           cross-entropy of next-token prediction by the unchanged model
    ce_spliced         the same with the reconstruction in place of the activations
    ce_mean, ce_zero   the same with the mean activation, or zero, in place of the activations
    ce_increase        ce_spliced - ce_clean; 0 is lossless
    ce_recovered_mean  (ce_mean - ce_spliced) / (ce_mean - ce_clean); 1 is lossless, 0 is no better than the ablation
    ce_recovered_zero  (ce_zero - ce_spliced) / (ce_zero - ce_clean); likewise
    kl                 E[sum_v p_clean(v) (log p_clean(v) - log p_spliced(v))] over predictions; 0 is lossless

Cross-entropies and kl are in nats per token. ce_increase can be negative and ce_recovered can leave [0, 1]; it is NaN
where the ablation does not raise the loss by more than two standard errors of the difference, as on a model with random
weights: there is nothing to recover, and a ratio to noise would be anything. The mean is taken over the validation
split.

Published variant: ce_recovered_zero is the loss recovered of Bricken et al. 2023 and SAEBench. On residual streams zero
ablation is so destructive that every dictionary scores near 1, so ce_recovered_mean and ce_increase are reported too.
Log-probabilities come from log_softmax; SAEBench takes the logarithm of a softmax, which underflows to NaN in float32.

Excluded positions (BOS, EOS, padding, the first token) keep their activations, and predictions of these tokens are not
counted. A transcoder encodes the activations at the hook, and its output replaces those at the target in the same
forward pass; mean and zero ablation then act at the target too.

All are NaN for a model whose logits do not predict the next token: an encoder, an encoder-decoder, or a model whose
checkpoint lacks the output head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sae.metric import Case, Evidence, MetricConfig, Scores, block_rows
from sae.model.hooked import HookEdit
from sae.model.site import Site
from sae.model.token_rows import TokenRows
from sae.numerics.weak_cache import once_per_object

NAMES = ("ce_clean", "ce_spliced", "ce_mean", "ce_zero", "ce_increase", "ce_recovered_mean", "ce_recovered_zero", "kl")
KEPT_BYTES = 2**30
"""Largest size of the clean log-probabilities that are kept for the next dictionary; larger ones are recomputed."""


class Config(MetricConfig):
    """Settings of the scores of the model's loss; needs ``model``."""

    kind: Literal["downstream"] = "downstream"
    n_tokens: int = Field(20_000, gt=0)
    """Number of predictions to score, rounded up to whole rows of tokens."""
    rows_at_once: int = Field(16, gt=0)
    """Rows of tokens in one forward pass."""
    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def score(self, case: Case) -> Scores:
        """``ce_clean ce_spliced ce_mean ce_zero ce_increase ce_recovered_mean ce_recovered_zero kl``."""
        site = case.evidence.model
        # Found out when the model is loaded, which is after the scores are planned.
        if site is None or site.model.no_logits is not None:
            return Scores(dict.fromkeys(NAMES, math.nan))
        reference = _reference(case.evidence, self.n_tokens, self.rows_at_once)
        d = case.dictionary.to(reference.site.model.acts_device)
        # In blocks, as the codes of all tokens of a forward pass may be large.
        size = block_rows(d.n_latents)
        spliced, kl = reference.compare(lambda x: torch.cat([d.reconstruct(piece) for piece in x.split(size)]))
        return Scores(
            {
                "ce_clean": reference.clean,
                "ce_spliced": spliced,
                "ce_mean": reference.mean,
                "ce_zero": reference.zero,
                "ce_increase": spliced - reference.clean,
                "ce_recovered_mean": recovered(reference.clean, spliced, reference.mean, reference.mean_error),
                "ce_recovered_zero": recovered(reference.clean, spliced, reference.zero, reference.zero_error),
                "kl": kl,
            }
        )


def recovered(clean: float, spliced: float, ablated: float, error: float = 0.0) -> float:
    """``(ablated - spliced) / (ablated - clean)``; NaN where the ablation does not raise the loss by more than twice
    the standard `error` of the difference."""
    return (ablated - spliced) / (ablated - clean) if ablated - clean > 2 * error else math.nan


@dataclass(frozen=True, eq=False)
class _Reference:
    """The text and the losses that do not depend on the dictionary."""

    site: Site
    """The model, its text and the hook."""
    pieces: list[TokenRows]
    """The rows of tokens of each forward pass."""
    log_probs: list[Tensor]
    """Clean log-probabilities of each piece; empty above `KEPT_BYTES`."""
    clean: float
    """Cross-entropy of the unchanged model."""
    mean: float
    """Cross-entropy under mean ablation."""
    zero: float
    """Cross-entropy under zero ablation."""
    mean_error: float
    """Standard error of ``mean - clean``."""
    zero_error: float
    """Standard error of ``zero - clean``."""

    def compare(self, edit: HookEdit) -> tuple[float, float]:
        """The cross-entropy with the edit, and the KL divergence of its predictions from the clean ones."""
        losses: list[Tensor] = []
        divergences: list[Tensor] = []
        for i, rows in enumerate(self.pieces):
            loss, log_q = self.site.losses(rows, edit)
            log_p = self.log_probs[i] if self.log_probs else self.site.model.losses(rows)[1]
            losses.append(loss)
            divergences.append((log_p.exp() * (log_p - log_q)).sum(-1))
        return _average(losses), _average(divergences)


@once_per_object
def _reference(evidence: Evidence, n_tokens: int, rows_at_once: int) -> _Reference:
    site = evidence.model
    assert site is not None
    counted = site.text.counted.sum(1).cumsum(0)
    n_rows = min(int((counted < n_tokens).sum()) + 1, len(site.text))
    pieces = [site.text[i : min(i + rows_at_once, n_rows)] for i in range(0, n_rows, rows_at_once)]
    mean = evidence.choose.wanted.double().mean(0).float().to(site.model.acts_device)
    losses: list[Tensor] = []
    log_probs: list[Tensor] = []
    bytes_left = KEPT_BYTES
    for rows in pieces:
        loss, log_p = site.model.losses(rows)
        losses.append(loss)
        bytes_left -= log_p.nbytes
        log_probs = [*log_probs, log_p] if bytes_left >= 0 else []
    ablated = [[site.ablated(rows, edit) for rows in pieces] for edit in (mean.expand_as, torch.zeros_like)]
    errors = [_standard_error(each, losses) for each in ablated]
    return _Reference(site, pieces, log_probs, _average(losses), *map(_average, ablated), *errors)


def _standard_error(ablated: list[Tensor], clean: list[Tensor]) -> float:
    """That of the mean difference of paired losses; infinite for a single one."""
    difference = torch.cat(ablated).double() - torch.cat(clean).double()
    return float(difference.std() / len(difference) ** 0.5) if len(difference) > 1 else math.inf


def _average(values: list[Tensor]) -> float:
    """The mean over all predictions, summed in float64."""
    return float(torch.cat(values).double().mean())
