"""What the first page shows: every latent in one table, and what was looked at."""

from __future__ import annotations

import math
from typing import Any

import torch

from pipelines.explore.drawing import histogram
from pipelines.explore.latent import NamedExploration
from pipelines.explore.words import percent, rounded
from pipelines.report.findings import number
from sae.analysis.latents import Absent

Column = tuple[str, str, str, bool]
"""The head, how values are written (text, percent or number), what it means, and whether a bar shows them."""


def table(latents: NamedExploration) -> dict[str, Any]:
    """Columns and one row for each latent: its name, its page or nothing, and a value a column."""
    found = latents.found
    columns: list[Column] = []
    values: list[list[Any]] = []

    def add(head: str, form: str, meaning: str, column: list[Any], bar: bool = False) -> None:
        columns.append((head, form, meaning, bar))
        values.append(column)

    n = range(len(latents.rate))
    words = [latents.word(j) for j in n]
    if any(word for word, _ in words):
        add("fires on", "text", "the token on which its strongest places most often are", [w for w, _ in words])
        add("of top", "percent", "the share of its strongest places that are on that token", _all(s for _, s in words))
    meanings = [latents.meaning(j) for j in n]
    if any(text for text, _ in meanings):
        what = "its true feature" if found.matched is not None else "the label that it tells best"
        add("stands for", "text", f"{what}", [text for text, _ in meanings])
        if found.matched is not None:
            add("cosine", "number", "of its decoder row with that feature", _all(found.matched.cosine.tolist()))
        add(
            "f1", "number", "of firing against that, on rows it was not chosen on", _all(f1 for _, f1 in meanings), True
        )
    add("rate", "percent", "the share of rows in which it fires", _all(latents.rate), True)
    add("mean", "number", "activation where it fires", _all(latents.mean))
    add("largest", "number", "activation", _all(latents.most))
    if found.neighbours.nearest.shape[1]:
        add("nearest", "number", "cosine of decoder rows", _all(found.neighbours.nearest_cosine[:, 0].tolist()))
    add("enc·dec", "number", "cosine of what it reads with what it writes", _all(found.encoder_cosine.tolist()))
    if not isinstance(found.ablation, Absent):
        change = torch.full((len(latents.rate),), math.nan)
        change[found.shown] = found.ablation.change
        meaning = "mean change of the next token's log-probability, in nats, when it is taken out where it fires"
        add("ablation", "number", meaning, _all(change.tolist()), True)
    rows = [[latents.name(j), latents.pages.get(j, ""), *(column[j] for column in values)] for j in n]
    return {"columns": columns, "rows": rows}


def _all(values: Any) -> list[float | None]:
    return [rounded(v) for v in values]


def exploration_facts(latents: NamedExploration) -> list[tuple[str, str]]:
    """What was looked at, in a few numbers."""
    found, dead = latents.found, sum(rate == 0 for rate in latents.rate)
    l0 = float(found.tally.count.sum()) / max(1, found.tally.n_vectors)
    what = "held-out tokens" if found.reading.context > 1 else "held-out rows"
    return [
        ("neurons, either sign" if latents.neurons else "latents", f"{len(latents.rate):,}"),
        (what, f"{found.tally.n_vectors:,}"),
        ("active in a row", number(l0)),
        ("never fired", f"{dead:,}"),
        ("have a page", f"{len(latents.shown):,}"),
    ]


def notes(latents: NamedExploration) -> list[str]:
    """What is absent or was counted in part, and why."""
    found = latents.found
    said = [f"No logit effects: {found.logits.why}."] if isinstance(found.logits, Absent) else []
    said += [f"No ablation: {found.ablation.why}."] if isinstance(found.ablation, Absent) else []
    if found.cofiring.n_vectors < found.cofiring.n_seen:
        share = percent(found.cofiring.n_vectors / found.cofiring.n_seen)
        said.append(f"Pairs that fire together were counted in {share} of the rows, for there are many in each.")
    if found.cofiring.pruned:
        said.append(
            "Of the pairs that fire together each latent's commonest were kept; their counts are never too high."
        )
    return said


def rates(latents: NamedExploration) -> Any:
    """How often latents fire, as a figure."""
    edges = [10 ** (-6 + i / 8) for i in range(49)]
    counts = [0] * 48
    for rate in latents.rate:
        if rate > 0:
            counts[min(47, max(0, math.floor((math.log10(rate) + 6) * 8)))] += 1
    return histogram(counts, edges, "how often latents fire", percent)
