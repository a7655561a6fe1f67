"""Markdown tables from results."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.table import PAGES, TABLES, fill
from benchmarks.table import table as write

SHAPE = {"d_in": 256, "n_latents": 2048, "batch": 4096, "l0_wanted": 32, "dtype": "float32", "device": "cpu"}
LINE = {"benchmark": "step", **SHAPE, "threads": 2, "machine": "a CPU", "l0": 32.4, "step_ms": 31.25, "peak_mb": 99.6}
OURS = {**LINE, "name": "sae-relu", "samples_per_s": 131_072.0, "fraction": 2.0}
PEER = {**LINE, "name": "saelens-standard", "samples_per_s": 26_214.4, "fraction": 0.4}


def test_a_table_for_each_setting_fastest_first():
    wide = {**OURS, "d_in": 768}
    text = TABLES["step"]([PEER, OURS, wide])
    assert text.index("sae-relu |") < text.index("saelens-standard")
    assert "| saelens-standard | 32.4 | 31.25 | 26,214 | 0.40 | 5.0\N{MULTIPLICATION SIGN} | 100 |" in text
    assert text.count("| trainer |") == 2 and "768 → 2048" in text


def test_a_newer_result_replaces_the_older_one():
    text = TABLES["step"]([{**OURS, "fraction": 1.5}, OURS])
    assert "| 2.00 |" in text and "1.50" not in text
    text = TABLES["step"]([OURS, {**OURS, "train": {"precision": "screen"}}])
    assert "sae-relu (precision = screen)" in text and text.count("| 2.00 |") == 2


def test_the_better_of_two_schedules_is_shown_and_bold_marks_where_ours_is_worse():
    shape = {"benchmark": "architectures", "kind": "topk", "suite": "independent", "d_in": 32, "n_latents": 128}
    shape |= {"n_features": 64, "batch": 512, "samples": 1000, "l0_wanted": 2, "seeds": 3, "threads": 1, "seconds": 1.0}
    shape |= {"machine": "a CPU", "dead": 0.0, "l0": 2.0, "l0_within": 0.0, "f1_macro": 0.5, "f1_macro_within": 0.1}
    scores = {"fvu": 0.1, "fvu_within": 0.01, "mcc": 0.9, "mcc_within": 0.01, "f1": 0.8, "f1_within": 0.01}
    ahead = {"mcc_ahead": -0.05, "mcc_ahead_within": 0.01, "f1_ahead": -0.005, "f1_ahead_within": 0.01}
    ahead |= {"fvu_ahead": -0.05, "fvu_ahead_within": 0.01}
    ours = {**shape, **scores, "name": "sae", "schedule": "common", "lr": 0.003}
    peer = {**ours, **ahead, "name": "saelens", "mcc": 0.95}
    own = {**peer, "schedule": "own", "lr": None, "mcc": 0.85}
    text = TABLES["architectures"]([ours, peer, own])
    assert text.count("| topk |") == 2 and "| own |" not in text
    assert "| **-0.050 ± 0.010** | -0.005 ± 0.010 | -0.050 ± 0.010 |" in text
    assert "| own |" in TABLES["architectures"]([ours, peer, {**own, "mcc": 0.99}])


def test_only_what_is_between_the_markers_changes(tmp_path: Path):
    readme, lines = tmp_path / "README.md", tmp_path / "lines.jsonl"
    readme.write_text("before\n<!-- step -->\nold\n<!-- /step -->\nbetween\n<!-- data -->\nkept\n<!-- /data -->\n")
    lines.write_text("a note\n" + json.dumps(OURS) + "\n")
    write(lines, pages=[readme])
    once = readme.read_text()
    assert "old" not in once and "kept" in once and once.startswith("before\n") and "| sae-relu |" in once
    write(lines, pages=[readme])
    assert readme.read_text() == once


def test_every_table_has_one_place_in_the_pages():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    for name in TABLES:
        assert sum(f"<!-- {name} -->" in text and f"<!-- /{name} -->" in text for text in texts) == 1, name
    assert [fill(text, []) for text in texts] == texts


def test_facts_are_grouped_by_study_and_a_newer_one_replaces_the_older():
    fact = {"study": "polygon", "about": "A pentagon.", "claim": "norm", "expected": "1.13"}
    assert r"| \|cos\| |" in TABLES["toys"]([{**fact, "claim": "|cos|", "measured": "0"}])
    text = TABLES["toys"](
        [{**fact, "measured": "1.5"}, {**fact, "claim": "D", "measured": "0.4"}, {**fact, "measured": "1.1"}]
    )
    assert text.count("`polygon`") == 1 and "| norm | 1.13 | 1.1 |" in text and "1.5" not in text


def test_circuits_have_a_column_for_each_model_and_the_last_result_counts():
    known = (
        "known path, zero",
        "strongest previous-token head, zero",
        "induction heads alone, zero",
        "known path, mean",
    )
    line = {"benchmark": "circuits", "toy": "induction", "prompts": 16, "first_layer_on_path": [0.7, 0.6, 0.8]}
    line |= {name: [0.5, 0.4, 1.0] for name in ("kept", "random", "kept_and_errors", "of_all_latents")}
    lines = [
        line | {"seed": seed, "dictionaries": kind, "nodes": nodes, "kept": [0.1 * (seed + 1), -0.2, 1.0]}
        for seed in (0, 1)
        for kind in ("identity", "trained")
        for nodes in (*known, "graph, zero")
    ]
    text = TABLES["circuits"]([*lines, lines[0] | {"kept": [0.9, 0.8, 1.0]}])
    assert "| induction, 16 prompts | model 0 | model 1 |" in text and "addition" not in text
    assert "| known path | .900 [.800, 1.00] | .200 [-.200, 1.00] |" in text
