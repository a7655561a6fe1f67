"""The findings of a report as sentences that are computed from the scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.report.numbers import MINUS, number, with_interval
from pipelines.report.scores import can_rank, score_of
from pipelines.report.settings_table import Setting, ranked
from sae.numerics.statistics import difference

_NEAR = 1.25
"""L0 counts as too dense above this multiple of the true L0, and as too sparse below its inverse."""
SPREAD = 1.5
"""Number of latents per property above which the findings mention it."""
MISSED = 0.05
"""Difference in AUC between nearest neighbours and the best latent above which features count as missed."""

_LEAST_SHOWN = 0.0005
"""Size of a change below which three decimals show none."""
OUTLIERS = 0.5
"""Share of the variance in 1% of the samples above which the findings warn of it."""


@dataclass(frozen=True)
class Verdict:
    """The best settings of one source by one score; a ceiling is never the best."""

    score: str
    """The score."""
    best: Setting
    """The best setting."""
    trained: Setting | None
    """The best trained setting."""
    baseline: Setting | None
    """The best baseline."""
    oracle: Setting | None
    """The best oracle."""
    exact: tuple[Setting, ...]
    """Settings that reconstruct every activation exactly, if that makes them ceilings of the score."""
    n_compared: int
    """Number of settings that have the score, without ceilings."""


def judge(settings: Sequence[Setting], score: str) -> Verdict | None:
    """The verdict on the settings of one source; None if only ceilings have the score, or neither more nor less of it
    is better."""
    order = ranked(settings, score) if can_rank(score) else []
    fair = [s for s in order if not s.is_ceiling(score)]
    if not fair:
        return None
    return Verdict(
        score=score,
        best=fair[0],
        trained=next((s for s in fair if not s.is_baseline), None),
        baseline=next((s for s in fair if s.is_baseline), None),
        oracle=next((s for s in order if s.is_oracle), None),
        exact=tuple(s for s in order if s.is_ceiling(score) and not s.is_oracle),
        n_compared=len(fair),
    )


def no_best(settings: Sequence[Setting], score: str) -> str:
    """Why no dictionary of a source is called the best, and what to do: where there is no verdict."""
    having = [s for s in settings if not math.isnan(s.mean(score))]
    if having and can_rank(score):
        return f"No dictionary is called the best: only ceilings have the score {score}."
    if having:
        return f"No dictionary is called the best: neither more nor less {score} is better; set report.best_by."
    others = {
        name for s in settings for name, e in s.scores.items() if e.n and (known := score_of(name)) and known.better
    }
    if others:
        return f"No dictionary is called the best: {score} is undefined for every one; it needs other or more data."
    return (
        f"No dictionary is called the best: {score} is undefined for every one, and so is every other score that could "
        "name a best; held-out activations that are constant or too few have none."
    )


def sentences(settings: Sequence[Setting], verdict: Verdict, nonlinear: str = "") -> list[str]:
    """The findings on one source, the most important first.

    `nonlinear` is the reason why the features of the source are not directions, empty if they are.
    """
    findings = [_best(verdict), _against_baseline(verdict), _nonlinear(settings, nonlinear), _ceiling(verdict)]
    if verdict.trained is not None:
        sweep = sweep_of(settings, verdict.trained)
        findings += [_sparsity(sweep, verdict), _reconstruction(sweep, verdict), _edge(sweep, verdict)]
        findings += [
            _outliers(verdict.trained),
            _dead(verdict.trained),
            _model(verdict.trained),
            _probes(verdict.trained),
        ]
    return [sentence for sentence in findings if sentence]


def sweep_of(settings: Sequence[Setting], centre: Setting) -> list[Setting]:
    """The settings that differ from `centre` only in their penalty, in the order of the penalty."""
    same = [s for s in settings if _without_penalty(s) == _without_penalty(centre) and s.penalty]
    return sorted(same, key=lambda s: s.penalty[0][1])


def _without_penalty(s: Setting) -> tuple[object, ...]:
    return s.source, s.method, s.encoder, s.n_latents, s.others, [name for name, _ in s.penalty]


def _best(v: Verdict) -> str:
    e = v.best.scores[v.score]
    chosen = f", the best of {v.n_compared} settings" if v.n_compared > 1 else ""
    kind = "a baseline, " if v.best.is_baseline else ""
    return f"By {v.score}, the best dictionary is {kind}{v.best.title}: {with_interval(e)}{chosen}."


def _against_baseline(v: Verdict) -> str:
    if v.baseline is None:
        if v.exact or v.oracle is not None:
            return "There is no baseline to compare it with but ceilings."
        return "No baseline was run to compare it with."
    if v.trained is None:
        return "No dictionary was trained; all results are baselines."
    name = f"the best baseline, {v.baseline.title} ({number(v.baseline.mean(v.score))})"
    gap = difference(v.trained.samples[v.score], v.baseline.samples[v.score])
    sign = -1 if (known := score_of(v.score)) and known.better == "less" else 1
    ahead = sign * gap.mean > 0
    subject = "It" if v.trained is v.best else f"The best trained dictionary, {v.trained.title},"
    size = number(abs(gap.mean))
    if gap.mean == 0:
        return f"{subject} is neither better nor worse than {name}."
    if math.isnan(gap.half):
        order = "better" if ahead else "worse"
        return f"{subject} is {order} than {name}, by {size}; with one seed there is no interval."
    ends = f"95% interval of the difference {number(gap.low)} to {number(gap.high)}".replace("-", MINUS)
    if gap.low <= 0 <= gap.high:
        return f"{subject} does not differ significantly from {name}: {ends}."
    return f"{subject} is {'better' if ahead else 'worse'} than {name}, by {size}; {ends}."


def _nonlinear(settings: Sequence[Setting], why: str) -> str:
    """For features that are not directions: the expectation, and what the scores show."""
    if not why:
        return ""
    expected = f"No linear dictionary is expected to find these features: {why}."
    trained = [s for s in settings if not s.is_baseline]
    by_label, by_error = ranked(trained, "probe_auc_latent"), ranked(trained, "fvu")
    if not by_label or not by_error or math.isnan(ceiling := by_label[0].mean("probe_auc_nearest")):
        return expected
    latent, closest = by_label[0].mean("probe_auc_latent"), by_error[0]
    result = "do not predict the labels" if ceiling - latent > MISSED else "predict the labels nevertheless"
    return (
        f"{expected} Single latents {result}: AUC {number(latent)} at best, while nearest neighbours on the "
        f"activations reach {number(ceiling)}. The lowest fvu, {number(closest.mean('fvu'))}, is that of "
        f"{closest.title}; its AUC is {number(closest.mean('probe_auc_latent'))}, and a label is spread over "
        f"{number(closest.mean('latents_per_feature'))} latents.{_latents_per_subspace(trained)}"
    )


def _latents_per_subspace(trained: Sequence[Setting]) -> str:
    """Number of latents per subspace in the narrowest dictionary that has any there, and in the widest."""
    score = "latents_per_subspace"
    widths = sorted((s.n_latents or 0, s.mean(score)) for s in trained if s.mean(score) > 0)
    if not widths or widths[0][0] == widths[-1][0]:
        return ""
    (narrow, few), (wide, many) = widths[0], widths[-1]
    return (
        f" A subspace is divided among {number(few)} latents in dictionaries of {narrow}, and among {number(many)} in "
        f"dictionaries of {wide}."
    )


def _ceiling(v: Verdict) -> str:
    if v.exact:
        one = len(v.exact) == 1
        what = f"A ceiling of {v.score} and not a result" if one else f"Ceilings of {v.score} and not results"
        why = f"{'it reconstructs' if one else 'they reconstruct'} every activation exactly, as any complete basis does"
        return f"{what}, because {why}: {'; '.join(s.title for s in v.exact)}."
    if v.oracle is None:
        return ""
    name = "oracle" if v.oracle.kind == "oracle" else f"ceiling {v.oracle.label}"
    return f"The {name}, which is given the true directions, reaches {number(v.oracle.mean(v.score))}."


def _sparsity(sweep: Sequence[Setting], v: Verdict) -> str:
    """Which penalties give too large, about right, and too small an L0."""
    known = [(s, s.mean("l0") / s.mean("true_l0")) for s in sweep if s.mean("true_l0") > 0]
    known = [(s, ratio) for s, ratio in known if math.isfinite(ratio)]
    if len(known) < 2 or v.trained is None:
        return ""
    dense = [s for s, ratio in known if ratio > _NEAR]
    sparse = [s for s, ratio in known if ratio < 1 / _NEAR]
    nearest = min(known, key=lambda pair: abs(math.log(max(pair[1], 1e-9))))[0]
    parts = [f"{_span(dense, sweep)} is too dense (l0 {_range(dense, 'l0')})"] if dense else []
    parts += [f"{_span(sparse, sweep)} is too sparse (l0 {_range(sparse, 'l0')})"] if sparse else []
    parts += [f"{_at(nearest)} is the nearest (l0 {number(nearest.mean('l0'))})"]
    width = f" With {v.trained.n_latents} latents:" if v.trained.n_latents else ""
    true = number(nearest.mean("true_l0"))
    return f"On average {true} features are active in a sample.{width} {'; '.join(parts)}."


def _reconstruction(sweep: Sequence[Setting], v: Verdict) -> str:
    """Whether the lowest error selects the same dictionary."""
    by_error = ranked(sweep, "fvu")
    if len(by_error) < 2 or v.score in ("fvu", "explained_variance") or v.trained is None:
        return ""
    lowest = by_error[0]
    if lowest is v.trained:
        return f"The same setting has the lowest fvu of its sweep, {number(lowest.mean('fvu'))}."
    return (
        f"Reconstruction alone would select another setting: the lowest fvu of the sweep, "
        f"{number(lowest.mean('fvu'))}, is at {_at(lowest)}, where {v.score} is {number(lowest.mean(v.score))}."
    )


def _edge(sweep: Sequence[Setting], v: Verdict) -> str:
    if len(sweep) < 2 or v.trained not in (sweep[0], sweep[-1]):
        return ""
    end = "smallest" if v.trained is sweep[0] else "largest"
    return f"The best {v.trained.penalty[0][0]} is the {end} of the sweep: a wider sweep may find a better one."


def _outliers(s: Setting) -> str:
    """A warning where a few samples decide the fvu."""
    share = s.mean("outlier_variance")
    if not share > OUTLIERS:
        return ""
    return (
        f"A few samples decide the fvu: {share:.0%} of the variance is in 1% of the samples, such as attention sinks. "
        f"The fvu of {s.title} is {number(s.mean('fvu'))}, that of its median sample {number(s.mean('fvu_median'))}. "
        "Sources of kind 'tensor' and 'transformer' leave such samples out with max_norm = 10."
    )


def _dead(s: Setting) -> str:
    dead = s.mean("dead")
    return f"{dead:.0%} of the latents of {s.title} fire on no test sample." if dead >= 0.01 else ""


def _model(s: Setting) -> str:
    if math.isnan(s.mean("ce_increase")):
        return ""
    change, recovered = s.mean("ce_increase"), s.mean("ce_recovered_mean")
    verb = "raises" if change > 0 else "lowers"
    by = f"{verb} the loss by {number(abs(change))}"
    if abs(change) < _LEAST_SHOWN:
        by = "changes the loss by less than 0.001"
    text = f"Spliced into the model, {s.title} {by} nats per token"
    if not math.isfinite(recovered):
        return f"{text}."
    if recovered < 0:
        return f"{text}, more than mean ablation does (ce_recovered_mean {MINUS}{number(-recovered)})."
    return f"{text}; relative to mean ablation it recovers {number(recovered)} of the loss."


def _probes(s: Setting) -> str:
    raw, latent = s.mean("probe_auc_logistic"), s.mean("probe_auc_latent")
    if math.isnan(raw) or math.isnan(latent):
        return ""
    sparse = [(int(k.removeprefix("probe_auc_k")), e.mean) for k, e in s.scores.items() if k.startswith("probe_auc_k")]
    most = max(sparse, default=None)
    more = f", logistic regression on {_latents_of(s, most[0])} {number(most[1])}" if most else ""
    spread, nearest = s.mean("latents_per_feature"), s.mean("probe_auc_nearest")
    several = f" On average a property is spread over {number(spread)} latents." if spread > SPREAD else ""
    near = "" if math.isnan(nearest) else f", nearest neighbours on them {number(nearest)}"
    return (
        f"As a probe, the best single latent of {s.title} reaches AUC {number(latent)}{more}; logistic regression on "
        f"the raw activations reaches {number(raw)}{near}.{several}"
    )


def _latents_of(s: Setting, k: int) -> str:
    """At most k latents of a setting: ``5 of its latents``, ``all 8 of its latents`` where there are no more."""
    if s.n_latents is not None and k >= s.n_latents:
        return f"all {s.n_latents} of its latents" if s.n_latents > 1 else "its latent"
    return f"{k} of its latents"


def _at(s: Setting) -> str:
    name, value = s.penalty[0]
    return f"{name} = {value:.4g}"


def _span(settings: Sequence[Setting], sweep: Sequence[Setting]) -> str:
    """``l1 <= 0.5`` or ``l1 >= 4`` if the settings are one end of the sweep, else their values."""
    name, values = settings[0].penalty[0][0], [s.penalty[0][1] for s in settings]
    if len(settings) > 1 and list(settings) == list(sweep[: len(settings)]):
        return f"{name} ≤ {values[-1]:.4g}"
    if len(settings) > 1 and list(settings) == list(sweep[-len(settings) :]):
        return f"{name} ≥ {values[0]:.4g}"
    return f"{name} = {', '.join(f'{v:.4g}' for v in values)}"


def _range(settings: Sequence[Setting], score: str) -> str:
    means = sorted(s.mean(score) for s in settings)
    low, high = number(means[0]), number(means[-1])
    return low if low == high else f"{low} to {high}"
