"""The report as one self-contained HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pipelines.config.toml_tables import toml_value
from pipelines.report.depth import DEPTH_SCORES, DepthSection
from pipelines.report.findings import Verdict
from pipelines.report.numbers import UNDEFINED, decimals, number
from pipelines.report.picture import ShownFigure
from pipelines.report.probes import ProbeTables
from pipelines.report.scores import can_rank, ordered_scores, score_of
from pipelines.report.settings_table import Setting, ranked
from pipelines.report.style import FAINT, INK, RULE
from pipelines.steps.manifest import versions
from sae.registry import kinds

if TYPE_CHECKING:
    import jinja2

MAIN = (
    *("l0", "fvu", "dead", "mmcs_truth", "mmcs_latents", "mcc", "recovered_90", "f1_chosen"),
    *("ce_increase", "ce_recovered_mean", "kl", "probe_auc_k16"),
)
"""The scores of the first table; the table of all scores is collapsed."""

ONLY_LABELS = ("probe_auc_latent", "latents_per_feature", "subspace_cosine", "latents_per_subspace")
"""Scores of the first table where there are labels, but neither feature directions nor a model."""

COST = "encoder_cost"

REM_PER_POINT = 0.092
"""Scale of figures on the page; the same for all, so that their text has one size."""


class Section(NamedTuple):
    """The part of the page on one source."""

    source: str
    """Name of the source."""
    findings: Sequence[str]
    """Sentences, the most important first."""
    settings: Sequence[Setting]
    """All settings of the source."""
    verdict: Verdict | None
    """The best settings; None if no setting but a ceiling has the score."""
    figures: Sequence[ShownFigure]
    """The figures."""
    probes: ProbeTables | None = None
    """The results of a probe study."""


class ScoreCell(NamedTuple):
    """A score of a setting as text."""

    text: str
    """The mean."""
    half: str
    """Half the width of the 95% interval; empty if there is none."""
    best: bool
    """Whether it is the best mean of its column, not counting ceilings."""
    hint: str
    """Mean and interval in full."""
    value: float
    """The mean as a number; NaN if the score is not defined."""


class SettingLine(NamedTuple):
    """A setting as a line of a table."""

    setting: Setting
    """The setting."""
    note: str
    """``ceiling``, ``baseline`` or nothing."""
    cells: Sequence[ScoreCell]
    """One cell for each score."""


def template_environment(**filters: Any) -> jinja2.Environment:
    """The environment of the page templates, with the filters `prose`, `breakable` and those given."""
    import jinja2

    loader = jinja2.PackageLoader("pipelines", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(prose=prose, breakable=breakable, **filters)
    return environment


def render(
    config: Mapping[str, Any],
    sections: Sequence[Section],
    score: str,
    manifests: Sequence[Mapping[str, Any]],
    depths: Sequence[DepthSection] = (),
) -> str:
    """The page. `config` is that of the report step, `score` the score that selects the best dictionary, `manifests`
    those of the train steps, `depths` compare hook points of one model."""
    templates = template_environment(plain="{:.4g}".format)
    everything = [s for section in sections for s in section.settings]
    names = ordered_scores(n for s in everything for n, e in s.scores.items() if e.n)
    return templates.get_template("report.html").render(
        config=config,
        sections=[
            {
                "about": section,
                "main": (main := main_scores(section.settings, names, score)),
                "penalties": penalty_names(section.settings),
                "lines": setting_lines(section.settings, score, main),
                "all": setting_lines(section.settings, score, names),
                "figures": [(f, inline(f.svg, f"s{i}-{f.name}")) for f in section.figures],
            }
            for i, section in enumerate(sections)
        ],
        depths=[(depth, [(f, inline(f.svg, f.name)) for f in depth.figures]) for depth in depths],
        depth_scores=DEPTH_SCORES,
        names=names,
        score=score,
        known={name: score_of(name) for name in names},
        facts=_facts(everything, manifests),
        methods=methods(everything),
        families=families(names),
        toml=toml(config.get("config", {})),
        versions=versions(),
        several_data=any(len(s.members) > next((e.n for e in s.scores.values()), 0) > 1 for s in everything),
    )


def main_scores(settings: Sequence[Setting], names: Sequence[str], score: str) -> list[str]:
    """The scores of the first table: the one that selects the best, so that it is in view, and `MAIN`; also `f1` and
    the cost if encoders differ in cost; also `ONLY_LABELS` if there are neither feature directions nor a model."""
    differ = len({s.mean(COST) for s in settings if COST in s.scores and not s.is_baseline}) > 1
    more = ("f1", COST) if differ else ()
    more += () if {"mcc", "ce_increase"} & set(names) else ONLY_LABELS
    shown = [n for n in (*MAIN, *more) if n in names] or list(names[:10])
    return [n for n in dict.fromkeys((score, *shown)) if n in names]


def penalty_names(settings: Sequence[Setting]) -> list[str]:
    """The parameters that set the sparsity of any of the settings, one column each."""
    return list(dict.fromkeys(name for s in settings for name, _ in s.penalty))


def setting_lines(settings: Sequence[Setting], score: str, names: Sequence[str]) -> list[SettingLine]:
    """The settings, best first, with the best of each column marked; a ceiling is never the best."""
    order = ranked(settings, score) if can_rank(score) else []
    order += [s for s in settings if s not in order]
    best: dict[str, float] = {}
    for name in names:
        known = score_of(name)
        if known is not None and known.better:
            best[name] = max((s.goodness(name) for s in settings if not s.is_ceiling(name)), default=float("nan"))
    return [SettingLine(s, note(s, score), [_cell(s, name, best.get(name)) for name in names]) for s in order]


def _cell(s: Setting, name: str, best: float | None) -> ScoreCell:
    e = s.scores.get(name)
    if e is None or e.n == 0:
        return ScoreCell(UNDEFINED, "", False, "not defined here", float("nan"))
    is_best = best is not None and not s.is_ceiling(name) and s.goodness(name) == best
    if e.n == 1:
        return ScoreCell(number(e.mean), "", is_best, f"{name} {e.mean:.6g}, one value", e.mean)
    hint = f"{name} {e.mean:.6g}, 95% interval {e.low:.6g} to {e.high:.6g}, n = {e.n}"
    return ScoreCell(number(e.mean), f"±{e.half:.{decimals(e.mean)}f}".replace("±0.", "±."), is_best, hint, e.mean)


def note(s: Setting, score: str) -> str:
    """``ceiling``, ``baseline`` or nothing."""
    return "ceiling" if s.is_ceiling(score) else "baseline" if s.is_baseline else ""


def _facts(settings: Sequence[Setting], manifests: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What was run, in a few numbers."""
    trained, baselines = (
        sum(dict((s.without_encoder, len(s.members)) for s in settings if s.is_baseline == is_baseline).values())
        for is_baseline in (False, True)
    )
    seeds = {len(s.members) for s in settings if not s.is_baseline} or {len(s.members) for s in settings}
    n_sources = len({s.source for s in settings})
    devices = sorted({str(m["device"]) for m in manifests if "device" in m})
    facts = [
        ("dictionaries trained" if trained != 1 else "dictionary trained", str(trained)),
        ("baselines and controls" if baselines != 1 else "baseline or control", str(baselines)),
    ]
    facts += [
        ("seeds each" if max(seeds) > 1 else "seed each", " to ".join(map(str, sorted({min(seeds), max(seeds)}))))
    ]
    facts += [("sources", str(n_sources))] if n_sources > 1 else []
    facts += [("trained on", " and ".join(devices))] if devices else []
    return [(name, value) for name, value in facts if value != "0"]


def methods(settings: Iterable[Setting]) -> list[tuple[str, str]]:
    """The kind of every source and method with the first paragraph of its module's docstring."""
    descriptions: dict[str, str] = {}
    for s in settings:
        for kind in (s.source.partition(" ")[0], s.kind):
            for package in ("sources", "dictionaries", "baselines"):
                if kind in kinds(package):
                    descriptions[kind] = first_paragraph(kinds(package)[kind].__doc__ or "")
    return list(descriptions.items())


def first_paragraph(text: str) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


def families(names: Sequence[str]) -> list[tuple[str, str]]:
    """The docstrings of the metric modules that define any of the scores."""
    texts = {kind: inspect.cleandoc(module.__doc__ or "") for kind, module in kinds("metrics").items()}
    return [(kind, text) for kind, text in texts.items() if any(re.search(rf"\b{n}\b", text) for n in names)]


def prose(text: str) -> Any:
    """Escaped text with everything in (double) backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"``?([^`]+)``?", r"<code>\1</code>", str(escape(text))))


def breakable(name: str) -> Any:
    """A score's name with possible line breaks after underscores."""
    from markupsafe import Markup, escape

    return escape(name).replace("_", Markup("_<wbr>"))


def inline(svg: str, prefix: str) -> Any:
    """An SVG document as part of a page: ids with a prefix, colours and font of the page, no external references."""
    from markupsafe import Markup

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg).replace('href="#', f'href="#{prefix}-')
    points = float(re.search(r'width="([\d.]+)pt"', svg)[1])  # pyright: ignore[reportOptionalSubscript]
    svg = re.sub(r'width="[\d.]+pt"', f'style="width: {points * REM_PER_POINT:.2f}rem"', svg, count=1)
    svg = re.sub(r' height="[\d.]+pt"', "", svg, count=1)
    for of_figure, of_page in ((INK, "currentColor"), (FAINT, "var(--faint)"), (RULE, "var(--rule)")):
        svg = svg.replace(of_figure, of_page)
    return Markup(svg)


def toml(table: Mapping[str, Any], path: str = "") -> str:
    """A table as TOML, values first, then tables; None values are left out."""
    nested = {k: v for k, v in table.items() if isinstance(v, Mapping) or _is_tables(v)}
    text = "".join(f"{k} = {toml_value(v)}\n" for k, v in table.items() if k not in nested and v is not None)
    for key, value in nested.items():
        name = f"{path}.{key}" if path else key
        header = f"\n[{name}]\n" if isinstance(value, Mapping) else f"\n[[{name}]]\n"
        tables = [value] if isinstance(value, Mapping) else value
        text += "".join(header + toml(cast(Mapping[str, Any], t), name) for t in tables)
    return text


def _is_tables(value: Any) -> bool:
    """Whether a value is a non-empty list of tables."""
    if not isinstance(value, list | tuple):
        return False
    entries = cast(Sequence[Any], value)
    return bool(entries) and all(isinstance(entry, Mapping) for entry in entries)
