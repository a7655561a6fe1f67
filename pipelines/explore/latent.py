"""Contents of the page of one latent, as text and formatted numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from torch import Tensor

from pipelines.explore.drawing import histogram
from pipelines.explore.words import percent, plain, signed
from sae.analysis.latents import Absent, Exploration
from sae.analysis.latents.examples import SILENT, TOP
from sae.analysis.latents.words import Words, visible

STRENGTHS = 20
"""Number of shades for activations on a page."""


class LatentLink(NamedTuple):
    """Another latent in a list of related latents."""

    name: str
    """Its name."""
    page: str
    """The file of its page; empty if it has none."""
    word: str
    """The token or label for which it fires."""
    value: str
    """How closely it is related."""
    hint: str
    """What `value` means."""


class Bar(NamedTuple):
    """A token with a number, shown as a bar."""

    word: str
    """The token."""
    value: str
    """The number."""
    length: float
    """Length of the bar in per cent of the longest."""


class ExampleLine(NamedTuple):
    """A sample in which a latent is active, or a control in which it is not."""

    value: str
    """The activation."""
    where: str
    """Number of the row and position."""
    text: Markup
    """The text around it, or the active features of the sample."""


class LatentSection(NamedTuple):
    """Examples under one title."""

    title: str
    """The title."""
    lines: Sequence[ExampleLine]
    """The examples."""


class NamedExploration:
    """Results of an exploration, with names of latents, tokens and pages.

    `signed_neurons` is the number of neurons if latents are the positive and negative halves of neurons.
    """

    def __init__(self, results: Exploration, words: Words, signed_neurons: int | None = None) -> None:
        self.results, self.words, self.neurons = results, words, signed_neurons
        self.shown = [int(j) for j in results.shown]
        self.pages = {j: f"{j:05d}.html" for j in self.shown}
        self.rate, self.mean = results.tally.rate.tolist(), results.tally.mean.tolist()
        self.most = results.tally.most.tolist()
        borders = [0] * (len(self.shown) + 1)
        for i in results.examples.latent.tolist():
            borders[i + 1] += 1
        for i in range(len(self.shown)):
            borders[i + 1] += borders[i]
        self.borders = borders

    def name(self, j: int) -> str:
        """The number of a latent; for half of a neuron, the number of the neuron with the sign."""
        if self.neurons is None:
            return str(j)
        return f"{j % self.neurons}{'+' if j < self.neurons else '−'}"  # noqa: RUF001

    def word(self, j: int) -> tuple[str, float]:
        """The most frequent token among the latent's strongest activations, and its share of them; an empty text and
        NaN if the source has no tokens."""
        top = self.results.collected.top
        tokens: list[int] = [t for t in top.columns["token"][j].tolist() if t >= 0]
        if not tokens:
            return "", math.nan
        best, times = Counter(tokens).most_common(1)[0]  # of equally frequent tokens, the one with the strongest
        return self.words(best), times / len(tokens)

    def meaning(self, j: int) -> tuple[str, float]:
        """The true feature or the label that the latent predicts best, and its F1; an empty text and NaN if neither is
        known."""
        if self.results.matched is not None:
            m = self.results.matched
            return f"feature {int(m.feature[j])}", float(m.f1[j])
        if self.results.properties is not None and int(self.results.properties.best[j]) >= 0:
            return visible(self.results.properties.names[int(self.results.properties.best[j])]), float(
                self.results.properties.f1[j]
            )
        return "", math.nan

    def page(self, i: int) -> dict[str, Any]:
        """The variables of the template for the i-th shown latent."""
        j, results = self.shown[i], self.results
        matched, label = results.matched, results.properties
        counts = results.tally.histogram[j].tolist()
        ablation, logits = results.ablation, results.logits
        return {
            "name": self.name(j),
            "word": self.word(j),
            "facts": self._facts(i),
            "sections": list(self._sections(i)),
            "histogram": histogram(counts, results.tally.edges.tolist(), f"activations of latent {self.name(j)}"),
            "fires": results.tally.count[j].item(),
            "matched": None if matched is None else _matched(matched, j),
            "label": None if label is None or int(label.best[j]) < 0 else _label(label, j),
            "has_labels": label is not None,
            "logits": logits.why if isinstance(logits, Absent) else _logits(logits, i, self.words),
            "ablation": ablation.why if isinstance(ablation, Absent) else _ablation(ablation, i, self.words),
            "nearest": self._others(results.neighbours.nearest[j], results.neighbours.nearest_cosine[j], "cosine"),
            "farthest": self._others(
                results.neighbours.farthest[j][:3], results.neighbours.farthest_cosine[j][:3], "cosine"
            ),
            "partners": self._partners(i),
            "before": self.pages[self.shown[i - 1]] if i else "",
            "after": self.pages[self.shown[i + 1]] if i + 1 < len(self.shown) else "",
        }

    def _facts(self, i: int) -> list[tuple[str, str]]:
        j, results = self.shown[i], self.results
        facts = [
            ("of tokens" if results.reading.context > 1 else "of samples", percent(self.rate[j])),
            ("mean where it fires", plain(self.mean[j])),
        ]
        facts += [("largest", plain(self.most[j]))]
        if results.neighbours.nearest.shape[1]:
            facts += [("cosine to the nearest", plain(float(results.neighbours.nearest_cosine[j, 0])))]
        facts += [("encoder to decoder", plain(float(results.encoder_cosine[j])))]
        if not isinstance(results.ablation, Absent):
            facts += [("nats when ablated", signed(float(results.ablation.change[i])))]
        return facts

    def _others(self, latents: Tensor, values: Tensor, what: str) -> list[LatentLink]:
        return [self._link(j, v, what) for j, v in zip(latents.tolist(), values.tolist(), strict=True)]

    def _link(self, j: int, value: float, hint: str) -> LatentLink:
        word = self.word(j)[0] or self.meaning(j)[0]
        return LatentLink(self.name(j), self.pages.get(j, ""), word, plain(value), hint)

    def _partners(self, i: int) -> list[LatentLink]:
        latents, phi, share = (column[i].tolist() for column in self.results.partners)
        rows = zip(latents, phi, share, strict=True)
        return [
            self._link(j, p, f"fires in {percent(s)} of the samples in which this latent fires")
            for j, p, s in rows
            if j >= 0
        ]

    def _sections(self, i: int) -> Iterator[LatentSection]:
        examples, n = self.results.examples, self.results.settings.n_intervals
        begin, end = self.borders[i], self.borders[i + 1]
        groups = examples.group[begin:end].tolist()
        for group in dict.fromkeys(groups):
            lines = [self._line(begin + k) for k, g in enumerate(groups) if g == group]
            if group == TOP:
                title = "Strongest"
            elif group == SILENT:
                title = "Not active"
            else:
                title = f"{100 * (n - group) // n} to {100 * (n - group + 1) // n}% of the largest"
            yield LatentSection(title, lines)

    def _line(self, k: int) -> ExampleLine:
        results = self.results
        row, position = int(results.examples.row[k]), int(results.examples.position[k])
        value, j = float(results.examples.value[k]), int(results.shown[results.examples.latent[k]])
        if results.reading.context > 1:
            window = zip(results.windows.token[k].tolist(), results.windows.value[k].tolist(), strict=True)
            text = spans(list(window), results.windows.before, self.most[j], self.words)
            return ExampleLine(plain(value), f"row {row}, position {position}", text)
        return ExampleLine(plain(value), f"row {row}", self._features(k, j))

    def _features(self, k: int, j: int) -> Markup:
        """The true features that are active in the sample of an example; the latent's matched feature is marked."""
        w, row = self.results.windows, int(self.results.examples.row[k])
        if w.feature is None or w.coefficient is None:
            return Markup("row %d") % row
        matched = -1 if self.results.matched is None else int(self.results.matched.feature[j])
        pairs = zip(w.feature[k].tolist(), w.coefficient[k].tolist(), strict=True)
        active = [(f, c) for f, c in pairs if c > 0]
        if not active:
            return Markup("<span class=none>no feature is active</span>")
        mark = Markup('<span class="feature%s">%d <b>%s</b></span>')
        return Markup(" ").join(mark % (" own" if f == matched else "", f, plain(c)) for f, c in active)


def spans(window: Sequence[tuple[int, float]], example: int, most: float, words: Words) -> Markup:
    """Text with its tokens shaded by activation: ``<i>`` where the latent is active, with the shade as a class and the
    value as a tooltip. The token at index `example` is marked."""
    parts: list[str] = []
    for at, (token, value) in enumerate(window):
        if token < 0:
            continue
        text = str(escape(words(token)))
        if value > 0 or at == example:
            shade = 0 if not value > 0 else max(1, math.ceil(STRENGTHS * min(1.0, value / most))) if most > 0 else 0
            classes = f"s{shade} own" if at == example else f"s{shade}"
            parts.append(f'<i class="{classes}" title="{plain(value)}">{text}</i>')
        elif math.isnan(value):
            parts.append(f'<span class="none" title="not part of the activations">{text}</span>')
        else:
            parts.append(text)
    return Markup("".join(parts))


def _bars(tokens: Tensor, values: Tensor, words: Words, text: Callable[[float], str]) -> list[Bar]:
    largest = float(values.abs().max()) or 1.0
    pairs = zip(tokens.tolist(), values.tolist(), strict=True)
    return [Bar(words(t), text(v), round(100 * abs(v) / largest, 1)) for t, v in pairs]


def _logits(results: Any, i: int, words: Words) -> dict[str, list[Bar]]:
    up = _bars(results.promoted[i], results.promotion[i], words, signed)
    return {"promoted": up, "suppressed": _bars(results.suppressed[i], results.suppression[i], words, signed)}


def _ablation(results: Any, i: int, words: Words) -> dict[str, Any]:
    def points(v: float) -> str:
        return signed(100 * v)

    down, up = (results.fallen[i][:5], results.fall[i][:5]), (results.risen[i][:5], results.rise[i][:5])
    return {
        "n": int(results.n[i]),
        "change": signed(float(results.change[i])),
        "error": plain(float(results.error[i])) if int(results.n[i]) > 1 else "",
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


def _label(label: Any, j: int) -> dict[str, Any]:
    values = {name: plain(float(getattr(label, name)[j])) for name in ("f1", "precision", "recall")}
    return {"name": visible(label.names[int(label.best[j])]), **values}
