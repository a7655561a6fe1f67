"""Full and short display names of settings."""

from __future__ import annotations

from pipelines.config.names import labels_of, short_labels


def test_a_label_has_the_kind_and_the_fields_that_differ_within_it():
    settings = [{"kind": "relu", "p": 1}, {"kind": "relu", "p": 2}, {"kind": "topk", "p": 3}]
    assert labels_of(settings, skip=set()) == ["relu p=1", "relu p=2", "topk"]


def test_a_short_label_leaves_out_redundant_settings():
    methods = [f"relu penalty={p} p_anneal={a}" for p, a in (("l1", 0.0), ("log", 0.0), ("lp", 0.8))]
    assert list(short_labels([*methods, "oracle"]).values()) == ["relu l1", "relu log", "relu lp", "oracle"]


def test_a_short_label_keeps_settings_that_distinguish_it():
    methods = ["relu penalty=lp p=0.4", "relu penalty=lp p=0.6", "relu penalty=l1 p=0.4", "linear rank=8"]
    assert list(short_labels(methods).values()) == ["relu lp p=0.4", "relu lp p=0.6", "relu l1 p=0.4", "linear"]


def test_nested_settings_with_spaces_are_not_split():
    methods = ["lista encoder=(fista l1=0.1) steps=4", "lista encoder=(fista l1=0.2) steps=4"]
    assert list(short_labels(methods).values()) == ["lista encoder=(fista l1=0.1)", "lista encoder=(fista l1=0.2)"]
