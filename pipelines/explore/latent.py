"""What the page of one latent shows, in the words and numbers that stand there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from torch import Tensor

from pipelines.explore.drawing import histogram
from pipelines.explore.words import Words, percent, plain, signed, visible
from sae.analysis.latents import Absent, Exploration
from sae.analysis.latents.examples import SILENT, TOP

STRENGTHS = 20
"""Shades of activation on a page."""


class Named(NamedTuple):
    """Another latent: its name, its page where it has one, the token that it fires on most, and how near it is."""

    name: str
    page: str
    word: str
    value: str
    hint: str


class Bar(NamedTuple):
    """A token with a number and a bar of that length, in per cent."""

    word: str
    value: str
    length: float


class ExampleLine(NamedTuple):
    """An example: the activation, where it is, and its text or what is known of the row."""

    value: str
    where: str
    text: Markup


class LatentSection(NamedTuple):
    """Examples under one title."""

    title: str
    lines: Sequence[ExampleLine]


class NamedExploration:
    """An exploration with the names of things on pages."""

    def __init__(self, found: Exploration, words: Words, signed_neurons: int | None = None) -> None:
        self.found, self.words, self.neurons = found, words, signed_neurons
        self.shown = [int(j) for j in found.shown]
        self.pages = {j: f"{j:05d}.html" for j in self.shown}
        self.rate, self.mean = found.tally.rate.tolist(), found.tally.mean.tolist()
        self.most = found.tally.most.tolist()
        borders = [0] * (len(self.shown) + 1)
        for i in found.examples.latent.tolist():
            borders[i + 1] += 1
        for i in range(len(self.shown)):
            borders[i + 1] += borders[i]
        self.borders = borders

    def name(self, j: int) -> str:
        """The number of a latent; of a neuron's two halves, the neuron and the sign."""
        if self.neurons is None:
            return str(j)
        return f"{j % self.neurons}{'+' if j < self.neurons else '−'}"  # noqa: RUF001

    def word(self, j: int) -> tuple[str, float]:
        """The token on which the latent's strongest places are most often, and in what share of them; without tokens
        nothing."""
        top = self.found.collected.top
        known: list[int] = [t for t in top.columns["token"][j].tolist() if t >= 0]
        if not known:
            return "", math.nan
        best, times = Counter(known).most_common(1)[0]  # of equally frequent ones the strongest
        return self.words(best), times / len(known)

    def meaning(self, j: int) -> tuple[str, float]:
        """What the latent stands for by the truth or the labels, and its f1."""
        if self.found.matched is not None:
            m = self.found.matched
            return f"feature {int(m.feature[j])}", float(m.f1[j])
        if self.found.properties is not None and int(self.found.properties.best[j]) >= 0:
            return visible(self.found.properties.names[int(self.found.properties.best[j])]), float(
                self.found.properties.f1[j]
            )
        return "", math.nan

    def page(self, i: int) -> dict[str, Any]:
        """What the template of the i-th latent that is shown is given."""
        j, found = self.shown[i], self.found
        matched, told = found.matched, found.properties
        counts = found.tally.histogram[j].tolist()
        ablation, logits = found.ablation, found.logits
        return {
            "name": self.name(j),
            "word": self.word(j),
            "facts": self._facts(i),
            "sections": list(self._sections(i)),
            "histogram": histogram(counts, found.tally.edges.tolist(), f"activations of latent {self.name(j)}"),
            "fires": found.tally.count[j].item(),
            "matched": None if matched is None else _matched(matched, j),
            "told": None if told is None or int(told.best[j]) < 0 else _told(told, j),
            "has_labels": told is not None,
            "logits": logits.why if isinstance(logits, Absent) else _logits(logits, i, self.words),
            "ablation": ablation.why if isinstance(ablation, Absent) else _ablation(ablation, i, self.words),
            "nearest": self._others(found.neighbours.nearest[j], found.neighbours.nearest_cosine[j], "cosine"),
            "farthest": self._others(
                found.neighbours.farthest[j][:3], found.neighbours.farthest_cosine[j][:3], "cosine"
            ),
            "partners": self._partners(i),
            "before": self.pages[self.shown[i - 1]] if i else "",
            "after": self.pages[self.shown[i + 1]] if i + 1 < len(self.shown) else "",
        }

    def _facts(self, i: int) -> list[tuple[str, str]]:
        j, found = self.shown[i], self.found
        facts = [
            ("of tokens" if found.reading.context > 1 else "of rows", percent(self.rate[j])),
            ("mean where it fires", plain(self.mean[j])),
        ]
        facts += [("largest", plain(self.most[j]))]
        if found.neighbours.nearest.shape[1]:
            facts += [("cosine to the nearest", plain(float(found.neighbours.nearest_cosine[j, 0])))]
        facts += [("encoder to decoder", plain(float(found.encoder_cosine[j])))]
        if not isinstance(found.ablation, Absent):
            facts += [("nats when taken out", signed(float(found.ablation.change[i])))]
        return facts

    def _others(self, latents: Tensor, values: Tensor, what: str) -> list[Named]:
        return [self._named(j, v, what) for j, v in zip(latents.tolist(), values.tolist(), strict=True)]

    def _named(self, j: int, value: float, what: str) -> Named:
        return Named(self.name(j), self.pages.get(j, ""), self.word(j)[0] or self.meaning(j)[0], plain(value), what)

    def _partners(self, i: int) -> list[Named]:
        latents, phi, share = (column[i].tolist() for column in self.found.partners)
        rows = zip(latents, phi, share, strict=True)
        return [
            self._named(j, p, f"in {percent(s)} of the places where this latent fires") for j, p, s in rows if j >= 0
        ]

    def _sections(self, i: int) -> Iterator[LatentSection]:
        examples, n = self.found.examples, self.found.settings.n_intervals
        begin, end = self.borders[i], self.borders[i + 1]
        groups = examples.group[begin:end].tolist()
        for group in dict.fromkeys(groups):
            lines = [self._line(begin + k) for k, g in enumerate(groups) if g == group]
            if group == TOP:
                title = "Strongest"
            elif group == SILENT:
                title = "Silent"
            else:
                title = f"{100 * (n - group) // n} to {100 * (n - group + 1) // n}% of the largest"
            yield LatentSection(title, lines)

    def _line(self, k: int) -> ExampleLine:
        found = self.found
        row, position = int(found.examples.row[k]), int(found.examples.position[k])
        value, j = float(found.examples.value[k]), int(found.shown[found.examples.latent[k]])
        if found.reading.context > 1:
            window = zip(found.windows.token[k].tolist(), found.windows.value[k].tolist(), strict=True)
            text = spans(list(window), found.windows.before, self.most[j], self.words)
            return ExampleLine(plain(value), f"row {row}, position {position}", text)
        return ExampleLine(plain(value), f"row {row}", self._features(k, j))

    def _features(self, k: int, j: int) -> Markup:
        """The true features that are active in the row of an example, the latent's own marked."""
        w, row = self.found.windows, int(self.found.examples.row[k])
        if w.feature is None or w.coefficient is None:
            return Markup("row %d") % row
        own = -1 if self.found.matched is None else int(self.found.matched.feature[j])
        pairs = zip(w.feature[k].tolist(), w.coefficient[k].tolist(), strict=True)
        active = [(f, c) for f, c in pairs if c > 0]
        if not active:
            return Markup("<span class=none>no feature is active</span>")
        mark = Markup('<span class="feature%s">%d <b>%s</b></span>')
        return Markup(" ").join(mark % (" own" if f == own else "", f, plain(c)) for f, c in active)


def spans(window: Sequence[tuple[int, float]], own: int, most: float, words: Words) -> Markup:
    """A stretch of text with its tokens shaded by activation: ``<i>`` where the latent is active, the shade as a class
    and the value as a hint; all else as plain text. The example's own token is marked."""
    parts: list[str] = []
    for at, (token, value) in enumerate(window):
        if token < 0:
            continue
        text = str(escape(words(token)))
        if value > 0 or at == own:
            shade = 0 if not value > 0 else max(1, math.ceil(STRENGTHS * min(1.0, value / most))) if most > 0 else 0
            classes = f"s{shade} own" if at == own else f"s{shade}"
            parts.append(f'<i class="{classes}" title="{plain(value)}">{text}</i>')
        elif math.isnan(value):
            parts.append(f'<span class="none" title="not read by the dictionary">{text}</span>')
        else:
            parts.append(text)
    return Markup("".join(parts))


def _bars(tokens: Tensor, values: Tensor, words: Words, told: Any) -> list[Bar]:
    largest = float(values.abs().max()) or 1.0
    pairs = zip(tokens.tolist(), values.tolist(), strict=True)
    return [Bar(words(t), told(v), round(100 * abs(v) / largest, 1)) for t, v in pairs]


def _logits(found: Any, i: int, words: Words) -> dict[str, list[Bar]]:
    up = _bars(found.promoted[i], found.promotion[i], words, signed)
    return {"promoted": up, "suppressed": _bars(found.suppressed[i], found.suppression[i], words, signed)}


def _ablation(found: Any, i: int, words: Words) -> dict[str, Any]:
    def points(v: float) -> str:
        return signed(100 * v)

    down, up = (found.fallen[i][:5], found.fall[i][:5]), (found.risen[i][:5], found.rise[i][:5])
    return {
        "n": int(found.n[i]),
        "change": signed(float(found.change[i])),
        "error": plain(float(found.error[i])) if int(found.n[i]) > 1 else "",
        "fallen": _bars(*down, words, points),
        "risen": _bars(*up, words, points),
    }


def _matched(m: Any, j: int) -> dict[str, Any]:
    return {
        "feature": int(m.feature[j]),
        "cosine": plain(float(m.cosine[j])),
        "f1": plain(float(m.f1[j])),
        "mutual": bool(m.mutual[j]),
    }


def _told(told: Any, j: int) -> dict[str, Any]:
    values = {name: plain(float(getattr(told, name)[j])) for name in ("f1", "precision", "recall")}
    return {"name": visible(told.names[int(told.best[j])]), **values}
