"""The findings of a comparison as sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipelines.bench.comparison import SECOND_SCORE, Comparison, Test
from pipelines.bench.families import Entry
from pipelines.bench.tables import interval, p_value
from pipelines.config.names import counted
from pipelines.report.numbers import number

_LEVEL = 0.05


def comparison_sentences(c: Comparison) -> list[str]:
    """The findings, the most important first; where no fair entry has the score, that none is called the best."""
    if c.leader is None:
        return [f"No method is called the best: {c.by} is undefined for every one that is no ceiling."]
    sentences = [_leader(c), _differences(c), _baseline(c), _ceiling(c), _second(c), _fidelity(c), _chance(c)]
    return [sentence for sentence in sentences if sentence]


def _leader(c: Comparison) -> str:
    assert c.leader is not None
    where = f" at {c.leader.where.replace(', ', ' or ')}" if c.leader.where else ""
    data = f"over {c.n_data} data sets" if c.n_data > 1 else "on one data set"
    rank = f"the best of {len(c.fair)} methods" if len(c.fair) > 1 else "the only method"
    best = f"{c.leader.family.label}{where} is {rank} {data}"
    return f"By {c.by}, {best}: {_with_interval(c.leader, c.by)}."


def _differences(c: Comparison) -> str:
    tests = [t for t in c.tests if t.score == c.by and not math.isnan(t.p_holm)]
    if not tests:
        return "With one data set, differences between methods cannot be tested." if c.n_data < 2 else ""
    clear = [t for t in tests if t.p_holm < _LEVEL]
    unclear = [t for t in tests if t.p_holm >= _LEVEL]
    others = f"{len(clear)} of {counted(len(tests), 'other method')}"
    if not unclear:
        others = f"all {len(tests)} other methods" if len(tests) > 1 else "the other method"
    text = f"It is significantly better than {others} (paired t-tests over data sets, Holm-adjusted, 5%)"
    names = ", ".join(f"{t.entry.family.label} (p {p_value(t.p_holm)})" for t in unclear[:4])
    more = f" and {len(unclear) - 4} more" if len(unclear) > 4 else ""
    return f"{text}; the difference is not significant for {names}{more}." if unclear else f"{text}."


def _baseline(c: Comparison) -> str:
    classical = [e for e in c.fair if e.family.first.is_baseline and e.goodness(c.by) > -math.inf]
    trained = [e for e in c.fair if not e.family.first.is_baseline and e.goodness(c.by) > -math.inf]
    if not classical or not trained:
        return ""
    first, second = (classical[0], trained[0]) if c.leader is classical[0] else (trained[0], classical[0])
    test = _test(c, second, c.by)
    gap = f" The difference is {_gap(test)}." if test is not None else ""
    noun = "trained dictionary" if c.leader is classical[0] else "classical method"
    score = _with_interval(second, c.by)
    return f"The best {noun} is {second.family.label} with {score}, behind {first.family.label}.{gap}"


def _ceiling(c: Comparison) -> str:
    above = [e for e in c.entries if e.family.first.is_ceiling(c.by) and e.goodness(SECOND_SCORE) > -math.inf]
    if not above:
        return ""
    texts = [f"{e.family.label} {_with_interval(e, SECOND_SCORE)}" for e in above]
    return f"{SECOND_SCORE} of the ceilings: {'; '.join(texts)}."


def _second(c: Comparison) -> str:
    """Whether the leader is also the best by `SECOND_SCORE`."""
    if c.leader is None or c.by == SECOND_SCORE:
        return ""
    having = [e for e in c.fair if e.goodness(SECOND_SCORE) > -math.inf]
    if not having:
        return ""
    best = max(having, key=lambda e: e.goodness(SECOND_SCORE))
    score = _with_interval(best, SECOND_SCORE)
    if best is c.leader:
        return f"{best.family.label} is also the best by {SECOND_SCORE}: {score}."
    of_leader = f"{c.leader.family.label} has {_with_interval(c.leader, SECOND_SCORE)}"
    return f"By {SECOND_SCORE}, {best.family.label} is the best ({score}); {of_leader}."


def _fidelity(c: Comparison) -> str:
    """Whether explained variance would choose the same method."""
    name = "explained_variance"
    having = [e for e in c.fair if e.goodness(name) > -math.inf and not e.family.first.is_ceiling(name)]
    if c.leader is None or len(having) < 2:
        return ""
    best = max(having, key=lambda e: e.goodness(name))
    if best is c.leader:
        return ""
    return (
        f"Reconstruction would choose {best.family.label} (explained variance {number(best.estimate(name).mean)}), "
        f"whose {c.by} is {_with_interval(best, c.by)}."
    )


def _chance(c: Comparison) -> str:
    """The score of random directions, and the spread over data sets and seeds."""
    random = c.of("random")
    null = f"Random directions reach {_with_interval(random[0], c.by)}." if random else ""
    if c.leader is None:
        return null
    parts = c.leader.parts(c.by)
    if math.isnan(parts.data) or math.isnan(parts.seed):
        return null
    both = (
        f"The standard deviation of the best method's {c.by} is {parts.data:.2g} over data sets and {parts.seed:.2g} "
        "over initial seeds."
    )
    return f"{null} {both}".strip()


def _test(c: Comparison, entry: Entry, score: str) -> Test | None:
    return next((t for t in c.tests if t.entry is entry and t.score == score), None)


def _gap(t: Test) -> str:
    e = t.paired.estimate
    if e.n < 2:
        return number(e.mean)
    effect = "" if not math.isfinite(t.paired.effect) else f", d_z {t.paired.effect:.1f}"
    return (
        f"{number(e.mean)} {interval(e)}, better on {t.paired.wins} of {e.n} data sets (p {p_value(t.p_holm)}{effect})"
    )


def _with_interval(e: Entry, score: str) -> str:
    """A mean with its interval."""
    mean = e.estimate(score)
    return f"{number(mean.mean)} {interval(mean, score)}".strip()


def several(comparisons: Sequence[Comparison]) -> str:
    """Which method is the best on how many sources of a suite."""
    leaders = [c.leader.family.label for c in comparisons if c.leader is not None]
    if len(leaders) < 2:
        return ""
    if len(set(leaders)) == 1:
        return f"{leaders[0]} is the best on all {len(leaders)} sources."
    counts = sorted(((leaders.count(label), label) for label in set(leaders)), reverse=True)
    return "Best methods: " + ", ".join(f"{label} on {n}" for n, label in counts) + f" of {len(leaders)} sources."
