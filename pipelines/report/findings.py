"""What the scores say, in sentences that are computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.report.scores import score_of
from pipelines.report.settings_table import Setting, ranked
from sae.numerics.statistics import Estimate, difference

MINUS, UNDEFINED = "−", "–"  # noqa: RUF001
_NEAR = 1.25
"""Latents count as too dense above this factor of the true L0, and as too sparse below its inverse."""
SPREAD = 1.5
"""From how many latents a property on the findings tell."""
MISSED = 0.05
"""How far the AUC of a latent may be below what can be read off the activations before a feature counts as missed."""


@dataclass(frozen=True)
class Verdict:
    """The best setting of one source by one score; a ceiling is never the best."""

    score: str
    best: Setting
    trained: Setting | None
    baseline: Setting | None
    oracle: Setting | None
    copies: tuple[Setting, ...]
    n_compared: int


def judge(settings: Sequence[Setting], score: str) -> Verdict | None:
    """The verdict on the settings of one source, None where no setting but a ceiling has the score."""
    order = ranked(settings, score)
    fair = [s for s in order if not s.is_ceiling(score)]
    if not fair:
        return None
    return Verdict(
        score=score,
        best=fair[0],
        trained=next((s for s in fair if not s.is_baseline), None),
        baseline=next((s for s in fair if s.is_baseline), None),
        oracle=next((s for s in order if s.is_oracle), None),
        copies=tuple(s for s in order if s.is_ceiling(score) and not s.is_oracle),
        n_compared=len(fair),
    )


def sentences(settings: Sequence[Setting], verdict: Verdict, nonlinear: str = "") -> list[str]:
    """The findings on one source, the most important first. `nonlinear` says why its features are no directions."""
    found = [_best(verdict), _against_baseline(verdict), _nonlinear(settings, nonlinear), _ceiling(verdict)]
    if verdict.trained is not None:
        sweep = sweep_of(settings, verdict.trained)
        found += [_sparsity(sweep, verdict), _reconstruction(sweep, verdict), _edge(sweep, verdict)]
        found += [_dead(verdict.trained), _model(verdict.trained), _probes(verdict.trained)]
    return [sentence for sentence in found if sentence]


def sweep_of(settings: Sequence[Setting], centre: Setting) -> list[Setting]:
    """The settings that differ from `centre` in their penalty alone, in its order."""
    same = [s for s in settings if _but_penalty(s) == _but_penalty(centre) and s.penalty]
    return sorted(same, key=lambda s: s.penalty[0][1])


def _but_penalty(s: Setting) -> tuple[object, ...]:
    return s.source, s.method, s.encoder, s.n_latents, s.others, [name for name, _ in s.penalty]


def _best(v: Verdict) -> str:
    e = v.best.scores[v.score]
    chosen = f", the best of {v.n_compared} settings" if v.n_compared > 1 else ""
    kind = "a baseline, " if v.best.is_baseline else ""
    return f"By {v.score}, the best dictionary is {kind}{v.best.title}: {with_interval(e)}{chosen}."


def _against_baseline(v: Verdict) -> str:
    if v.baseline is None:
        return "No baseline was run to compare it with."
    if v.trained is None:
        return "No dictionary was trained: these are baselines alone."
    name = f"the best baseline, {v.baseline.title} ({number(v.baseline.mean(v.score))})"
    gap = difference(v.trained.samples[v.score], v.baseline.samples[v.score])
    sign = -1 if (known := score_of(v.score)) and known.better == "less" else 1
    ahead = sign * gap.mean > 0
    subject = "It" if v.trained is v.best else f"The best trained dictionary, {v.trained.title},"
    size = number(abs(gap.mean))
    if math.isnan(gap.half):
        order = "better" if ahead else "worse"
        return f"{subject} is {order} than {name} by {size}; one seed gives no interval."
    ends = f"95% interval of the difference {number(gap.low)} to {number(gap.high)}".replace("-", MINUS)
    if gap.low <= 0 <= gap.high:
        return f"{subject} cannot be told apart from {name}: {ends}."
    return f"{subject} {'beats' if ahead else 'loses to'} {name} by {size}; {ends}."


def _nonlinear(settings: Sequence[Setting], why: str) -> str:
    """What was to be expected where features are no directions, and whether it came so."""
    if not why:
        return ""
    expected = f"No linear dictionary is expected to find these features: {why}."
    trained = [s for s in settings if not s.is_baseline]
    by_label, by_error = ranked(trained, "probe_auc_latent"), ranked(trained, "fvu")
    if not by_label or not by_error or math.isnan(ceiling := by_label[0].mean("probe_auc_nearest")):
        return expected
    latent, closest = by_label[0].mean("probe_auc_latent"), by_error[0]
    read = "do not read its labels" if ceiling - latent > MISSED else "read its labels all the same"
    return (
        f"{expected} Single latents {read}: AUC {number(latent)} at best, where nearest neighbours among the "
        f"activations reach {number(ceiling)}. The lowest fvu, {number(closest.mean('fvu'))}, is that of "
        f"{closest.title}; there the AUC is {number(closest.mean('probe_auc_latent'))}, and a label is spread over "
        f"{number(closest.mean('latents_per_feature'))} latents.{_tiled(trained)}"
    )


def _tiled(trained: Sequence[Setting]) -> str:
    """How many latents share a subspace in the narrowest dictionary that has any there, and in the widest."""
    score = "latents_per_subspace"
    widths = sorted((s.n_latents or 0, s.mean(score)) for s in trained if s.mean(score) > 0)
    if not widths or widths[0][0] == widths[-1][0]:
        return ""
    (narrow, few), (wide, many) = widths[0], widths[-1]
    return f" A subspace is cut among {number(few)} latents where there are {narrow}, {number(many)} where {wide}."


def _ceiling(v: Verdict) -> str:
    if v.copies:
        names = " and ".join(dict.fromkeys(s.label for s in v.copies))
        return f"A ceiling, not a rival: {names} with {v.copies[0].n_latents} latents copy the activations exactly."
    if v.oracle is None:
        return ""
    name = "oracle" if v.oracle.kind == "oracle" else f"ceiling {v.oracle.label}"
    return f"The {name}, which is given the true directions, reaches {number(v.oracle.mean(v.score))}."


def _sparsity(sweep: Sequence[Setting], v: Verdict) -> str:
    """Where along the sweep the latents are too dense, near, and too sparse."""
    known = [(s, s.mean("l0") / s.mean("true_l0")) for s in sweep if s.mean("true_l0") > 0]
    known = [(s, ratio) for s, ratio in known if math.isfinite(ratio)]
    if len(known) < 2 or v.trained is None:
        return ""
    dense = [s for s, ratio in known if ratio > _NEAR]
    sparse = [s for s, ratio in known if ratio < 1 / _NEAR]
    nearest = min(known, key=lambda pair: abs(math.log(max(pair[1], 1e-9))))[0]
    parts = [f"at {_span(dense, sweep)} the latents are too dense (l0 {_range(dense, 'l0')})"] if dense else []
    parts += [f"at {_span(sparse, sweep)} too sparse (l0 {_range(sparse, 'l0')})"] if sparse else []
    parts += [f"nearest is {_at(nearest)} (l0 {number(nearest.mean('l0'))})"]
    width = f" With {v.trained.n_latents} latents," if v.trained.n_latents else ""
    return f"A row has {number(nearest.mean('true_l0'))} active features.{width} {'; '.join(parts)}."


def _reconstruction(sweep: Sequence[Setting], v: Verdict) -> str:
    """Whether the lowest error would have picked the same dictionary."""
    by_error = ranked(sweep, "fvu")
    if len(by_error) < 2 or v.score in ("fvu", "explained_variance") or v.trained is None:
        return ""
    lowest = by_error[0]
    if lowest is v.trained:
        return f"The same setting has the lowest fvu of its sweep, {number(lowest.mean('fvu'))}."
    return (
        f"Reconstruction alone would pick another: the lowest fvu of the sweep, {number(lowest.mean('fvu'))}, is at "
        f"{_at(lowest)}, where {v.score} is {number(lowest.mean(v.score))}."
    )


def _edge(sweep: Sequence[Setting], v: Verdict) -> str:
    if len(sweep) < 2 or v.trained not in (sweep[0], sweep[-1]):
        return ""
    end = "smallest" if v.trained is sweep[0] else "largest"
    return f"The best {v.trained.penalty[0][0]} is the {end} that was tried: the sweep may end too early."


def _dead(s: Setting) -> str:
    dead = s.mean("dead")
    return f"{dead:.0%} of the latents of {s.title} fire on no test row." if dead >= 0.01 else ""


def _model(s: Setting) -> str:
    if math.isnan(s.mean("ce_increase")):
        return ""
    kept = s.mean("ce_recovered_mean")
    return f"Spliced into the model, {s.title} raises the loss by {number(s.mean('ce_increase'))} nats per token" + (
        f", which keeps {number(kept)} of what mean ablation loses." if math.isfinite(kept) else "."
    )


def _probes(s: Setting) -> str:
    raw, latent = s.mean("probe_auc_logistic"), s.mean("probe_auc_latent")
    if math.isnan(raw) or math.isnan(latent):
        return ""
    sparse = [(int(k.removeprefix("probe_auc_k")), e.mean) for k, e in s.scores.items() if k.startswith("probe_auc_k")]
    most = max(sparse, default=None)
    more = f", {most[0]} of its latents {number(most[1])}" if most else ""
    spread, nearest = s.mean("latents_per_feature"), s.mean("probe_auc_nearest")
    several = f" A property is spread over {number(spread)} latents." if spread > SPREAD else ""
    near = "" if math.isnan(nearest) else f", nearest neighbours there {number(nearest)}"
    return (
        f"As probes, the best single latent of {s.title} reaches AUC {number(latent)}{more}; logistic regression on "
        f"the raw activations {number(raw)}{near}.{several}"
    )


def _at(s: Setting) -> str:
    name, value = s.penalty[0]
    return f"{name} = {value:.4g}"


def _span(some: Sequence[Setting], sweep: Sequence[Setting]) -> str:
    """``l1 <= 0.5``, ``l1 >= 4``, or the values one by one where they are neither end."""
    name, values = some[0].penalty[0][0], [s.penalty[0][1] for s in some]
    if len(some) > 1 and list(some) == list(sweep[: len(some)]):
        return f"{name} ≤ {values[-1]:.4g}"
    if len(some) > 1 and list(some) == list(sweep[-len(some) :]):
        return f"{name} ≥ {values[0]:.4g}"
    return f"{name} = {', '.join(f'{v:.4g}' for v in values)}"


def _range(some: Sequence[Setting], score: str) -> str:
    means = sorted(s.mean(score) for s in some)
    low, high = number(means[0]), number(means[-1])
    return low if low == high else f"{low} to {high}"


def decimals(x: float) -> int:
    """How many decimals make three significant digits, three for what lies between 0 and 1."""
    size = abs(x)
    return 3 if size < 1.0005 else 2 if size < 10 else 1 if size < 100 else 0


def number(x: float) -> str:
    """A number to three significant digits, at most three decimals; a dash where there is none."""
    if not math.isfinite(x):
        return UNDEFINED if math.isnan(x) else "∞"
    return f"{x:.3g}" if abs(x) >= 1e5 else f"{x:.{decimals(x)}f}"


def with_interval(e: Estimate) -> str:
    """``0.912 ± 0.004``, without the second part where there is no interval."""
    if not math.isfinite(e.half):
        return number(e.mean)
    return f"{number(e.mean)} ± {e.half:.{decimals(e.mean)}f}"
