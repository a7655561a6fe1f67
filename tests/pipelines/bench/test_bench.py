"""Suites: choice of penalties, comparison at one L0, tests, files and page."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines import cli
from pipelines.bench.comparison import Comparison, compare_methods
from pipelines.bench.families import families_of
from pipelines.bench.tables import bench_cell, count_text, interval, markdown, p_value
from pipelines.bench.words import comparison_sentences, several
from pipelines.config.config import parse, read_config
from pipelines.config.shipped import find_config
from pipelines.config.toml_tables import merge_tables
from pipelines.plan import plan
from pipelines.report.numbers import UNDEFINED
from pipelines.report.settings_table import ScoredRow, settings_of
from pipelines.runner import execution, run
from pipelines.stages.bench import print_bench_table
from pipelines.steps.progress import Board
from pipelines.steps.store import Store
from sae.numerics.paired_tests import nested_mean

Given = dict[str, Any]


def row(
    method: str, data: int, seed: int | None, l1: float | None = None, source: str = "toy", **scores: float
) -> ScoredRow:
    known = {"encoder": None, "n_latents": 8, "target_l0": None}
    return ScoredRow({"source": source, "method": method, **known, "l1": l1, "seed": seed, "data_seed": data}, scores)


def sweep(values: Mapping[float, Sequence[Sequence[float]]], method: str = "relu") -> list[ScoredRow]:
    """Rows of a sweep: l1 -> for each data set the mcc of its seeds; l0 is 8 / l1 and the true l0 is 4."""
    return [
        row(method, d, seed, l1, mcc=mcc, l0=8 / l1, true_l0=4.0, f1=mcc / 2)
        for l1, groups in values.items()
        for d, group in enumerate(groups)
        for seed, mcc in enumerate(group)
    ]


def compared(rows: Sequence[ScoredRow], by: str = "mcc", l0: float | None = None) -> Comparison:
    return compare_methods("toy", settings_of(rows), rows, by, l0, lambda members: 0.1 * len(members))


def test_the_penalty_is_chosen_on_the_other_data_sets() -> None:
    # On data set 0 alone l1 = 1 is by far the best; but there the others choose, and they have l1 = 2.
    rows = sweep({1.0: [[0.9], [0.1], [0.1]], 2.0: [[0.5], [0.6], [0.7]]})
    family = families_of(settings_of(rows), rows)[0]
    assert family.best_on_other_data("mcc") == {0: 1, 1: 1, 2: 1}
    entry = compared(rows).entries[0]
    assert entry.groups["mcc"] == [[0.5], [0.6], [0.7]]
    assert entry.where == "l1 = 2"


def test_a_value_never_chooses_for_itself() -> None:
    rows = sweep({1.0: [[0.2], [0.3], [0.4]], 2.0: [[0.3], [0.2], [0.5]]})
    family = families_of(settings_of(rows), rows)[0]
    for d in range(3):
        changed = [
            r if r.identity["data_seed"] != d else ScoredRow(r.identity, {"mcc": 0.999, "l0": 1.0}) for r in rows
        ]
        assert (
            families_of(settings_of(changed), changed)[0].best_on_other_data("mcc")[d]
            == family.best_on_other_data("mcc")[d]
        )


def test_a_single_data_set_chooses_for_itself_and_has_the_interval_of_its_seeds() -> None:
    c = compared(sweep({1.0: [[0.2, 0.3]], 2.0: [[0.4, 0.6]]}))
    assert c.entries[0].groups["mcc"] == [[0.4, 0.6]]
    assert c.entries[0].estimate("mcc") == nested_mean([[0.4, 0.6]])
    assert c.n_data == 1
    assert "on one data set" in comparison_sentences(c)[0]


def test_a_score_that_is_better_when_less_is_chosen_so() -> None:
    rows = [row("relu", d, 0, l1, fvu=l1, l0=1.0) for l1 in (0.1, 0.2) for d in range(2)]
    assert compared(rows, by="fvu").entries[0].where == "l1 = 0.1"


def test_sweeps_are_compared_at_the_true_l0_between_their_points() -> None:
    # l0 is 8 at l1 = 1, and 2 at l1 = 4: the true 4 lies half way in log l0.
    rows = sweep({1.0: [[0.2, 0.3], [0.4, 0.5]], 4.0: [[0.4, 0.5], [0.8, 0.9]]})
    c = compared(rows)
    assert c.l0 == 4.0
    assert c.matched[0].groups["mcc"] == [pytest.approx([0.3, 0.4]), pytest.approx([0.6, 0.7])]
    assert c.reach == pytest.approx((2, 8))
    assert c.area["relu"].mean == pytest.approx(0.5)


def test_a_sweep_that_does_not_reach_is_left_out_and_a_method_near_that_l0_is_in() -> None:
    rows = sweep({1.0: [[0.2], [0.3]], 4.0: [[0.4], [0.8]]})
    rows += [row("near", d, 0, mcc=0.5, l0=4.1) for d in range(2)] + [
        row("far", d, 0, mcc=0.5, l0=5.0) for d in range(2)
    ]
    assert {e.family.label for e in compared(rows).matched} == {"relu", "near"}
    assert {e.family.label for e in compared(rows, l0=20.0).matched} == set()


def test_the_leader_is_tested_against_every_other_fair_method_on_the_same_data_sets() -> None:
    rows = sweep({1.0: [[0.9], [0.92], [0.91]]})
    rows += [row("pca", d, None, mcc=v, f1=0.1) for d, v in enumerate((0.5, 0.55, 0.52))]
    rows += [row("oracle", d, None, mcc=1.0, f1=1.0) for d in range(3)]
    c = compared(rows)
    assert c.entries[0].family.label == "oracle" and c.leader is not None and c.leader.family.label == "relu"
    by_mcc = [t for t in c.tests if t.score == "mcc"]
    assert [t.entry.family.label for t in by_mcc] == ["pca"]
    assert by_mcc[0].paired.estimate.mean == pytest.approx(0.91 - 1.57 / 3)
    assert by_mcc[0].paired.wins == 3
    assert by_mcc[0].p_holm < 0.01
    assert {t.score for t in c.tests} == {"mcc", "f1"}


def test_differences_of_errors_are_the_leaders_advantage() -> None:
    rows = [row(m, d, 0, fvu=v + 0.01 * d, l0=1.0) for m, v in (("relu", 0.1), ("pca", 0.3)) for d in range(3)]
    assert compared(rows, by="fvu").tests[0].paired.estimate.mean == pytest.approx(0.2)


def test_agreement_is_asked_for_the_dictionaries_that_are_shown() -> None:
    asked: list[tuple[int, ...]] = []

    def agreement(members: Sequence[int]) -> float:
        asked.append(tuple(members))
        return 0.5

    rows = sweep({1.0: [[0.2, 0.3], [0.2, 0.3]], 2.0: [[0.8, 0.9], [0.8, 0.9]]})
    c = compare_methods("toy", settings_of(rows), rows, "mcc", None, agreement)
    assert [[rows[m].identity["l1"] for m in members] for members in asked] == [[2.0, 2.0], [2.0, 2.0]]
    assert c.entries[0].estimate("pw_mcc").mean == 0.5


def test_no_cell_shows_a_lone_number() -> None:
    assert bench_cell("mcc", [[0.912]]).interval == "(one)"
    assert bench_cell("mcc", [[0.9], [0.92], [0.94]]).interval == "[.870, .970]"
    assert bench_cell("mcc", []).text == UNDEFINED
    hint = bench_cell("mcc", [[0.9, 0.91], [0.92, 0.93], [0.94, 0.95]]).hint
    assert "bootstrap" in hint and "sd over data sets 0.0194, over seeds 0.00707" in hint and "3 data sets" in hint


def test_negative_ends_and_large_counts_are_told() -> None:
    assert interval(nested_mean([[-0.1], [0.1]])) == "[−1.27, 1.27]"  # noqa: RUF001
    assert interval(nested_mean([[0.9], [1.0]]), "mcc") == "[.315, 1.000]"
    assert [count_text(v) for v in (12.0, 1_536_000.0, 3.2e12)] == ["12", "1.54M", "3.2T"]
    assert [p_value(p) for p in (0.0004, 0.05, math.nan)] == ["< .001", ".050", UNDEFINED]


def test_the_table_to_cite_marks_ceilings_and_says_where_it_was_read() -> None:
    rows = sweep({1.0: [[0.9], [0.92]]}) + [row("oracle", d, None, mcc=1.0, l0=4.0) for d in range(2)]
    text = markdown([compared(rows)])
    assert "| oracle (ceiling) |" in text and "| relu | l1 = 1 |" in text


def test_one_method_may_lead_on_all_sources_or_not() -> None:
    a, b = sweep({1.0: [[0.9], [0.9]]}), sweep({1.0: [[0.5], [0.5]]}, method="topk")
    one = [compared(a + b), compared(a + b)]
    assert several(one) == "relu is the best on all 2 sources."
    assert "topk on 1" in several([compared(a + b), compared(b)])


def test_what_cannot_be_told_apart_is_said() -> None:
    rows = [
        row(m, d, 0, mcc=v, l0=1.0)
        for m, values in (("relu", (0.9, 0.5, 0.8)), ("topk", (0.6, 0.9, 0.6)))
        for d, v in enumerate(values)
    ]
    assert "the difference is not significant for topk" in " ".join(comparison_sentences(compared(rows)))


# The command.


def test_a_tier_takes_the_place_of_the_same_keys() -> None:
    table = {
        "train": {"steps": 10, "lr": 1.0},
        "source": [{"kind": "a", "seed": 0}, {"kind": "b"}],
        "x": {"kind": "p", "n": 1},
    }
    found = merge_tables(table, {"train": {"steps": 2}, "source": {"seed": [0, 1]}, "x": {"kind": "q"}})
    assert found["train"] == {"steps": 2, "lr": 1.0}
    assert [s["seed"] for s in found["source"]] == [[0, 1], [0, 1]]
    assert found["x"] == {"kind": "q"}
    assert table["train"] == {"steps": 10, "lr": 1.0}


def test_suites_are_found_by_name_and_a_wrong_one_is_answered_with_the_nearest() -> None:
    assert find_config(Path("absorb-4")).name == "absorb-4.toml"
    with pytest.raises(FileNotFoundError, match="'absorb-5' is not a known config: did you mean 'absorb-4'"):
        find_config(Path("absorb-5"))
    assert find_config(Path("no/such.toml")) == Path("no/such.toml")


@pytest.fixture
def suite(tiny: Given) -> Given:
    dictionary = {**tiny["dictionary"], "l1": [0.1, 0.5]}
    published = [{"method": "L1 <b>SAE</b>", "source": "a paper", "scores": {"mcc": 0.987654}}]
    return {
        **tiny,
        "source": {**tiny["source"], "seed": [0, 1, 2]},
        "dictionary": dictionary,
        "baselines": {"kinds": ["random", "pca", "oracle"]},
        "score": {**tiny["score"], "metrics": [*tiny["score"]["metrics"], "cost"]},
        "published": published,
        "tiers": {"fast": {"train": {"steps": 30}, "source": {"seed": [0, 1]}}},
    }


def toml_of(table: Given, tmp_path: Path) -> Path:
    from pipelines.report.page import toml

    file = tmp_path / "suite.toml"
    file.write_text(toml(table))
    return file


def test_an_unknown_tier_is_answered_with_those_that_are(suite: Given, tmp_path: Path) -> None:
    file = toml_of(suite, tmp_path)
    assert read_config(file, tier="fast").trainings[0].steps == 30
    assert read_config(file).trainings[0].steps != 30
    with pytest.raises(ValueError, match="'quick' is not a known tier: choose from full, fast"):
        read_config(file, tier="quick")


def test_a_suite_and_a_run_share_everything_but_their_last_step(suite: Given) -> None:
    config = parse(suite)
    of_run, of_suite = plan(config), plan(config, "full")
    assert [s.key for s in of_run[:-1]] == [s.key for s in of_suite[:-1]]
    assert (of_run[-1].stage, of_suite[-1].stage) == ("report", "bench")
    other = parse({**suite, "published": []})
    assert plan(other)[-1].key == of_run[-1].key  # no published row is part of a run's own report
    assert plan(other, "full")[-1].key != of_suite[-1].key


def test_a_suite_from_the_command_line(
    suite: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = toml_of(suite, tmp_path)
    monkeypatch.setattr("sys.argv", ["sae", "bench", str(file), "--out", str(tmp_path / "runs")])
    cli.main()
    printed = " ".join(capsys.readouterr().out.split())
    assert "paired test against the best method by mcc" in printed and "tiny-fast/bench.html" in printed

    out = tmp_path / "runs" / "tiny-fast"
    page = (out / "bench.html").read_text()
    assert "fast tier" in page and "Is the difference real?" in page
    assert "L1 &lt;b&gt;SAE&lt;/b&gt;" in page and "<b>SAE</b>" not in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<svg" in page
    head, tail = page.split("What papers report")
    assert "0.987654" in tail and "0.987654" not in head  # never among ours
    with (out / "table.csv").open() as f:
        lines = list(csv.DictReader(f))
    assert "chosen" in {line["view"] for line in lines}
    assert {line["method"] for line in lines} == {"relu", "random", "pca", "oracle"}
    assert not any("0.987654" in str(line) for line in lines)
    chosen = next(x for x in lines if (x["view"], x["method"], x["score"]) == ("chosen", "relu", "mcc"))
    assert float(chosen["low"]) <= float(chosen["mean"]) <= float(chosen["high"]) and chosen["n"] == "2"
    costs = [x for x in lines if x["score"] in ("seconds", "bytes") and x["method"] == "relu"]
    assert len(costs) >= 2 and all(float(x["mean"]) >= 0 for x in costs)
    with (out / "tests.csv").open() as f:
        tests = list(csv.DictReader(f))
    assert {t["n_data"] for t in tests} == {"2"}
    assert json.loads((out / "summary.json").read_text())["by"] == "mcc"
    assert list((out / "figures").glob("seeds-mcc.svg")) and list((out / "figures").glob("pareto.png"))
    with (out / "frontier.csv").open() as f:
        assert {line["method"] for line in csv.DictReader(f)} == {"relu", "random", "pca"}
    table = page.split("What to take at which cost")[1].split("</table>")[0]
    assert "training FLOPs" in table and table.count('<th class="name" scope="row">') >= 2


@pytest.mark.slow
def test_the_same_suite_gives_the_same_bytes_but_for_what_it_cost(suite: Given, tmp_path: Path) -> None:
    def texts(where: Path) -> dict[str, str]:
        steps = plan(parse(suite), "full")
        store = Store(where)
        run(steps, store, execution(parse(suite).runtime), Board(Console(quiet=True)))
        directory = store.directory(steps[-1])
        lines = [line for line in (directory / "table.csv").read_text().splitlines() if "seconds" not in line]
        return {
            "table": "\n".join(line for line in lines if "bytes" not in line),
            "tests": (directory / "tests.csv").read_text(),
        }

    assert texts(tmp_path / "a") == texts(tmp_path / "b")


def test_a_refined_dictionary_costs_what_it_began_from_too(tiny: Given, tmp_path: Path) -> None:
    given = {**tiny, "dictionary": {**tiny["dictionary"], "refine": {"steps": 2}}}
    steps, store = plan(parse(given)), Store(tmp_path)
    run(steps, store, execution(parse(given).runtime), Board(Console(quiet=True)))
    refined = next(s for s in steps if s.stage == "refine")
    seconds = [
        json.loads((store.directory(s) / "cost.json").read_text())["seconds"]
        for s in (refined, refined.inputs["dictionary"])
    ]
    assert seconds[0] > seconds[1] > 0


def test_a_narrow_terminal_holds_the_table(suite: Given, tmp_path: Path) -> None:
    steps, store = plan(parse(suite), "full"), Store(tmp_path)
    run(steps, store, execution(parse(suite).runtime), Board(Console(quiet=True)))
    file = (tmp_path / "out").open("w")
    console = Console(width=80, record=True, quiet=False, file=file, force_terminal=True)
    print_bench_table(store.directory(steps[-1]), console)
    assert max(map(len, console.export_text().splitlines())) <= 80
