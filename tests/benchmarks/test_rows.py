"""The table of systems and open problems: complete, up to date, and an empty row is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import rows as module
from benchmarks.lines import read
from benchmarks.rows import Cell, Result, as_table, known_rows, missing, rows
from benchmarks.table import HERE
from sae.registry import UserError


def test_every_row_has_a_command_and_measured_values_and_the_page_shows_them():
    every, lines = known_rows(), read(sorted((HERE / "results").glob("*.jsonl")))
    assert [row.number for row in every] == list(range(1, 54))
    assert missing(every, lines) == []
    text = (module.DOCS / "rows.md").read_text(encoding="utf-8")
    assert text.partition("<!-- rows -->\n")[2].partition("\n<!-- /rows -->")[0] == as_table(lines, every)


def test_a_row_without_a_result_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def without(files: list[Path]) -> list[dict[str, object]]:
        return [line for line in read(files) if line.get("study") != "dropout"]

    monkeypatch.setattr(module, "read", without)
    with pytest.raises(SystemExit, match=r"rows without a measured value: (\d+, )*28, 32\b"):
        rows(list_=True)
    assert "| 27 |" in capsys.readouterr().out


def test_the_newest_result_of_a_claim_counts():
    lines = [
        {"study": "a", "claim": f"{what} of it", "expected": "", "measured": str(i)} for i, what in enumerate("pqp")
    ]
    assert [v.measured for v in Result("a", "of it").find(lines)] == ["2", "1"]
    assert Result("a", "q").find(lines)[0].measured == "1" and Result("b", "q").find(lines) == []


def test_a_cell_is_that_of_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "DOCS", tmp_path)
    (tmp_path / "page.md").write_text(
        "| claim | expected | measured |\n|---|---|---|\n| a \\|x\\| b |  | .5 |\n| ab | 1 | |\n"
    )
    [value] = Cell("page", "a \\|x", -1, 1).find([])
    assert (value.what, value.expected, value.measured) == ("a |x| b", "", ".5")
    assert Cell("page", "ab", -1, 1).find([])[0].measured == ""
    for row, n in (("a", 2), ("c", 1), ("d", 0)):
        if n != 1:
            with pytest.raises(UserError, match=f"{n} rows of tables begin with"):
                Cell("page", row).find([])
