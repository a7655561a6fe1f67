"""The scores as a terminal table, the best first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.report.page import SettingLine, setting_lines
from pipelines.report.scores import can_rank
from pipelines.report.settings_table import Setting, best_per_method

if TYPE_CHECKING:
    from rich.table import Table

PREFERRED = ("mcc", "mmcs_truth", "mmcs_latents", "f1_chosen", "ce_recovered_mean", "ce_increase", "kl", "probe_auc_k1")
MOST_SCORES = 6
MOST_LINES = 24


def score_table(settings: Sequence[Setting], score: str, title: str, width: int = 100) -> Table:
    """One line per setting; if there are too many, the best settings and the best one of each method. `width` columns
    limit the number of scores."""
    from rich.markup import escape
    from rich.table import Table

    present = {name for s in settings for name, e in s.scores.items() if e.n}
    names = [n for n in dict.fromkeys(("l0", "fvu", score, *PREFERRED)) if n in present][
        : max(3, min(MOST_SCORES, (width - 26) // 14))
    ]
    every = setting_lines(settings, score, names)
    lines = _lines(every, settings, score)
    table = Table(title=title, title_justify="left", title_style="italic", box=None, pad_edge=False)
    table.add_column("method", overflow="fold", min_width=min(max(len(s.label) for s in settings), 22))
    table.add_column("latents", justify="right")
    has_penalty = any(s.penalty for s in settings)
    if has_penalty:
        table.add_column(next(s.penalty[0][0] for s in settings if s.penalty), justify="right")
    for name in names:
        table.add_column(name, no_wrap=True)
    for line in lines:
        s = line.setting
        method = f"{s.label} *" if s.is_ceiling(score) else s.label
        penalty = [f"{s.penalty[0][1]:.3g}" if s.penalty else ""] if has_penalty else []
        scores = [f"[bold]{c.text:>5}[/] {c.half}" if c.best else f"{c.text:>5} {c.half}" for c in line.cells]
        table.add_row(escape(method), str(s.n_latents or ""), *penalty, *scores)
    return table


def _lines(every: Sequence[SettingLine], settings: Sequence[Setting], score: str) -> list[SettingLine]:
    if len(every) <= MOST_LINES:
        return list(every)
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
    if any(s.is_oracle for s in settings):
        parts.append("* ceiling: knows the true directions")
    elif any(s.is_ceiling(score) for s in settings):
        parts.append("* ceiling: copies the activations exactly")
    if len(settings) > n_shown:
        parts.append(f"{len(settings) - n_shown} more settings in scores.csv")
    return "; ".join(parts)
