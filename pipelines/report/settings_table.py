"""Scores side by side: one row a dictionary, one setting for the rows that differ in their seeds alone."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.config.names import brief
from pipelines.report.scores import BEST_BY, COPY, FIDELITY, goodness, ordered_scores
from sae.numerics.statistics import Estimate, mean_interval
from sae.registry import MissingFileError, kinds

Value = str | int | float | None

IDENTITY = ("source", "method", "encoder", "n_latents", "l1", "target_l0", "seed", "data_seed")
_SEEDS = ("seed", "data_seed")


@dataclass(frozen=True)
class ScoredRow:
    """One dictionary: what it is, and its scores; a score that is undefined is NaN or absent."""

    identity: Mapping[str, Value]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Setting:
    """The dictionaries that differ in nothing but seeds, with the mean of every score and its 95% interval.

    `members` are indices into the rows. `label` is the method in brief, with its encoder where a method has several.
    `others` are what a row tells of itself beyond the usual columns.
    """

    source: str
    method: str
    encoder: str
    label: str
    n_latents: int | None
    l1: float | None
    target_l0: float | None
    others: tuple[tuple[str, Value], ...] = ()
    members: tuple[int, ...] = ()
    scores: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])

    @property
    def kind(self) -> str:
        """The method's kind; `method` may go on with the settings in which its likes differ."""
        return self.method.partition(" ")[0].partition("+")[0]

    @property
    def is_baseline(self) -> bool:
        return self.kind in kinds("sae.baselines")

    @property
    def is_oracle(self) -> bool:
        """Whether it was given what the others are to find."""
        return self.is_baseline and "truth" in kinds("sae.baselines")[self.kind].Config.needs

    @property
    def but_encoder(self) -> tuple[object, ...]:
        """What its directions are told by: settings that differ in the encoder alone are one dictionary, read twice."""
        return self.source, self.method, self.n_latents, self.l1, self.target_l0, self.others

    @property
    def copies(self) -> bool:
        """Whether the activations come back exactly, as from a complete basis: nothing was compressed."""
        return self.mean("fvu") < COPY

    def is_ceiling(self, score: str) -> bool:
        """Whether the score is no merit of the setting: the oracle was given the features, and a copy of the
        activations has every score of fidelity perfect without having found anything."""
        return self.is_oracle or (self.copies and score in FIDELITY)

    @property
    def title(self) -> str:
        """The setting in words, e.g. ``relu, 64 latents, l1 = 2``."""
        parts = [self.label, f"{self.n_latents} latents" if self.n_latents else ""]
        parts += [f"{name} = {value:.4g}" for name, value in self.penalty]
        parts += [f"{name} = {value}" for name, value in self.others if value not in ("", None)]
        return ", ".join(filter(None, parts))

    @property
    def penalty(self) -> list[tuple[str, float]]:
        """What sets the sparsity: `l1` or `target_l0`."""
        given = (("l1", self.l1), ("target_l0", self.target_l0))
        return [(name, value) for name, value in given if value is not None]

    def mean(self, score: str) -> float:
        """The mean of a score over seeds, NaN where there is none."""
        return self.scores[score].mean if score in self.scores else math.nan

    def goodness(self, score: str) -> float:
        """The mean, with its sign turned where less is better; minus infinity where there is none."""
        return goodness(self.mean(score), score)


def settings_of(rows: Sequence[ScoredRow]) -> list[Setting]:
    """Rows gathered by all but their seeds, in the order in which they first appear.

    Rows that agree in every column, seeds included, belong to different settings: their n-th copies go together.
    """
    seen: dict[tuple[tuple[str, Value], ...], int] = {}
    groups: dict[tuple[tuple[str, Value], ...], list[int]] = {}
    for i, row in enumerate(rows):
        everything = tuple(row.identity.items())
        seen[everything] = copy = seen.get(everything, 0) + 1
        key = tuple((name, value) for name, value in everything if name not in _SEEDS)
        groups.setdefault((*key, ("variant", copy if copy > 1 else None)), []).append(i)
    pairs = {tuple(str(row.identity.get(name) or "") for name in ("method", "encoder")) for row in rows}
    encoders, names = Counter(method for method, _ in pairs), brief(sorted(method for method, _ in pairs))
    labels = {(m, e): f"{names[m]} ({e})" if encoders[m] > 1 else names[m] for m, e in pairs}
    return [_setting(dict(key), members, rows, labels) for key, members in groups.items()]


def _setting(
    identity: dict[str, Value], members: list[int], rows: Sequence[ScoredRow], labels: Mapping[tuple[str, str], str]
) -> Setting:
    scores = ordered_scores(name for i in members for name in rows[i].scores)
    samples = {name: _independent(name, members, rows) for name in scores}
    n_latents, l1, target_l0 = (identity.pop(name, None) for name in ("n_latents", "l1", "target_l0"))
    source, method, encoder = (str(identity.pop(name, None) or "") for name in ("source", "method", "encoder"))
    return Setting(
        source=source,
        method=method,
        encoder=encoder,
        label=labels[method, encoder],
        n_latents=None if n_latents in (None, "") else int(n_latents),
        l1=None if l1 in (None, "") else float(l1),
        target_l0=None if target_l0 in (None, "") else float(target_l0),
        others=tuple(identity.items()),
        members=tuple(members),
        scores={name: mean_interval(values) for name, values in samples.items()},
        samples=samples,
    )


def _independent(name: str, members: Sequence[int], rows: Sequence[ScoredRow]) -> tuple[float, ...]:
    """The values that an interval may count as independent: one a seed; where data seeds differ, one a data seed,
    because dictionaries trained on the same features share the luck of those features."""
    by_data: dict[Value, list[float]] = {}
    for i in members:
        by_data.setdefault(rows[i].identity.get("data_seed"), []).append(rows[i].scores.get(name, math.nan))
    if len(by_data) == 1:
        return tuple(v for v in next(iter(by_data.values())) if math.isfinite(v))
    means = (mean_interval(values).mean for values in by_data.values())
    return tuple(v for v in means if math.isfinite(v))


def ranked(settings: Iterable[Setting], score: str) -> list[Setting]:
    """Settings that have the score, the best first."""
    having = [s for s in settings if s.goodness(score) > -math.inf]
    return sorted(having, key=lambda s: -s.goodness(score))


def champions(settings: Iterable[Setting], score: str) -> list[Setting]:
    """The best setting of each method, the best method first."""
    best: dict[str, Setting] = {}
    for s in ranked(settings, score):
        best.setdefault(s.label, s)
    return list(best.values())


def decided_by(settings: Sequence[Setting], wanted: str) -> str:
    """The score that names the best dictionary: the one wanted where any dictionary has it, else the first of
    `BEST_BY` that exists, else whatever there is."""
    names = {name for s in settings for name, e in s.scores.items() if not math.isnan(e.mean)}
    return next((name for name in (wanted, *BEST_BY, *ordered_scores(names)) if name in names), wanted)


def write_csv(rows: Sequence[ScoredRow], path: Path) -> None:
    """One line a dictionary, one column a score; numbers in full, empty where a score does not apply."""
    extra = [name for row in rows for name in row.identity if name not in IDENTITY]
    identity = [*IDENTITY[: -len(_SEEDS)], *dict.fromkeys(extra), *_SEEDS]
    names = ordered_scores(name for row in rows for name in row.scores)
    with path.open("w", newline="", encoding="utf-8") as f:
        lines = csv.writer(f, lineterminator="\n")
        lines.writerow([*identity, *names])
        for row in rows:
            numbers = [row.scores.get(name, math.nan) for name in names]
            known = ["" if (v := row.identity.get(name)) is None else v for name in identity]
            lines.writerow([*known, *("" if math.isnan(v) else repr(v) for v in numbers)])


def read_csv(path: Path) -> list[ScoredRow]:
    """The rows of a ``scores.csv``; a ``FileNotFoundError`` names the file where there is none."""
    if not path.is_file():
        raise MissingFileError(f"{path}: no scores here; run the report first")
    with path.open(newline="", encoding="utf-8") as f:
        lines = csv.DictReader(f)
        columns = list(lines.fieldnames or ())
        n = columns.index(IDENTITY[-1]) + 1
        return [
            ScoredRow({c: line[c] or None for c in columns[:n]}, {c: float(line[c]) for c in columns[n:] if line[c]})
            for line in lines
        ]
