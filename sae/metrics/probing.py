"""How well known properties can be read off latents, beside reading them off the activations directly.

Every probe is a score for each row and is fitted on the choose rows; AUC and F1 are measured on the test rows and
averaged over the tasks.

    logistic      L2 logistic regression (C = 1) on the standardised activations: the baseline to beat
    diff_means    x . (mu_1 - mu_0), the difference of class means (DiffMean of AxBench)
    neuron        the one coordinate of the activations with the best AUC on choose, in either direction
    latent        the one latent with the best AUC on choose, as it stands
    k1, k5, k16   logistic regression on the k latents with the largest |difference of class means| on choose
    nearest       the share of positive rows among the 15 nearest of at most `max_rows` choose rows: what can be
                  read off the activations by a reader that need not be linear
    shuffled      `logistic` with permuted training labels, mean of `n_shuffles` permutations a task. It is .5 on
                  average; a single one is a random direction, whose AUC for one feature may well be .4 or .6

`k*` are the k-sparse probes of Gurnee et al. 2023 with the ranking of Kantamneni et al. 2025, in the form of
SAEBench's sparse probing (L2, C = 1) but with AUC and F1 where that has accuracy; means are weighted by the
norm of the decoder row, so that the scale of a latent does not count (with unit rows: the published ranking).
sae-probes divides by the mean active code before it ranks, and fits with L1. F1 of logistic probes is at even
odds; of the others at the threshold with the best F1 on choose.

    latents_per_feature   mean over the tasks of (sum_j g_j^2)^2 / sum_j g_j^4, with g_j how much more latent j
                          contributes (z_j ||W_dec[j]||) on positive choose rows than on the others, 0 where less

`latents_per_feature` counts over how many latents a property is spread: 1 where one latent says it, m where m do
alike. Squares keep the noise of a thousand silent latents from counting. NaN for a task without any such latent.

The tasks are the real labels where there are any (a vector of 0/1 is one task, class ids are one task a
class), else 'feature g is active' for represented features g spread evenly over the ranks of their
frequencies. A task needs `min_count` rows of either class in both halves; with no such task all scores are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from sae.metric import Case, Evidence, MetricConfig, Scores
from sae.metrics._properties import Properties, properties_of
from sae.numerics.binary_probes import (
    logistic,
    mean_difference,
    nearest,
    rank_auc,
    standardised,
)
from sae.numerics.seeds import derive


class Config(MetricConfig):
    """Needs ``labels`` or ``codes``. `max_rows` bounds the rows of one logistic fit: the rarer class is kept
    whole up to half of them, and the sampled classes are weighted back to their shares; and those that neighbours are
    looked for among."""

    kind: Literal["probing"] = "probing"
    k: tuple[PositiveInt, ...] = Field((1, 5, 16), min_length=1)
    n_tasks: int = Field(32, gt=0)
    min_count: int = Field(10, gt=0)
    neighbours: int = Field(15, gt=0)
    n_shuffles: int = Field(5, gt=0)
    max_rows: int = Field(4000, gt=1)
    seed: int = 0

    needs_any: ClassVar[frozenset[str]] = frozenset({"codes", "labels"})

    def score(self, case: Case) -> Scores:
        # pyright does not see that pydantic gives frozen models a hash
        tasks, scores = on_activations(self, case.evidence)  # pyright: ignore[reportArgumentType]
        return Scores({**scores, **on_latents(self, tasks, case)})


@lru_cache(maxsize=2)
def on_activations(config: Config, evidence: Evidence) -> tuple[Properties, Mapping[str, float]]:
    """The tasks, and the scores of the probes on the activations: once for all dictionaries of a source."""
    tasks = properties_of(evidence, config.n_tasks, config.min_count)
    choose, test = tasks.choose.acts.float(), tasks.test.acts.float()
    x, x_test = (array(t) for t in standardised(choose, test))
    direction = mean_difference(choose, tasks.on_choose)
    auc = rank_auc(choose, tasks.on_choose)
    found: dict[str, list[tuple[float, float]]] = {
        n: [] for n in ("logistic", "diff_means", "neuron", "nearest", "shuffled")
    }
    share = nearest_share(config, tasks, choose, test) if len(tasks) else choose.new_zeros(0, 0)
    for t in range(len(tasks)):
        neuron = int((auc[t] - 0.5).abs().argmax())
        sign = 1 if auc[t, neuron] >= 0.5 else -1
        found["diff_means"].append(tasks.measure_single(t, choose @ direction[t], test @ direction[t]))
        found["neuron"].append(tasks.measure_single(t, sign * choose[:, neuron], sign * test[:, neuron]))
        found["nearest"].append(tasks.measure(t, share[:, t], 0.5))
        fit = Sample.of(config, tasks, t)
        found["logistic"].append(tasks.measure(t, fit.log_odds(x, x_test), 0.0))
        found["shuffled"] += [
            tasks.measure(t, fit.shuffled(n).log_odds(x, x_test), 0.0) for n in range(config.n_shuffles)
        ]
    return tasks, means(found)


def on_latents(config: Config, tasks: Properties, case: Case) -> dict[str, float]:
    """The scores of the probes on latents."""
    choose, test = case.codes_of(tasks.choose).float(), case.codes_of(tasks.test).float()
    norm = case.dictionary.W_dec.norm(dim=-1)
    strongest = min(max(config.k), choose.shape[1])
    difference = mean_difference(choose, tasks.on_choose) * norm
    ranking = difference.abs().topk(strongest).indices
    best = rank_auc(choose, tasks.on_choose).argmax(1)
    found: dict[str, list[tuple[float, float]]] = {n: [] for n in ("latent", *(f"k{k}" for k in config.k))}
    for t in range(len(tasks)):
        found["latent"].append(tasks.measure_single(t, choose[:, best[t]], test[:, best[t]]))
        fit = Sample.of(config, tasks, t)
        x, x_test = (array(z) for z in standardised(choose[:, ranking[t]], test[:, ranking[t]]))
        for k in config.k:
            found[f"k{k}"].append(tasks.measure(t, fit.log_odds(x[:, :k], x_test[:, :k]), 0.0))
    return {**means(found), "latents_per_feature": float(probe_spread(difference).nanmean())}


@dataclass(frozen=True, eq=False)
class Sample:
    """The choose rows that a logistic probe is fitted on; `weight` restores the classes' shares."""

    rows: NDArray[np.int64]
    positive: NDArray[np.bool_]
    weight: NDArray[np.float64]
    device: torch.device
    seed: int

    @classmethod
    def of(cls, config: Config, tasks: Properties, task: int) -> Sample:
        positive = tasks.on_choose[:, task].cpu().numpy()
        seed = derive("probing", config.seed, task)
        draw = np.random.default_rng(seed)
        classes = sorted((np.flatnonzero(positive == c) for c in (False, True)), key=len)
        kept = [draw.permutation(classes[0])[: config.max_rows // 2]]
        kept.append(draw.permutation(classes[1])[: config.max_rows - len(kept[0])])
        rows = np.concatenate(kept)
        weight = np.concatenate([np.full(len(k), len(c) / len(k)) for k, c in zip(kept, classes, strict=True)])
        return cls(rows, positive[rows], weight, tasks.on_test.device, seed)

    def shuffled(self, n: int = 0) -> Sample:
        """The same rows with labels, and their weights, in their n-th permutation."""
        order = np.random.default_rng(derive("shuffled", self.seed, n)).permutation(len(self.rows))
        return Sample(self.rows, self.positive[order], self.weight[order], self.device, self.seed)

    def log_odds(self, x: NDArray[Any], x_test: NDArray[Any]) -> Tensor:
        """What a logistic probe fitted on these rows of `x` says of `x_test`."""
        odds = logistic(x[self.rows], self.positive, self.weight, x_test)
        return torch.from_numpy(odds).to(self.device)


def nearest_share(
    config: Config, tasks: Properties, choose: Tensor, test: Tensor
) -> Float[Tensor, "test_rows n_tasks"]:
    """For each test row, the share of positive rows among its nearest choose rows."""
    draw = np.random.default_rng(derive("nearest", config.seed))
    kept = torch.from_numpy(draw.permutation(len(choose))[: config.max_rows]).to(choose.device)
    near = nearest(array(choose[kept]), array(test), min(config.neighbours, len(kept)))
    return tasks.on_choose[kept].float()[torch.from_numpy(near).to(choose.device)].mean(1)


def probe_spread(difference: Float[Tensor, "n_tasks n_latents"]) -> Float[Tensor, " n_tasks"]:
    """Over how many latents each property is spread; NaN where none gives more for it than against it."""
    square = difference.double().clamp_min(0).square()
    return square.sum(1).square() / square.square().sum(1)


def means(found: Mapping[str, list[tuple[float, float]]]) -> dict[str, float]:
    """``probe_auc_<probe>`` and ``probe_f1_<probe>``, NaN without tasks."""
    return {
        f"probe_{score}_{probe}": float(np.mean([r[i] for r in results])) if results else float("nan")
        for i, score in enumerate(("auc", "f1"))
        for probe, results in found.items()
    }


def array(x: Tensor) -> NDArray[np.float32]:
    return x.cpu().numpy()
