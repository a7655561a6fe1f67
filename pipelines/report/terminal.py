"""The scores on a terminal as a table, the best first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from pipelines.config.names import counted
from pipelines.report.page import ScoreCell, SettingLine, penalty_names, setting_lines
from pipelines.report.scores import can_rank
from pipelines.report.settings_table import Setting, best_per_method
from pipelines.report.text_table import TextColumn, print_sentence, print_text_table

PREFERRED = ("mcc", "mmcs_truth", "mmcs_latents", "f1_chosen", "ce_recovered_mean", "ce_increase", "kl", "probe_auc_k1")
MOST_LINES = 24


def print_scores(settings: Sequence[Setting], score: str, title: str, console: Console) -> None:
    """Prints one line per setting, or, if there are too many, the best settings and the best one of each method; then
    what the marks mean. The score that ranks the settings is always shown."""
    lines = shown_lines(settings, score)
    print_text_table(console, title, _columns(settings, lines, score), "scores.csv")
    print_sentence(console, footnote(settings, score, len(lines)), style="dim")


def _columns(settings: Sequence[Setting], lines: Sequence[SettingLine], score: str) -> list[TextColumn]:
    shown = [line.setting for line in lines]
    columns = [
        TextColumn("method", [escape(method_text(s, score)) for s in shown], is_text=True, is_kept=True),
        TextColumn("latents", [str(s.n_latents or "") for s in shown], is_kept=True, is_right=True),
    ]
    for name in penalty_names(settings):
        values = [dict(s.penalty).get(name) for s in shown]
        cells = ["" if value is None else f"{value:.4g}" for value in values]
        columns.append(TextColumn(name, cells, is_kept=True, is_right=True))
    for i, name in enumerate(shown_names(settings, score)):
        columns.append(TextColumn(name, [_cell(line.cells[i]) for line in lines], is_kept=name == score))
    return columns


def method_text(s: Setting, score: str) -> str:
    """The method with everything but its width and penalty that tells it from others, and a mark for a ceiling."""
    others = [f"{name} = {value}" for name, value in s.others if value not in ("", None)]
    return ", ".join([s.label, *others]) + (" *" if s.is_ceiling(score) else "")


def _cell(cell: ScoreCell) -> str:
    mean = f"{cell.text:>5}"
    return f"[bold]{mean}[/] {cell.half}" if cell.best else f"{mean} {cell.half}"


def shown_names(settings: Sequence[Setting], score: str) -> list[str]:
    """The scores of the table, those that are left out last first."""
    present = {name for s in settings for name, e in s.scores.items() if e.n}
    return [name for name in dict.fromkeys(("l0", "fvu", score, *PREFERRED)) if name in present]


def shown_lines(settings: Sequence[Setting], score: str) -> list[SettingLine]:
    """The settings in the table, best first: all; if there are too many, the best ones and the best of each method."""
    every = setting_lines(settings, score, shown_names(settings, score))
    if len(every) <= MOST_LINES:
        return every
    best = best_per_method(settings, score)
    top = [line.setting for line in every[: max(MOST_LINES - len(best), 8)]]
    return [line for line in every if line.setting in top or line.setting in best]


def footnote(settings: Sequence[Setting], score: str, n_shown: int) -> str:
    """What the marks in the table mean, and how many settings it leaves out."""
    n_seeds = max((e.n for s in settings for e in s.scores.values()), default=0)
    about = f"mean ± half the 95% interval ({n_seeds} seeds)" if n_seeds > 1 else "no intervals (1 seed)"
    is_ranked = any(not math.isnan(s.mean(score)) for s in settings) and can_rank(score)
    order = f"best first by {score}" if is_ranked else "not ranked, in the order of the config"
    parts = [f"{order}; {about}; bold: best of its column"]
    ceilings = [s for s in settings if s.is_ceiling(score)]
    reasons = ["knows the true directions"] if any(s.is_oracle for s in ceilings) else []
    reasons += ["reconstructs every activation exactly"] if any(not s.is_oracle for s in ceilings) else []
    parts += [f"* ceiling: {' or '.join(reasons)}"] if reasons else []
    if len(settings) > n_shown:
        parts.append(f"{counted(len(settings) - n_shown, 'more setting')} in scores.csv")
    return "; ".join(parts)
