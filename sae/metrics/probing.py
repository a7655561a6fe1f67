"""How well probes on latents predict known properties, compared with probes on the activations.

A probe gives each sample a score. Probes are fitted on the validation samples; AUC and F1 are measured on the test
samples and averaged over properties. The scores are named by measure and probe: `probe_auc_logistic`,
`probe_f1_logistic`, `probe_auc_latent`, `probe_f1_latent`, `probe_auc_k1`, and so on.

    logistic      L2-regularised logistic regression (C = 1) on the standardised activations: the baseline to beat
    diff_means    x . (mu_1 - mu_0), the difference of the class means (DiffMean of AxBench)
    neuron        the single coordinate of the activations with the best AUC on the validation samples, in either
                  direction
    latent        the single latent with the best AUC on the validation samples
    k1, k5, k16   logistic regression on the k latents with the largest |difference of the class means|, weighted by the
                  norm of the decoder row
    nearest       the share of positives among the 15 nearest of at most `max_rows` validation samples: a nonlinear
                  probe on the activations
    shuffled      `logistic` with permuted training labels, mean over `n_shuffles` permutations per property. It is .5
                  on average, but a single permutation is a random direction, with an AUC of .4 to .6 for some features

Both measures lie in [0, 1]; 1 is best. Chance is .5 for AUC and at most 2p / (1 + p) for F1, with p the share of
positives. F1 of logistic probes is at even odds, of `nearest` at a share of one half, of the others at the threshold
with the best F1 on the validation samples.

    latents_per_feature   mean over properties of (sum_j g_j^2)^2 / sum_j g_j^4, with g_j the mean contribution
                          z_j ||W_dec[j]|| on positive minus that on negative validation samples, 0 where less

latents_per_feature is the effective number of latents that carry a property: 1 for a single latent, m for m equal
ones. The squares suppress the noise of the many other latents. A property without a latent of g_j > 0 is left out.

Published variant: `k*` are the k-sparse probes of Gurnee et al. 2023 with the ranking of Kantamneni et al. 2025, as in
SAEBench's sparse probing (L2, C = 1), but with AUC and F1 instead of accuracy. The weight by the decoder norm removes
the arbitrary scale of a latent; with unit rows the ranking is the published one. sae-probes divides by the mean active
code before it ranks, and fits with L1.

Properties are the labels where there are any (a 0/1 label is one property, a label with classes one per class), else
'feature g is active' for represented features, spread evenly over the ranks of their frequencies. A property needs
`min_count` samples of either class in both splits; all scores are NaN if none qualifies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from sae.metric import Case, Evidence, MetricConfig, Scores
from sae.metrics._properties import Properties, properties_of
from sae.numerics.active_codes import SplitCodes
from sae.numerics.binary_probes import logistic, mean_difference, nearest, rank_auc, sparse_auc, standardised
from sae.numerics.seeds import derive
from sae.numerics.weak_cache import once_per_object


class Config(MetricConfig):
    """Settings of the probe scores; needs ``labels`` or ``codes``."""

    kind: Literal["probing"] = "probing"
    k: tuple[PositiveInt, ...] = Field((1, 5, 16), min_length=1)
    """Numbers of latents of the k-sparse probes."""
    n_tasks: int = Field(32, gt=0)
    """Largest number of features whose activity serves as a property where there are no labels."""
    min_count: int = Field(10, gt=0)
    """Smallest number of samples of either class that a property needs in both splits."""
    neighbours: int = Field(15, gt=0)
    """Number of neighbours of the probe `nearest`."""
    n_shuffles: int = Field(5, gt=0)
    """Number of label permutations per property of the control `shuffled`."""
    max_rows: int = Field(4000, gt=1)
    """Largest number of validation samples in one logistic fit and in the neighbour search.

    A logistic fit takes up to half of this number from the rarer class, the rest from the other, and weights both back
    to their shares.
    """
    seed: int = 0
    """Seed of the subsamples and permutations."""

    needs_any: ClassVar[frozenset[str]] = frozenset({"codes", "labels"})

    def score(self, case: Case) -> Scores:
        tasks, scores = on_activations(case.evidence, self)
        return Scores({**scores, **on_latents(self, tasks, case)})


@once_per_object
def on_activations(evidence: Evidence, config: Config) -> tuple[Properties, Mapping[str, float]]:
    """The properties and the scores of the probes on activations, computed once for all dictionaries of a source."""
    tasks = properties_of(evidence, config.n_tasks, config.min_count)
    choose, test = tasks.choose.acts.float(), tasks.test.acts.float()
    x, x_test = (array(t) for t in standardised(choose, test))
    direction = mean_difference(choose, tasks.on_choose)
    auc = rank_auc(choose, tasks.on_choose)
    results: dict[str, list[tuple[float, float]]] = {
        n: [] for n in ("logistic", "diff_means", "neuron", "nearest", "shuffled")
    }
    share = nearest_share(config, tasks, choose, test) if len(tasks) else choose.new_zeros(0, 0)
    for t in range(len(tasks)):
        neuron = int((auc[t] - 0.5).abs().argmax())
        sign = 1 if auc[t, neuron] >= 0.5 else -1
        results["diff_means"].append(tasks.measure_single(t, choose @ direction[t], test @ direction[t]))
        results["neuron"].append(tasks.measure_single(t, sign * choose[:, neuron], sign * test[:, neuron]))
        results["nearest"].append(tasks.measure(t, share[:, t], 0.5))
        fit = Sample.of(config, tasks, t)
        results["logistic"].append(tasks.measure(t, fit.log_odds(x, x_test), 0.0))
        results["shuffled"] += [
            tasks.measure(t, fit.shuffled(n).log_odds(x, x_test), 0.0) for n in range(config.n_shuffles)
        ]
    return tasks, means(results)


def on_latents(config: Config, tasks: Properties, case: Case) -> dict[str, float]:
    """The scores of the probes on latents, and `latents_per_feature`."""
    choose, test = case.codes_of(tasks.choose), case.codes_of(tasks.test)
    difference, best = compared(choose, tasks.on_choose)
    difference *= case.dictionary.W_dec.norm(dim=-1)
    strongest = min(max(config.k), difference.shape[1])
    ranking = difference.abs().topk(strongest).indices
    used, place = torch.cat([best[:, None], ranking], dim=1).unique(return_inverse=True)
    on_choose, on_test = choose.at(used), test.at(used)
    results: dict[str, list[tuple[float, float]]] = {n: [] for n in ("latent", *(f"k{k}" for k in config.k))}
    for t in range(len(tasks)):
        z, z_test = (codes.dense(place[t]).float() for codes in (on_choose, on_test))
        results["latent"].append(tasks.measure_single(t, z[:, 0], z_test[:, 0]))
        fit = Sample.of(config, tasks, t)
        x, x_test = (array(part) for part in standardised(z[:, 1:], z_test[:, 1:]))
        for k in config.k:
            results[f"k{k}"].append(tasks.measure(t, fit.log_odds(x[:, :k], x_test[:, :k]), 0.0))
    return {**means(results), "latents_per_feature": float(probe_spread(difference).nanmean())}


def compared(
    z: SplitCodes, positive: Bool[Tensor, "rows n_tasks"]
) -> tuple[Float[Tensor, "n_tasks n_latents"], Int[Tensor, " n_tasks"]]:
    """The difference of the class means of every latent's codes for every task, and the latent with the best AUC."""
    y = positive.double()
    n_pos, n = y.sum(0)[:, None], len(y)
    difference = torch.zeros(positive.shape[1], z.n_latents, device=y.device)
    best_auc = torch.full((positive.shape[1],), -torch.inf, dtype=torch.float64, device=y.device)
    best = torch.zeros(positive.shape[1], dtype=torch.int64, device=y.device)
    for latents, part in z.parts():
        total = part.product(torch.ones(n, 1, dtype=torch.float64, device=y.device))
        # E[z|1] - E[z|0] = (sum_1 - n_pos E[z]) / n_pos * n / n_neg
        of_positives = part.product(y).T
        difference[:, latents] = ((of_positives - n_pos * total.T / n) * n / (n_pos * (n - n_pos))).float()
        auc = sparse_auc(part, positive).max(1)
        best = torch.where(auc.values > best_auc, auc.indices + latents.start, best)
        best_auc = torch.maximum(best_auc, auc.values)
    return difference, best


@dataclass(frozen=True, eq=False)
class Sample:
    """The validation samples that a logistic probe is fitted on."""

    rows: NDArray[np.int64]
    """Indices of the samples in the validation split."""
    positive: NDArray[np.bool_]
    """Whether each sample has the property."""
    weight: NDArray[np.float64]
    """Weight of each sample, which restores the shares of the classes."""
    device: torch.device
    """Device of the log-odds."""
    seed: int
    """Seed of the permutations."""

    @classmethod
    def of(cls, config: Config, tasks: Properties, task: int) -> Sample:
        positive = tasks.on_choose[:, task].cpu().numpy()
        seed = derive("probing", config.seed, task)
        draw = np.random.default_rng(seed)
        classes = sorted((np.flatnonzero(positive == c) for c in (False, True)), key=len)
        drawn = [draw.permutation(classes[0])[: config.max_rows // 2]]
        drawn.append(draw.permutation(classes[1])[: config.max_rows - len(drawn[0])])
        rows = np.concatenate(drawn)
        weight = np.concatenate([np.full(len(d), len(c) / len(d)) for d, c in zip(drawn, classes, strict=True)])
        return cls(rows, positive[rows], weight, tasks.on_test.device, seed)

    def shuffled(self, n: int = 0) -> Sample:
        """The same samples with labels and weights in their n-th permutation."""
        order = np.random.default_rng(derive("shuffled", self.seed, n)).permutation(len(self.rows))
        return Sample(self.rows, self.positive[order], self.weight[order], self.device, self.seed)

    def log_odds(self, x: NDArray[Any], x_test: NDArray[Any]) -> Tensor:
        """Log-odds on `x_test` of a logistic probe fitted on these rows of `x`."""
        odds = logistic(x[self.rows], self.positive, self.weight, x_test)
        return torch.from_numpy(odds).to(self.device)


def nearest_share(
    config: Config, tasks: Properties, choose: Tensor, test: Tensor
) -> Float[Tensor, "test_rows n_tasks"]:
    """For each test sample, the share of positives among its nearest validation samples."""
    draw = np.random.default_rng(derive("nearest", config.seed))
    pool = torch.from_numpy(draw.permutation(len(choose))[: config.max_rows]).to(choose.device)
    near = nearest(array(choose[pool]), array(test), min(config.neighbours, len(pool)))
    return tasks.on_choose[pool].float()[torch.from_numpy(near).to(choose.device)].mean(1)


def probe_spread(difference: Float[Tensor, "n_tasks n_latents"]) -> Float[Tensor, " n_tasks"]:
    """Effective number of latents that carry each property, ``(sum_j g_j^2)^2 / sum_j g_j^4`` with g the positive part
    of `difference`; NaN where no difference is positive."""
    square = difference.double().clamp_min(0).square()
    return square.sum(1).square() / square.square().sum(1)


def means(results: Mapping[str, list[tuple[float, float]]]) -> dict[str, float]:
    """``probe_auc_<probe>`` and ``probe_f1_<probe>``, NaN without properties."""
    return {
        f"probe_{score}_{probe}": float(np.mean([pair[i] for pair in pairs])) if pairs else float("nan")
        for i, score in enumerate(("auc", "f1"))
        for probe, pairs in results.items()
    }


def array(x: Tensor) -> NDArray[np.float32]:
    return x.cpu().numpy()
