"""Tables on a terminal or in a pipe, of any width: whole cells, rows that can be told apart, the score that ranks."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console

import sae
from pipelines.commands.ask import print_answer
from pipelines.commands.output import PIPED_WIDTH, Terminal
from pipelines.question import Answer, AnswerTable
from pipelines.report.settings_table import ScoredRow, Setting, settings_of
from pipelines.report.terminal import print_scores
from pipelines.report.text_table import TextColumn, print_text_table
from sae.dictionaries.relu import Relu
from sae.numerics.statistics import Interval

Call = Callable[..., tuple[int, str, str]]
WIDTHS = [1, *range(40, 201, 4), 141]
NUMBER = re.compile(r"\d[\d.]*")


def printed(width: int, table: Callable[[Console], None]) -> list[str]:
    """What a table prints on a console of some width, in lines."""
    file = io.StringIO()
    table(Terminal(file=file, width=width))
    return file.getvalue().splitlines()


def numbers(texts: Sequence[str]) -> set[str]:
    return {number.rstrip(".") for text in texts for number in NUMBER.findall(text)}


def columns_of(n_rows: int, n_columns: int) -> list[TextColumn]:
    names = [f"dictionary_learning n_atoms={1000 + i}, lr = 0.0{i}" for i in range(n_rows)]
    columns = [TextColumn("method", names, is_text=True, is_kept=True)]
    for k in range(n_columns):
        cells = [f"0.{k}{i}5 ±.00{i}" if i else f"[bold]1{k}e-07[/]" for i in range(n_rows)]
        head = f"score_of_{'abcdefghij'[k]} with a long head"
        columns.append(TextColumn(head, cells, is_kept=k == n_columns - 1, is_right=k % 2 == 0))
    return columns


@pytest.mark.parametrize("elsewhere", ["scores.csv", ""])
def test_no_number_is_cut_and_no_row_is_like_another(elsewhere: str):
    """At 80 columns `0.912 ±.004` became `0.912 ±.`, and names that differ at their end became one."""
    columns = columns_of(4, 9)
    plain = [[cell.replace("[bold]", "").replace("[/]", "") for cell in column.cells] for column in columns]
    for width in WIDTHS:
        lines = printed(width, lambda console: print_text_table(console, "title", columns, elsewhere))
        assert numbers(lines) <= numbers([cell for cells in plain for cell in cells]), width
        assert numbers(columns[0].cells) <= numbers(lines), "what tells the names apart"
        for column, cells in zip(columns[1:], plain[1:], strict=True):
            is_shown = all(any(cell in line for line in lines) for cell in cells)
            is_named = bool(elsewhere) and f" {column.head}" in lines[-1]
            assert is_shown != is_named and (is_shown or not column.is_kept), "shown whole, or named as left out"
        assert width < 60 or max(map(len, lines[:-1])) <= width


def row(method: str, seed: int, **identity: object) -> dict[str, object]:
    known = {"source": "s", "method": method, "encoder": "", "n_latents": 16, "l1": None, "target_l0": None}
    return {**known, **identity, "seed": seed, "data_seed": 0}


def of_many_scores() -> list[Setting]:
    scores = {"mmcs_truth": 0.91, "mmcs_latents": 0.82, "ce_recovered_mean": 0.73, "kl": 0.64, "probe_auc_k1": 0.55}
    rows = [
        ScoredRow(row("relu", s, l1=l1), {"l0": 3.0, "fvu": 0.2, "my_own_score": l1 + s / 100, **scores})  # pyright: ignore[reportArgumentType]
        for l1 in (0.25, 0.5)
        for s in (0, 1)
    ]
    topk = ScoredRow(row("topk", 0, target_l0=7), {"l0": 7.0, "fvu": 0.1, "my_own_score": 0.3, **scores})  # pyright: ignore[reportArgumentType]
    return settings_of([*rows, topk])


@pytest.mark.parametrize("width", [40, 80, 140, 200])
def test_the_score_that_ranks_is_always_shown(width: int):
    """`report.best_by` named a score whose column was left out of the table that it ranks."""
    lines = printed(width, lambda console: print_scores(of_many_scores(), "my_own_score", "s", console))
    head = "".join(line.strip() for line in lines[1:4])
    table = "\n".join(line for line in lines if not line.startswith("not shown"))
    assert "my_own_score" in head or "my_own_" in head, lines
    assert all(mean in table for mean in ("0.505", "0.255", "0.300"))


def test_what_is_left_out_is_named_with_its_file():
    lines = printed(60, lambda console: print_scores(of_many_scores(), "my_own_score", "s", console))
    [left_out] = [line for line in lines if line.startswith("not shown")]
    assert "probe_auc_k1; scores.csv has them" in left_out
    assert not any(
        line.startswith("not shown") for line in printed(200, lambda c: print_scores(of_many_scores(), "mcc", "s", c))
    )


def test_each_penalty_has_its_column():
    """The target L0 of topk stood under the head l1."""
    lines = printed(180, lambda console: print_scores(of_many_scores(), "my_own_score", "s", console))
    l1, target = lines[1].index("l1"), lines[1].index("target_l0")
    of_topk = next(line for line in lines if line.startswith("topk"))
    assert of_topk[target : target + len("target_l0")].strip() == "7" and not of_topk[l1 - 2 : l1 + 2].strip()


def test_settings_that_differ_in_another_column_have_other_names():
    """Two settings that a column of their own tells apart in scores.csv were two equal lines."""
    rows = [ScoredRow(row("relu", 0, l1=1.0, lr=lr), {"mcc": 0.5}) for lr in (0.1, 0.01)]  # pyright: ignore[reportArgumentType]
    lines = printed(80, lambda console: print_scores(settings_of(rows), "mcc", "s", console))
    assert any("lr = 0.1 " in line for line in lines) and any("lr = 0.01 " in line for line in lines)


@pytest.mark.parametrize("width", [40, 80, 140])
def test_an_answer_is_whole_at_every_width(width: int):
    """The columns of `sae ask` were folded in the middle of numbers and of words."""
    heads = (
        "feature",
        "neurons saturate at",
        "neurons effective",
        "latents saturate at",
        "neurons to ablate",
        "control",
    )
    value = Interval(0.123, 0.111, 0.135)
    rows = [[f"name {i}", 16 + i, value, 0.25, Interval(0.5, math.nan, math.nan), value] for i in range(3)]
    answer = Answer([AnswerTable("units", heads, rows)])
    lines = printed(width, lambda console: print_answer(answer, Path("a.json"), console))
    assert "\n".join(lines).count("0.123 [0.111, 0.135]") == 6 and max(map(len, lines)) <= width
    blocks = sum(line.startswith("units") for line in lines)
    assert sum("name 2" in line for line in lines) == blocks, "each block says whose rows they are"
    assert (blocks > 1) == (width < 80)


def test_keys_of_two_columns_are_repeated():
    """Where the first column does not tell the rows apart, the second stands in each block as well."""
    columns = [
        TextColumn("layer", ["0", "0"], is_right=True),
        TextColumn("head", ["1", "2"], is_right=True),
        *(TextColumn(f"column_{c}", ["0.123456789", "0.987654321"]) for c in "abcd"),
    ]
    lines = printed(40, lambda console: print_text_table(console, "heads", columns))
    assert sum(line.startswith("    0     2") for line in lines) == sum(line.startswith("heads") for line in lines) > 1


def test_a_pipe_is_not_squeezed(monkeypatch: pytest.MonkeyPatch):
    """In a pipe, tables had the width of a terminal elsewhere, or 80 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert Terminal(file=io.StringIO()).width == PIPED_WIDTH
    assert Terminal(file=io.StringIO(), width=50).width == 50
    monkeypatch.setenv("COLUMNS", "80")
    assert Terminal(file=io.StringIO()).width == 80
    lines = printed(40, lambda console: print_scores(of_many_scores(), "my_own_score", "s", console))
    assert any(line.startswith("best first by my_own_score; ") and line.endswith("column") for line in lines)


def test_a_card_is_whole_at_every_width(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """At 40 columns names of settings ended in an ellipsis, and long numbers went over two lines."""
    card = {"training": {"a_long_name_of_a_setting": {"samples": 1234567890, "tokens": 0.00012345}}, "hash": "0f" * 32}
    sae.save(Relu.tied(torch.eye(3)).with_card(**card), tmp_path / "d")
    for width in (20, 40, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        code, told, _ = call("show", tmp_path / "d")
        assert code == 0 and "…" not in told
        assert "1234567890" in told and "0.00012345" in told and "0f" * 32 in told
