"""A probe study: every task, condition and probe, with hyper-parameters chosen by validation and scores on test rows.

k-sparse probes follow Gurnee et al. 2023, 'Finding neurons in a haystack', and the protocol Kantamneni et al. 2025,
'Are sparse autoencoders useful?': :mod:`sae.probing.methods` defines the probes, :mod:`sae.probing.regimes` the
conditions, and :mod:`sae.probing.validation` the choice of hyper-parameters. Codes are multiplied by the norm of their
decoder row, so that the scale of a latent does not matter.

Where we differ: test rows keep their share of positives, whatever the share in the training rows. In `scarcity` and
`imbalance`, F1 and accuracy are therefore those of probes fitted with a different class balance; the AUC does not
depend on it.
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
from sae.probing.validation import ValidatedSetting, auc, choose_setting
from sae.registry import UserError


class ProbeResult(NamedTuple):
    """One row of the table."""

    reading: ProbeInput
    """The input of the probe."""
    method: str
    """The name of the method."""
    task: str
    """The name of the property."""
    regime: Regime
    """The regime."""
    level: float
    """The level of the regime."""
    seed: int
    """The seed of the training rows."""
    n: int
    """The number of training rows."""
    n_positive: int
    """The number of training rows labelled positive."""
    val_auc: float
    """The validation AUC of the chosen setting; NaN if there is no validation."""
    test_auc: float
    """The test AUC."""
    f1: float
    """The test F1."""
    accuracy: float
    """The test accuracy."""
    setting: str
    """The chosen hyper-parameters."""
    why: str
    """What decided on the setting, see :data:`sae.probing.validation.SelectionReason`."""


@dataclass(frozen=True, eq=False)
class EvaluationRows:
    """Rows on which probes are scored."""

    regime: Regime
    """The regime under which the scores are recorded: `shift`, or `standard` for that of the training rows."""
    x: NDArray[np.float32]
    """The probe inputs ``[rows, n_columns]``."""
    positive: NDArray[np.bool_]
    """The labels."""

    @classmethod
    def of(cls, regime: Regime, x: NDArray[np.float32], rows: PropertyRows) -> EvaluationRows:
        """The rows of `x` for which the property is known."""
        return cls(regime, x if len(rows.index) == len(x) else x[rows.index], rows.positive)


def study(
    settings: StudySettings,
    train: ProbeExamples,
    test: ProbeExamples,
    dictionary: Dictionary | None = None,
    shift: ProbeExamples | None = None,
) -> Iterator[list[ProbeResult]]:
    """Yields a list of results for each task and input: the activations, or with a `dictionary`, its codes and those of
    its untrained control.

    Raises `UserError` if there is no task, or if the regime `shift` is requested without shifted examples.
    """
    tasks = tasks_of(train, test, shift)
    if "shift" in settings.regimes and not any(task.shift for task in tasks):
        raise UserError("probe.regimes: 'shift' has no shifted examples; set probe.tasks.shift or leave it out")
    for reading, encode in _readings(settings, train, dictionary):
        x, x_test, x_shift = (None if part is None else part.read(encode) for part in (train, test, shift))
        assert x is not None and x_test is not None
        methods = methods_of(settings, reading, x.shape[1])
        for task in tasks:
            targets = [EvaluationRows.of("standard", x_test, task.test)]
            if task.shift is not None and x_shift is not None:
                targets.append(EvaluationRows.of("shift", x_shift, task.shift))
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
    yield "codes", _weighted_codes(d)
    yield "untrained", _weighted_codes(untrained(d, train.acts.to(d.W_dec), settings.seeds[0]))


def _weighted_codes(d: Dictionary) -> Callable[[Tensor], Tensor]:
    """A function that returns codes times the norms of their decoder rows."""
    norm: Tensor = d.W_dec.norm(dim=-1)

    def encode(x: Tensor) -> Tensor:
        return d.encode(x.to(norm)) * norm

    return encode


def _probe(
    settings: StudySettings,
    task: ProbeTask,
    x: NDArray[np.float32],
    targets: Sequence[EvaluationRows],
    reading: ProbeInput,
    methods: Sequence[Method],
    seed: int,
) -> Iterator[ProbeResult]:
    """All conditions and probes of one task and one seed."""
    for draw in draws(settings, task, seed):
        if len(np.unique(draw.positive)) < 2:
            continue
        scored = [t for t in targets if t.regime in settings.regimes] if draw.regime == "standard" else targets[:1]
        rows, groups = x[task.train.index[draw.place]], task.train.groups[draw.place]
        for method in methods:
            if method.in_standard_alone and draw.regime != "standard":
                continue
            path = (task.name, method.name, draw.regime, str(draw.level), seed)
            positive = permuted(draw.positive, *path) if method.shuffled else draw.positive
            choice, scores = _fit(method.probe, rows, positive, groups, [t.x for t in scored], derive("probe", *path))
            for target, score in zip(scored, scores, strict=True):
                yield _result(reading, method.name, task.name, draw, choice, target, score, seed)


def _fit(
    probe: Probe,
    x: NDArray[np.float32],
    positive: NDArray[np.bool_],
    groups: NDArray[np.int64],
    x_scored: Sequence[NDArray[np.float32]],
    seed: int,
) -> tuple[ValidatedSetting, list[NDArray[np.float32]]]:
    """The setting chosen on the training rows, and the scores for `x_scored` of the probe fitted to all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that does not converge is a candidate like the others
        choice = choose_setting(probe, x, positive, groups, seed)
        together = x_scored[0] if len(x_scored) == 1 else np.concatenate(x_scored)
        scores = probe.scores(x, positive, together, [choice.setting], seed)[:, 0]
    return choice, np.split(scores, np.cumsum([len(part) for part in x_scored])[:-1])


def _result(
    reading: ProbeInput,
    method: str,
    task: str,
    draw: Draw,
    choice: ValidatedSetting,
    target: EvaluationRows,
    scores: NDArray[np.float32],
    seed: int,
) -> ProbeResult:
    predicted = scores >= 0
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
        f1=f1_score(torch.from_numpy(predicted), torch.from_numpy(target.positive)),
        accuracy=float((predicted == target.positive).mean()),
        setting=_as_text(choice.setting),
        why=choice.why,
    )


def _as_text(setting: ProbeSetting) -> str:
    """A setting as text, e.g. ``C=3.59``."""
    return " ".join(f"{name}={value:.3g}" for name, value in setting.items())


def write_results(results: Sequence[ProbeResult], file: Path) -> None:
    """Writes the table as a .csv file; NaN is written as an empty cell."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(ProbeResult._fields)
        for result in results:
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in result])


def read_results(file: Path) -> list[ProbeResult]:
    """Reads the table that :func:`write_results` wrote."""
    with file.open(newline="", encoding="utf-8") as lines:
        return [_typed(row) for row in csv.DictReader(lines)]


def _typed(row: dict[str, str]) -> ProbeResult:
    integers, floats = ("seed", "n", "n_positive"), ("level", "val_auc", "test_auc", "f1", "accuracy")
    numbers = {name: int(row[name]) for name in integers} | {name: float(row[name] or "nan") for name in floats}
    return ProbeResult(**{**row, **numbers})  # pyright: ignore[reportArgumentType]
