"""What a study says, in few numbers: means over tasks with intervals, and paired comparisons over tasks.

A task is the unit. What it has in several draws of rows, seeds of a dictionary or levels of a regime is averaged first,
so that more draws make its value surer and not more numerous. Test AUC throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from sae.numerics.statistics import Estimate, mean_interval
from sae.probing.compare import Compared, paired_comparison
from sae.probing.quiver import QuiverChoice, is_control, quiver
from sae.probing.study import ProbeResult

UNTRAINED = "untrained_"


class Condition(NamedTuple):
    """A regime at one level, or over all of its levels where `level` is None."""

    regime: str
    level: float | None

    def holds(self, regime: str, level: float) -> bool:
        return regime == self.regime and self.level in (None, level)


class Outcome(NamedTuple):
    """A method's test AUC in a condition; `reference` compares it with the first probe on the activations (`lr` unless
    left out), `untrained` with its like on an untrained dictionary, where it has one."""

    setting: str
    method: str
    condition: Condition
    auc: Estimate
    reference: Compared
    untrained: Compared | None


class Help(NamedTuple):
    """Whether adding a dictionary's probes helps, in a condition: the test AUC of the quiver of the probes on the
    activations, of that with the dictionary's added, of the dictionary's alone, and the second against the first
    (`added`), the third against the reference probe (`alone`).

    `taken` is the share of choices that fell on a dictionary's probe, `unvalidated` and `tied` the shares of those that
    a stated order decided in place of validation.
    """

    setting: str
    condition: Condition
    without: Estimate
    joined: Estimate
    own: Estimate
    added: Compared
    alone: Compared
    taken: float
    unvalidated: float
    tied: float


class Summary(NamedTuple):
    outcomes: list[Outcome]
    helps: list[Help]


ByTask = Mapping[str, float]


def summary(raw: Sequence[ProbeResult], dictionaries: Mapping[str, Sequence[Sequence[ProbeResult]]]) -> Summary:
    """From the results on the activations, and for each setting those of its dictionaries (one for each seed)."""
    conditions = conditions_of(raw)
    reference = raw[0].method
    outcomes = [
        _outcome("", method, condition, raw, raw, reference) for condition in conditions for method in _methods(raw)
    ]
    helps: list[Help] = []
    for setting, members in dictionaries.items():
        every = [result for member in members for result in member]
        outcomes += [_outcome(setting, m, c, every, raw, reference) for c in conditions for m in _methods(every)]
        quivers = [_quivers(raw, member) for member in members]
        helps += [_help(setting, condition, quivers, raw, reference) for condition in conditions]
    return Summary([o for o in outcomes if o.auc.n], [h for h in helps if h.joined.n])


def conditions_of(results: Iterable[ProbeResult]) -> list[Condition]:
    """Every regime, as a whole and, where it has several levels, at each."""
    levels: dict[str, list[float]] = {}
    for r in results:
        known = levels.setdefault(r.regime, [])
        if r.level not in known:
            known.append(r.level)
    return [
        Condition(regime, level)
        for regime, known in levels.items()
        for level in [None, *(sorted(known) if len(known) > 1 else [])]
    ]


def by_task(results: Iterable[ProbeResult], condition: Condition, method: str | None = None) -> ByTask:
    """The mean test AUC of each task."""
    found: dict[str, list[float]] = {}
    for r in results:
        if condition.holds(r.regime, r.level) and method in (None, r.method) and not math.isnan(r.test_auc):
            found.setdefault(r.task, []).append(r.test_auc)
    return {task: math.fsum(values) / len(values) for task, values in found.items()}


def against(a: ByTask, b: ByTask) -> Compared:
    """Over the tasks that both have."""
    tasks = [task for task in a if task in b]
    return paired_comparison([a[task] for task in tasks], [b[task] for task in tasks])


def _methods(results: Iterable[ProbeResult]) -> list[str]:
    return list(dict.fromkeys(r.method for r in results))


def _outcome(
    setting: str,
    method: str,
    condition: Condition,
    own: Sequence[ProbeResult],
    raw: Sequence[ProbeResult],
    reference: str,
) -> Outcome:
    values = by_task(own, condition, method)
    twin = None if is_control(method) else by_task(own, condition, UNTRAINED + method)
    return Outcome(
        setting,
        method,
        condition,
        mean_interval(list(values.values())),
        against(values, by_task(raw, condition, reference)),
        against(values, twin) if twin else None,
    )


class Quivers(NamedTuple):
    """What is taken without a dictionary's probes, with them, and of them alone."""

    without: Sequence[QuiverChoice]
    joined: Sequence[QuiverChoice]
    own: Sequence[QuiverChoice]


def _quivers(raw: Sequence[ProbeResult], member: Sequence[ProbeResult]) -> Quivers:
    tasks = {result.task for result in member}
    own = [result for result in raw if result.task in tasks]
    every = (own, [*own, *member], member)
    return Quivers(*(list(quiver(results).values()) for results in every))


def _help(
    setting: str, condition: Condition, quivers: Sequence[Quivers], raw: Sequence[ProbeResult], reference: str
) -> Help:
    def auc(pick: Callable[[Quivers], Sequence[QuiverChoice]]) -> ByTask:
        return by_task((taken.result for q in quivers for taken in pick(q)), condition)

    without, joined, own = auc(lambda q: q.without), auc(lambda q: q.joined), auc(lambda q: q.own)
    choices = [t for q in quivers for t in q.joined if condition.holds(t.result.regime, t.result.level)]
    return Help(
        setting,
        condition,
        without=mean_interval(list(without.values())),
        joined=mean_interval(list(joined.values())),
        own=mean_interval(list(own.values())),
        added=against(joined, without),
        alone=against(own, by_task(raw, condition, reference)),
        taken=_share(t.result.reading == "codes" for t in choices),
        unvalidated=_share(t.why == "prior" for t in choices),
        tied=_share(t.why == "tie" for t in choices),
    )


def _share(held: Iterable[bool]) -> float:
    values = list(held)
    return sum(values) / len(values) if values else math.nan
