"""Scores over the depth of a model: which sources are compared, and what is shown of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pipelines.report.depth import best_sentence, depth_of, depth_picture, depth_rows, hooks_of
from pipelines.report.settings_table import ScoredRow, Setting, settings_of

HOOKS = {"b": "blocks.4.hook_resid_post", "a": "blocks.0.hook_resid_post"}
TABLES: dict[str, dict[str, Any]] = {name: {"kind": "transformer", "hook": hook} for name, hook in HOOKS.items()}


def settings(methods: tuple[str, ...] = ("topk", "random")) -> list[Setting]:
    rows = [
        ScoredRow(
            {"source": source, "method": method, "n_latents": 16, "target_l0": k, "seed": seed, "data_seed": 0},
            {"fvu": 0.1 * k + (source == "b") + seed / 100, "l0": float(k), "ce_recovered_mean": 0.9 - k / 100},
        )
        for source in HOOKS
        for method in methods
        for k in ((4, 8) if method == "topk" else (None,))
        for seed in (0, 1)
        for k in [k or 3]
    ]
    return settings_of(rows)


@pytest.mark.parametrize(
    ("hook", "depth"),
    [("blocks.8.hook_resid_pre", 8.0), ("blocks.7.hook_resid_post", 8.0), ("blocks.2.attn.hook_z", 2.3),
     ("blocks.2.hook_mlp_out", 2.8), ("blocks.10.ln1.hook_scale", 10.5)],
)  # fmt: skip
def test_depth(hook: str, depth: float):
    assert depth_of(hook) == pytest.approx(depth)


def test_a_hook_point_outside_the_blocks_has_no_depth():
    assert math.isnan(depth_of("hook_embed"))


def test_sources_that_differ_in_more_than_their_hook_points_are_not_compared():
    [hooks] = hooks_of(TABLES)
    assert list(hooks.hook) == ["a", "b"]  # in the order of the forward pass
    assert hooks_of({"a": TABLES["a"], "b": {**TABLES["b"], "text": "other"}}) == []
    assert hooks_of({"a": TABLES["a"]}) == [] and hooks_of({"toy": {"kind": "independent"}}) == []
    one_text, other = hooks_of({**TABLES, **{f"{n}2": {**t, "text": "other"} for n, t in TABLES.items()}})
    assert (list(one_text.hook), list(other.hook)) == (["a", "b"], ["a2", "b2"])


def test_every_setting_has_a_row_for_each_hook_point():
    rows = depth_rows(hooks_of(TABLES)[0], settings())
    assert len(rows) == 6 and [row.hook for row in rows[:2]] == [HOOKS["a"], HOOKS["b"]]
    assert rows[0].title == rows[1].title and rows[0].cells[2] == "4.00 ± 0.00"
    assert {row.is_baseline for row in rows if "random" in row.title} == {True}


def test_the_sentence_names_the_best_dictionary_of_each_hook_point_and_no_baseline():
    hooks = hooks_of(TABLES)[0]
    sentence = best_sentence(hooks, settings(), "fvu")
    assert sentence == f"Best fvu at each hook point: 0.405 at {HOOKS['a']}, 1.40 at {HOOKS['b']}."
    assert best_sentence(hooks, settings(("random",)), "fvu") == "" == best_sentence(hooks, settings(), "mcc")


def test_the_figure_has_a_panel_for_each_score_and_a_line_for_each_setting():
    picture = depth_picture(hooks_of(TABLES)[0], settings(), 0)
    assert picture is not None
    panels = {ax.get_ylabel(): [line.get_xydata().tolist() for line in ax.lines] for ax in picture.figure.axes}  # pyright: ignore
    assert list(panels) == ["ce_recovered_mean", "fvu", "l0"]
    lines = [line for line in panels["l0"] if len(line) == 2]
    assert sorted(lines) == [[[1.0, k], [5.0, k]] for k in (3.0, 4.0, 8.0)]
    assert all(y <= 1 for line in panels["fvu"] for _, y in line)
    assert {"topk 4", "topk 8", "random"} <= {t.get_text() for ax in picture.figure.axes for t in ax.texts}
    assert depth_picture(hooks_of(TABLES)[0], [], 0) is None
