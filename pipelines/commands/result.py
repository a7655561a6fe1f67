"""What a finished run made: scores, dictionaries, figures and the page."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipelines.commands.output import Terminal
from pipelines.report.inline_table import comparison_html, scores_html
from pipelines.report.settings_table import IDENTITY, Value, read_csv, read_scored_row, score_numbers
from pipelines.report.style import to_bytes
from pipelines.stages.bench import SUMMARY, figures_of_comparison, print_bench_table
from pipelines.stages.report import figures_of_report, print_table, report_tables
from pipelines.steps.step import Job, Step
from sae.dictionary import Dictionary
from sae.files import load
from sae.registry import UserError

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ScoredDictionary:
    """One dictionary of a run."""

    identity: Mapping[str, Value]
    """What tells it from the others: source, method, encoder, n_latents, l1, target_l0, seed, data_seed; None where a
    column does not apply."""
    scores: Mapping[str, float]
    """Its scores by name; NaN where undefined."""
    path: Path
    """Its folder, which :func:`sae.load` reads too."""

    def load(self) -> Dictionary:
        """The dictionary, on the CPU."""
        return load(self.path)


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run. ``print`` shows its table of scores, and so does a notebook."""

    name: str
    """The name of the run."""
    directory: Path
    """The folder of its last step, with ``scores.csv``, the page and ``figures/``."""
    page: Path = field(repr=False)
    """A link to that folder by the run's name, or the folder itself."""
    made: Mapping[str, Path] = field(repr=False)
    """The folders of the steps before it, by their names in its manifest."""
    step: Step = field(repr=False)
    """The last step."""

    @property
    def is_bench(self) -> bool:
        """Whether it compares methods, as `sae bench` does."""
        return (self.directory / "bench.html").is_file()

    @property
    def report(self) -> Path:
        """The page: ``report.html``, or ``bench.html`` of :func:`sae.bench`.

        By the run's name, or in the folder of this run where a later run with other settings has taken the name.
        """
        still_ours = self.page.resolve() == self.directory.resolve()
        return (self.page if still_ours else self.directory) / ("bench.html" if self.is_bench else "report.html")

    @property
    def scores(self) -> pandas.DataFrame:
        """One row per dictionary: the columns that identify it, then its scores, NaN where undefined.

        Raises `UserError` where pandas is not installed.
        """
        file = self.directory / "scores.csv"
        try:
            import pandas
        except ImportError:
            raise UserError(f"scores: pandas is not installed; pip install pandas, or read {file}") from None
        table, rows = pandas.read_csv(file), read_csv(file)
        names = list(table.columns[list(table.columns).index(IDENTITY[-1]) + 1 :])
        table[names] = [[row.scores.get(name, math.nan) for name in names] for row in rows]  # to the last bit
        return table

    @property
    def best(self) -> Dictionary:
        """The dictionary that the report names best, on the CPU. Raises `UserError` where it names none."""
        folder = self.directory / "best"
        if not folder.is_dir():
            why = "a comparison names no best dictionary" if self.is_bench else "no dictionary is the best by a score"
            raise UserError(f"best: {why}; choose one of dictionaries()")
        return load(folder)

    def dictionaries(self) -> list[ScoredDictionary]:
        """All dictionaries in the order of ``scores``, with what identifies them and their scores; each is read from
        disk by its ``load()``."""
        found: list[ScoredDictionary] = []
        for i in score_numbers(self.made):
            row = read_scored_row(self.made[f"score.{i}"])
            found.append(ScoredDictionary(row.identity, row.scores, self.made[f"train.{i}"] / "dictionary"))
        return found

    def figures(self) -> dict[str, Figure]:
        """The figures of the page as matplotlib figures, by name, such as ``l0-mcc``.

        They are drawn again by the functions that draw the page, on a white background, and can be changed and saved as
        any figure; a notebook shows them. With several sources, names begin with ``source-0/`` and so on.
        """
        job = Job(self.step, self.made, self.directory)
        found = figures_of_comparison(job) if self.is_bench else figures_of_report(job)
        for figure in found.values():
            figure.set_facecolor("white")
            # IPython knows figures only once pyplot has made one.
            cast(Any, figure)._repr_png_ = partial(_png_and_size, figure)
        return found

    def pictures(self) -> dict[str, Path]:
        """The same figures as PNG files, by the names of :meth:`figures`; next to each is the same as SVG."""
        folder = self.directory / "figures"
        return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.png"))}

    def __repr__(self) -> str:
        n = len(score_numbers(self.made))
        return f"Run({self.name!r}, {n} {'dictionary' if n == 1 else 'dictionaries'}, report={str(self.report)!r})"

    def __str__(self) -> str:
        text = io.StringIO()
        # In a notebook rich would show the table there and then, and write nothing.
        console = Terminal(file=text, no_color=True, force_jupyter=False, force_terminal=False)
        (print_bench_table if self.is_bench else print_table)(self.directory, console)
        return f"{text.getvalue()}{self.report}"

    def _repr_html_(self) -> str:
        if self.is_bench:
            tables = comparison_html(json.loads((self.directory / SUMMARY).read_text(encoding="utf-8")))
        else:
            tables = "".join(
                scores_html(t.settings, t.score, t.source, t.findings) for t in report_tables(self.directory)
            )
        return f"<b>{escape(self.name)}</b>{tables}<p>{escape(str(self.report))}</p>"


def _png_and_size(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """A figure as PNG, and the size in pixels at which a notebook shows it."""
    width, height = figure.get_size_inches()
    return to_bytes(figure, "png"), {"width": round(100 * width), "height": round(100 * height)}
