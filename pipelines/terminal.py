"""The scores as a table for the terminal: the best first, readable at 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.page import Line, lines
from pipelines.scoreboard import Setting, champions

if TYPE_CHECKING:
    from rich.table import Table

PREFERRED = (
    "l0 fvu mcc mmcs_truth mmcs_latents f1_chosen ce_recovered_mean ce_increase kl probe_auc_k1 probe_auc_latent"
).split()
MOST_SCORES = 6
MOST_LINES = 24


def score_table(settings: Sequence[Setting], score: str, title: str) -> Table:
    """One line a setting; where there are too many, the best ones and the best of every other method."""
    from rich.table import Table

    present = {name for s in settings for name, e in s.scores.items() if e.n}
    names = [n for n in dict.fromkeys(("l0", "fvu", score, *PREFERRED)) if n in present][:MOST_SCORES]
    every = lines(settings, score, names)
    kept = _kept(every, settings, score)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, caption_justify="left")
    table.caption = _footnote(settings, score, len(every) - len(kept))
    table.add_column("method", overflow="fold", max_width=24)
    table.add_column("latents", justify="right")
    has_penalty = any(s.penalty for s in settings)
    if has_penalty:
        table.add_column(next(s.penalty[0][0] for s in settings if s.penalty), justify="right")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for line in kept:
        s = line.setting
        method = f"{s.label} *" if s.is_oracle else s.label
        penalty = [f"{s.penalty[0][1]:.3g}" if s.penalty else ""] if has_penalty else []
        scores = [f"[bold]{c.text}[/] {c.half}" if c.best else f"{c.text} {c.half}" for c in line.cells]
        table.add_row(_plain(method), str(s.n_latents or ""), *penalty, *(cell.strip() for cell in scores))
    return table


def _kept(every: Sequence[Line], settings: Sequence[Setting], score: str) -> list[Line]:
    if len(every) <= MOST_LINES:
        return list(every)
    best = champions(settings, score)
    top = [line.setting for line in every[: max(MOST_LINES - len(best), 8)]]
    return [line for line in every if line.setting in top or line.setting in best]


def _footnote(settings: Sequence[Setting], score: str, n_left_out: int) -> str:
    n_seeds = max((e.n for s in settings for e in s.scores.values()), default=0)
    about = f"mean ± half the 95% interval ({n_seeds} seeds)" if n_seeds > 1 else "(1 seed), so without intervals"
    parts = [f"best first by {score}; {about}; bold: best of its column"]
    if any(s.is_oracle for s in settings):
        parts.append("* ceiling: knows the true directions")
    if n_left_out:
        parts.append(f"{n_left_out} more settings in scores.csv")
    return "; ".join(parts)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
