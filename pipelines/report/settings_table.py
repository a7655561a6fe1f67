"""Scores of dictionaries as rows, and settings: the rows that differ only in their seeds, with mean scores."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.config.names import counted, short_labels
from pipelines.report.scores import BEST_BY, EXACT_FVU, FIDELITY, can_rank, goodness, ordered_scores, score_of
from sae.numerics.statistics import Estimate, mean_interval
from sae.registry import MissingFileError, UserError, kinds

Value = str | int | float | None

IDENTITY = ("source", "method", "encoder", "n_latents", "l1", "target_l0", "seed", "data_seed")
"""The columns of ``scores.csv`` that identify a dictionary."""
_SEEDS = ("seed", "data_seed")


@dataclass(frozen=True)
class ScoredRow:
    """Identity and scores of one dictionary."""

    identity: Mapping[str, Value]
    """The columns of `IDENTITY`, and further settings by name."""
    scores: Mapping[str, float]
    """Scores by name; an undefined score is NaN or absent."""


@dataclass(frozen=True)
class Setting:
    """The dictionaries that differ only in their seeds, with the mean of every score and its 95% interval."""

    source: str
    """Name of the source."""
    method: str
    """The kind of the method, followed by the settings in which methods of that kind differ."""
    encoder: str
    """The encoder's kind; empty for the dictionary's own encoder."""
    label: str
    """Short name of the method, with its encoder where a method has several."""
    n_latents: int | None
    """Number of latents."""
    l1: float | None
    """L1 penalty."""
    target_l0: float | None
    """Target L0."""
    others: tuple[tuple[str, Value], ...] = ()
    """Further settings that identify the rows, with their values."""
    members: tuple[int, ...] = ()
    """Indices into the rows."""
    scores: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    """Mean and interval of each score."""
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """The independent values of each score: one per seed, or one per data seed where data seeds differ."""

    @property
    def kind(self) -> str:
        """The kind of the method, without its settings."""
        return self.method.partition(" ")[0].partition("+")[0]

    @property
    def is_baseline(self) -> bool:
        """Whether the method is a baseline."""
        return self.kind in kinds("baselines")

    @property
    def is_oracle(self) -> bool:
        """Whether the method is given the true features."""
        return self.is_baseline and "truth" in kinds("baselines")[self.kind].Config.needs

    @property
    def without_encoder(self) -> tuple[object, ...]:
        """What identifies the dictionary: settings that differ only in their encoder share one dictionary."""
        return self.source, self.method, self.n_latents, self.l1, self.target_l0, self.others

    @property
    def is_exact(self) -> bool:
        """Whether the reconstruction is exact, as for a complete basis: nothing was compressed."""
        return self.mean("fvu") < EXACT_FVU

    def is_ceiling(self, score: str) -> bool:
        """Whether the score is an upper bound rather than a result: an oracle is given the features, and an exact
        reconstruction has perfect scores of fidelity without having found anything."""
        return self.is_oracle or (self.is_exact and score in FIDELITY)

    @property
    def title(self) -> str:
        """Name and settings as text, e.g. ``relu, 64 latents, l1 = 2``."""
        parts = [self.label, counted(self.n_latents, "latent") if self.n_latents else ""]
        parts += [f"{name} = {value:.4g}" for name, value in self.penalty]
        parts += [f"{name} = {value}" for name, value in self.others if value not in ("", None)]
        return ", ".join(filter(None, parts))

    @property
    def penalty(self) -> list[tuple[str, float]]:
        """The parameter that sets the sparsity, `l1` or `target_l0`, with its value."""
        parameters = (("l1", self.l1), ("target_l0", self.target_l0))
        return [(name, value) for name, value in parameters if value is not None]

    def mean(self, score: str) -> float:
        """The mean of a score over seeds; NaN if there is none."""
        return self.scores[score].mean if score in self.scores else math.nan

    def goodness(self, score: str) -> float:
        """The mean, negated for scores where less is better; minus infinity if there is none."""
        return goodness(self.mean(score), score)


def score_numbers(inputs: Iterable[str]) -> list[int]:
    """The indices i of the step inputs named ``score.<i>``, ascending."""
    return sorted(int(name.removeprefix("score.")) for name in inputs if name.startswith("score."))


def read_scored_row(directory: Path) -> ScoredRow:
    """The row in the ``scores.json`` of a finished score step, where undefined scores are null."""
    content = json.loads((directory / "scores.json").read_text())
    return ScoredRow(content["row"], {k: math.nan if v is None else float(v) for k, v in content["scores"].items()})


def settings_of(rows: Sequence[ScoredRow]) -> list[Setting]:
    """Rows grouped by everything except their seeds, in the order in which they first appear.

    Rows that agree in every column, seeds included, belong to different settings: the n-th of each form one setting.
    """
    seen: dict[tuple[tuple[str, Value], ...], int] = {}
    groups: dict[tuple[tuple[str, Value], ...], list[int]] = {}
    for i, row in enumerate(rows):
        everything = tuple(row.identity.items())
        seen[everything] = copy = seen.get(everything, 0) + 1
        key = tuple((name, value) for name, value in everything if name not in _SEEDS)
        groups.setdefault((*key, ("variant", copy if copy > 1 else None)), []).append(i)
    pairs = {tuple(str(row.identity.get(name) or "") for name in ("method", "encoder")) for row in rows}
    encoders, names = Counter(method for method, _ in pairs), short_labels(sorted(method for method, _ in pairs))
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
    """The values that an interval may treat as independent: one per seed. Where data seeds differ, one per data seed,
    because the scores of dictionaries trained on the same features are correlated."""
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


def best_per_method(settings: Iterable[Setting], score: str) -> list[Setting]:
    """The best setting of each method, the best method first."""
    best: dict[str, Setting] = {}
    for s in ranked(settings, score):
        best.setdefault(s.label, s)
    return list(best.values())


def deciding_score(settings: Sequence[Setting], requested: str) -> str:
    """The score that selects the best dictionary: the requested one if any dictionary has it, else the first of
    `BEST_BY` that exists, else the first known score in table order of which more or less is better.

    The requested one, which then selects nothing, if there is no such score.
    """
    names = {name for s in settings for name, e in s.scores.items() if not math.isnan(e.mean)}
    instead = (name for name in (*BEST_BY, *ordered_scores(names)) if score_of(name) is not None)
    return next((name for name in (requested, *instead) if name in names and can_rank(name)), requested)


def write_csv(rows: Sequence[ScoredRow], path: Path) -> None:
    """Writes one line per dictionary and one column per score: numbers in full precision, empty where undefined."""
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
    """The rows of a ``scores.csv``. Raises `MissingFileError` if it does not exist and `UserError` if it is damaged."""
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; `sae run CONFIG` writes it")
    with path.open(newline="", encoding="utf-8") as f:
        try:
            lines = csv.DictReader(f)
            columns = list(lines.fieldnames or ())
            n = columns.index(IDENTITY[-1]) + 1
            return [
                ScoredRow(
                    {c: line[c] or None for c in columns[:n]}, {c: float(line[c]) for c in columns[n:] if line[c]}
                )
                for line in lines
            ]
        except (ValueError, csv.Error) as error:
            raise UserError(
                f"{path}: not readable as a table of scores: {' '.join(str(error).split())[:200]}"
            ) from None
