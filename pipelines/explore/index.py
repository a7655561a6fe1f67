"""Contents of the index page: a table of all latents, and facts about the analysis."""

from __future__ import annotations

import math
from typing import Any

import torch

from pipelines.explore.drawing import histogram
from pipelines.explore.latent import NamedExploration
from pipelines.explore.words import percent, rounded
from pipelines.report.numbers import number
from sae.analysis.latents import Absent

Column = tuple[str, str, str, bool]
"""Head, format of values (text, percent or number), meaning, and whether values are shown as bars."""


def table(latents: NamedExploration) -> dict[str, Any]:
    """The columns, and one row per latent: its name, the file of its page if it has one, and one value per column."""
    results = latents.results
    columns: list[Column] = []
    values: list[list[Any]] = []

    def add(head: str, form: str, meaning: str, column: list[Any], bar: bool = False) -> None:
        columns.append((head, form, meaning, bar))
        values.append(column)

    n = range(len(latents.rate))
    words = [latents.word(j) for j in n]
    if any(word for word, _ in words):
        add("fires on", "text", "the most frequent token among its strongest activations", [w for w, _ in words])
        add("of top", "percent", "share of its strongest activations on that token", _all(s for _, s in words))
    meanings = [latents.meaning(j) for j in n]
    if any(text for text, _ in meanings):
        what = "its true feature" if results.matched is not None else "the label that its firing predicts best"
        add("stands for", "text", what, [text for text, _ in meanings])
        if results.matched is not None:
            add("cosine", "number", "cosine of its decoder row and that feature", _all(results.matched.cosine.tolist()))
        meaning = "F1 of its firing for that feature or label, on samples on which it was not chosen"
        add("f1", "number", meaning, _all(f1 for _, f1 in meanings), True)
    add("rate", "percent", "share of samples in which it fires", _all(latents.rate), True)
    add("mean", "number", "mean activation where it fires", _all(latents.mean))
    add("largest", "number", "largest activation", _all(latents.most))
    if results.neighbours.nearest.shape[1]:
        meaning = "cosine of its decoder row and the nearest other one"
        add("nearest", "number", meaning, _all(results.neighbours.nearest_cosine[:, 0].tolist()))
    add("enc·dec", "number", "cosine of its encoder column and its decoder row", _all(results.encoder_cosine.tolist()))
    if not isinstance(results.ablation, Absent):
        change = torch.full((len(latents.rate),), math.nan)
        change[results.shown] = results.ablation.change
        meaning = "mean change of the next token's log-probability, in nats, when it is ablated where it fires"
        add("ablation", "number", meaning, _all(change.tolist()), True)
    rows = [[latents.name(j), latents.pages.get(j, ""), *(column[j] for column in values)] for j in n]
    return {"columns": columns, "rows": rows}


def _all(values: Any) -> list[float | None]:
    return [rounded(v) for v in values]


def exploration_facts(latents: NamedExploration) -> list[tuple[str, str]]:
    """What was analysed, in a few numbers."""
    results, dead = latents.results, sum(rate == 0 for rate in latents.rate)
    l0 = float(results.tally.count.sum()) / max(1, results.tally.n_vectors)
    unit = "token" if results.reading.context > 1 else "sample"
    return [
        ("neurons, each sign counted" if latents.neurons else "latents", f"{len(latents.rate):,}"),
        (f"held-out {unit}s", f"{results.tally.n_vectors:,}"),
        (f"active per {unit}", number(l0)),
        ("never fired", f"{dead:,}"),
        ("have a page", f"{len(latents.shown):,}"),
    ]


def notes(latents: NamedExploration) -> list[str]:
    """Results that are absent or incomplete, with the reason."""
    results = latents.results
    sentences = [f"No logit effects: {results.logits.why}."] if isinstance(results.logits, Absent) else []
    sentences += [f"No ablation: {results.ablation.why}."] if isinstance(results.ablation, Absent) else []
    if results.cofiring.n_vectors < results.cofiring.n_seen:
        share = percent(results.cofiring.n_vectors / results.cofiring.n_seen)
        sentences.append(
            f"Latents that fire together were counted in {share} of the samples, because each has many pairs of them."
        )
    if results.cofiring.pruned:
        sentences.append(
            "Only the most frequent partners of each latent were counted throughout; counts can be too low, but not "
            "too high."
        )
    return sentences


def rates(latents: NamedExploration) -> Any:
    """A histogram of the firing rates of latents."""
    edges = [10 ** (-6 + i / 8) for i in range(49)]
    counts = [0] * 48
    for rate in latents.rate:
        if rate > 0:
            counts[min(47, max(0, math.floor((math.log10(rate) + 6) * 8)))] += 1
    return histogram(counts, edges, "how often latents fire", percent)
