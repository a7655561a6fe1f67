"""What settings are called: apart from one another, and in brief."""

from __future__ import annotations

from pipelines.config.names import brief, labels_of


def test_settings_are_told_by_what_they_differ_in_from_their_likes():
    of = [{"kind": "relu", "p": 1}, {"kind": "relu", "p": 2}, {"kind": "topk", "p": 3}]
    assert labels_of(of, skip=set()) == ["relu p=1", "relu p=2", "topk"]


def test_in_brief_what_another_setting_tells_already_is_left_out():
    methods = [f"relu penalty={p} p_anneal={a}" for p, a in (("l1", 0.0), ("log", 0.0), ("lp", 0.8))]
    assert list(brief([*methods, "oracle"]).values()) == ["relu l1", "relu log", "relu lp", "oracle"]


def test_in_brief_what_tells_settings_apart_stays():
    methods = ["relu penalty=lp p=0.4", "relu penalty=lp p=0.6", "relu penalty=l1 p=0.4", "linear rank=8"]
    assert list(brief(methods).values()) == ["relu lp p=0.4", "relu lp p=0.6", "relu l1 p=0.4", "linear"]


def test_nested_settings_and_their_spaces_stay_whole():
    methods = ["lista encoder=(fista l1=0.1) steps=4", "lista encoder=(fista l1=0.2) steps=4"]
    assert list(brief(methods).values()) == ["lista encoder=(fista l1=0.1)", "lista encoder=(fista l1=0.2)"]
