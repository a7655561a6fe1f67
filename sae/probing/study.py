"""A probe study: every task, condition and probe, with what was chosen by validation and what came out on test rows.

Gurnee et al. 2023, 'Finding neurons in a haystack', for k-sparse probes; Kantamneni et al. 2025, 'Are sparse
autoencoders useful?', for the protocol: :mod:`sae.probing.methods` names the probes, :mod:`sae.probing.regimes` the
conditions, :mod:`sae.probing.validation` tells how hyper-parameters are chosen. Codes are multiplied by the norm of
their decoder row, so that a latent's scale does not count.

Where we differ: test rows keep the share of positives that they come with, whatever the training rows are made to
have. F1 and accuracy of `scarcity` and `imbalance` are so those of probes fitted under other odds than they meet; the
AUC does not depend on it.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae.dictionary import Dictionary
from sae.numerics.binary_probes import f1_score
from sae.numerics.seeds import derive
from sae.probing.controls import untrained
from sae.probing.examples import ProbeExamples, ProbeTask, PropertyRows, tasks_of
from sae.probing.methods import Method, ProbeInput, StudySettings, methods_of
from sae.probing.probes import Probe, ProbeSetting
from sae.probing.regimes import Draw, Regime, draws, permuted
from sae.probing.validation import ValidatedSetting, auc, choose
from sae.registry import UserError


class ProbeResult(NamedTuple):
    """One row of the table. `n` training rows, of which `n_positive` are labelled so; `why` says what decided on the
    `setting` (see :data:`sae.probing.validation.Why`); a validation AUC that does not exist is NaN."""

    reading: ProbeInput
    method: str
    task: str
    regime: Regime
    level: float
    seed: int
    n: int
    n_positive: int
    val_auc: float
    test_auc: float
    f1: float
    accuracy: float
    setting: str
    why: str


@dataclass(frozen=True, eq=False)
class Scored:
    """Rows that probes are scored on, and the regime that their scores are filed under."""

    regime: Regime
    x: NDArray[np.float32]
    positive: NDArray[np.bool_]

    @classmethod
    def of(cls, regime: Regime, x: NDArray[np.float32], rows: PropertyRows) -> Scored:
        return cls(regime, x if len(rows.index) == len(x) else x[rows.index], rows.positive)


def study(
    settings: StudySettings,
    train: ProbeExamples,
    test: ProbeExamples,
    dictionary: Dictionary | None = None,
    shift: ProbeExamples | None = None,
) -> Iterator[list[ProbeResult]]:
    """The rows of the table, a list for each task: those of the probes on the activations, or where a dictionary is
    given, those on its codes and on its untrained control.

    Raises ``ValueError`` of one line where no task can be probed, or where there is no shift to be probed.
    """
    tasks = tasks_of(train, test, shift)
    if "shift" in settings.regimes and not any(task.shift for task in tasks):
        raise UserError("probe.regimes: 'shift' has no examples of another distribution; give some or leave it out")
    for reading, encode in _readings(settings, train, dictionary):
        x, x_test, x_shift = (None if part is None else part.read(encode) for part in (train, test, shift))
        assert x is not None and x_test is not None
        methods = methods_of(settings, reading, x.shape[1])
        for task in tasks:
            targets = [Scored.of("standard", x_test, task.test)]
            if task.shift is not None and x_shift is not None:
                targets.append(Scored.of("shift", x_shift, task.shift))
            yield [
                result
                for seed in settings.seeds
                for result in _probe(settings, task, x, targets, reading, methods, seed)
            ]


def _readings(
    settings: StudySettings, train: ProbeExamples, d: Dictionary | None
) -> Iterator[tuple[ProbeInput, Callable[[Tensor], Tensor]]]:
    if d is None:
        yield "acts", lambda x: x
        return
    yield "codes", _weighted(d)
    yield "untrained", _weighted(untrained(d, train.acts.to(d.W_dec), settings.seeds[0]))


def _weighted(d: Dictionary) -> Callable[[Tensor], Tensor]:
    norm: Tensor = d.W_dec.norm(dim=-1)

    def encode(x: Tensor) -> Tensor:
        return d.encode(x.to(norm)) * norm

    return encode


def _probe(
    settings: StudySettings,
    task: ProbeTask,
    x: NDArray[np.float32],
    targets: Sequence[Scored],
    reading: ProbeInput,
    methods: Sequence[Method],
    seed: int,
) -> Iterator[ProbeResult]:
    """All conditions and probes of one task and one draw of its rows."""
    for draw in draws(settings, task, seed):
        if len(np.unique(draw.positive)) < 2:
            continue
        asked = [t for t in targets if t.regime in settings.regimes] if draw.regime == "standard" else targets[:1]
        rows, groups = x[task.train.index[draw.place]], task.train.groups[draw.place]
        for method in methods:
            if method.in_standard_alone and draw.regime != "standard":
                continue
            path = (task.name, method.name, draw.regime, str(draw.level), seed)
            positive = permuted(draw.positive, *path) if method.shuffled else draw.positive
            choice, scores = _fit(method.probe, rows, positive, groups, [t.x for t in asked], derive("probe", *path))
            for target, score in zip(asked, scores, strict=True):
                yield _result(reading, method.name, task.name, draw, choice, target, score, seed)


def _fit(
    probe: Probe,
    x: NDArray[np.float32],
    positive: NDArray[np.bool_],
    groups: NDArray[np.int64],
    x_scored: Sequence[NDArray[np.float32]],
    seed: int,
) -> tuple[ValidatedSetting, list[NDArray[np.float32]]]:
    """The setting, chosen on the training rows, and what the probe, fitted on all of them, says of others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what does not converge is a candidate like others
        choice = choose(probe, x, positive, groups, seed)
        every = x_scored[0] if len(x_scored) == 1 else np.concatenate(x_scored)
        scores = probe.scores(x, positive, every, [choice.setting], seed)[:, 0]
    return choice, np.split(scores, np.cumsum([len(part) for part in x_scored])[:-1])


def _result(
    reading: ProbeInput,
    method: str,
    task: str,
    draw: Draw,
    choice: ValidatedSetting,
    target: Scored,
    scores: NDArray[np.float32],
    seed: int,
) -> ProbeResult:
    said = scores >= 0
    return ProbeResult(
        reading=reading,
        method=method,
        task=task,
        regime="shift" if target.regime == "shift" else draw.regime,
        level=draw.level,
        seed=seed,
        n=len(draw.place),
        n_positive=int(draw.positive.sum()),
        val_auc=choice.auc,
        test_auc=float(auc(scores[:, None], target.positive)[0]),
        f1=f1_score(torch.from_numpy(said), torch.from_numpy(target.positive)),
        accuracy=float((said == target.positive).mean()),
        setting=_told(choice.setting),
        why=choice.why,
    )


def _told(setting: ProbeSetting) -> str:
    """A setting as text, e.g. ``C=3.59``."""
    return " ".join(f"{name}={value:.3g}" for name, value in setting.items())


def write_results(results: Sequence[ProbeResult], file: Path) -> None:
    """The table as a .csv file; what is undefined is empty."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(ProbeResult._fields)
        for result in results:
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in result])


def read_results(file: Path) -> list[ProbeResult]:
    """The table that :func:`write_results` wrote."""
    with file.open(newline="", encoding="utf-8") as lines:
        return [_typed(row) for row in csv.DictReader(lines)]


def _typed(row: dict[str, str]) -> ProbeResult:
    whole, real = ("seed", "n", "n_positive"), ("level", "val_auc", "test_auc", "f1", "accuracy")
    known = {name: int(row[name]) for name in whole} | {name: float(row[name] or "nan") for name in real}
    return ProbeResult(**{**row, **known})  # pyright: ignore[reportArgumentType]
