"""Sentences of reports: signs, counts, singular and plural, and ceilings by what they are."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from pipelines.bench.comparison import compare_methods
from pipelines.bench.words import comparison_sentences
from pipelines.report.figures import bars
from pipelines.report.findings import judge, sentences
from pipelines.report.settings_table import ScoredRow, Setting, settings_of
from pipelines.report.sparsity_figure import draw_against_l0
from pipelines.report.terminal import footnote


def row(method: str, seed: int, n_latents: int = 24, l1: float | None = None, data_seed: int = 0) -> dict[str, Any]:
    known: dict[str, Any] = {"source": "s", "method": method, "encoder": None, "n_latents": n_latents, "l1": l1}
    return {**known, "target_l0": None, "seed": seed, "data_seed": data_seed}


def setting(method: str = "relu", n_latents: int = 24, n_seeds: int = 2, **scores: float) -> Setting:
    rows = [ScoredRow(row(method, seed, n_latents), scores) for seed in range(n_seeds)]
    return settings_of(rows)[0]


def told(*settings: Setting, score: str = "ce_recovered_mean") -> str:
    verdict = judge(settings, score)
    assert verdict is not None
    return " ".join(sentences(settings, verdict))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (0.085, "raises the loss by 0.085 nats"),
        (-0.085, "lowers the loss by 0.085 nats"),
        (-0.0002, "changes the loss by less than 0.001 nats"),
        (0.0, "changes the loss by less than 0.001 nats"),
    ],
)
def test_the_loss_is_raised_or_lowered_by_a_positive_amount(change: float, words: str):
    """A dictionary whose reconstruction helps the model 'raises the loss by -0.085 nats'."""
    text = told(setting(ce_increase=change, ce_recovered_mean=1.02))
    assert words in text and not re.search(r"(raises|lowers|better|worse)\b[^.]* by [-−]", text)  # noqa: RUF001


def test_a_loss_above_mean_ablation_recovers_nothing():
    """'relative to mean ablation it recovers -0.300 of the loss'."""
    text = told(setting(ce_increase=3.0, ce_recovered_mean=-0.3))
    assert "raises the loss by 3.00 nats per token, more than mean ablation does (ce_recovered_mean −0.300)." in text  # noqa: RUF001


@pytest.mark.parametrize(
    ("n_latents", "words"),
    [(24, "regression on 16 of its latents"), (8, "on all 8 of its latents"), (1, "on its latent")],
)
def test_a_probe_has_no_more_latents_than_there_are(n_latents: int, words: str):
    """'16 of its latents' of a dictionary that has 8."""
    probes: dict[str, Any] = {
        "probe_auc_logistic": 0.9,
        "probe_auc_latent": 0.7,
        "probe_auc_k1": 0.7,
        "probe_auc_k16": 0.8,
    }
    assert words in told(setting(n_latents=n_latents, **probes), score="probe_auc_latent")
    assert setting(n_latents=1).title == "relu, 1 latent"


def test_a_perfect_reconstruction_says_why_it_is_no_result():
    """'a ceiling, because it copies the activations exactly' did not say of which score, nor why that is no result."""
    trained = setting(fvu=0.2, ce_recovered_mean=0.8)
    exact = [setting(name, fvu=0.0, ce_recovered_mean=1.0) for name in ("neurons", "pca")]
    one, two = told(trained, exact[0]), told(trained, *exact)
    assert "A ceiling of ce_recovered_mean and not a result, because it reconstructs every activation exactly" in one
    assert "Ceilings of ce_recovered_mean and not results, because they reconstruct" in two
    assert "neurons, 24 latents; pca, 24 latents." in two
    assert "No baseline was run" not in one and "no baseline to compare it with but ceilings" in one
    both = [trained, exact[0], setting("oracle", fvu=0.1, ce_recovered_mean=0.9)]
    note = footnote(both, "ce_recovered_mean", 3)
    assert "* ceiling: knows the true directions or reconstructs every activation exactly" in note


def test_a_tie_is_neither_better_nor_worse():
    """Equal scores of one seed were 'worse by 0.000'."""
    pair = [setting("relu", n_seeds=1, mcc=0.5), setting("random", n_seeds=1, mcc=0.5)]
    assert "neither better nor worse than the best baseline, random" in told(*pair, score="mcc")


def test_settings_without_active_latents_do_not_stretch_the_figure():
    """One setting with an L0 of 0.0003 took half of the axis."""
    rows = [
        ScoredRow(row("relu", 0, l1=l1), {"l0": l0, "fvu": 0.5}) for l1, l0 in ((1.0, 9.0), (2.0, 4.0), (9.0, 3e-4))
    ]
    figure = draw_against_l0(settings_of(rows), "fvu", "fvu")
    assert figure is not None and figure.axes[0].get_xlim()[0] > 1


def test_equal_scores_are_one_stroke():
    """Probes on the activations are the same for all methods, but their means differed in the last bit."""
    third = [setting("relu", n_seeds=3, probe=0.1), setting("ica", n_seeds=1, probe=0.1)]
    assert third[0].mean("probe") != third[1].mean("probe"), "the mean of three seeds is rounded"
    figure = bars(third, {"probe": "probe"}, "AUC")
    assert figure is not None and np.shape(figure.axes[0].collections[0].get_offsets()) == (1, 2)


def compared(methods: dict[str, float]) -> list[str]:
    rows = [
        ScoredRow(row(method, 0, data_seed=data), {"mcc": mean + 0.01 * data * (i + 1), "f1": mean, "l0": 4.0})
        for i, (method, mean) in enumerate(methods.items())
        for data in range(3)
    ]
    comparison = compare_methods("s", settings_of(rows), rows, "mcc", None, lambda members: float("nan"))
    return comparison_sentences(comparison)


def test_a_comparison_counts_its_methods():
    """'the best of 1 methods', 'better than 7 of 7 other methods', and 'It' for a method named two sentences before."""
    three = {"relu": 0.9, "ica": 0.1, "pca": 0.3}
    alone, pair, several = (compared(dict(list(three.items())[:n])) for n in (1, 2, 3))
    assert "relu is the only method over 3 data sets" in alone[0]
    assert "It is significantly better than the other method" in pair[1]
    assert "It is significantly better than all 2 other methods" in several[1]
    assert any(sentence.startswith("relu is also the best by f1") for sentence in several)
