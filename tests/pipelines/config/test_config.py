"""From a table to settings: sweeps, overrides, and errors in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from pipelines.config.config import parse, read_config
from pipelines.config.toml_tables import build, expand, override
from sae.registry import Settings, UserError

Given = dict[str, Any]


class Listed(Settings):
    kind: Literal["listed"] = "listed"
    k: tuple[int, ...] = (1, 5)
    width: int | None = None
    tags: list[str] | None = None


def test_lists_in_place_of_values_are_a_product(tiny: Given):
    tiny["dictionary"] |= {"n_latents": [16, 32], "l1": [0.1, 0.2, 0.3]}
    config = parse(tiny)
    settings = [(d.n_latents, d.coefficient) for d in config.dictionaries]
    assert settings == [(n, l1) for n in (16, 32) for l1 in (0.1, 0.2, 0.3)]
    tiny["source"]["seed"] = [0, 1]
    tiny["train"]["lr"] = [1e-3, 3e-3]
    config = parse(tiny)
    assert [s.seed for s in config.sources] == [0, 1]
    assert [t.lr for t in config.trainings] == [1e-3, 3e-3]


def test_several_dictionary_tables(tiny: Given):
    other = {**tiny["dictionary"], "decoder": "weighted", "l1": 0.1}
    again = {**tiny["dictionary"], "l1": 0.5}
    tiny["dictionary"] = [tiny["dictionary"], other, again]
    found = [(d.model_dump()["decoder"], d.coefficient) for d in parse(tiny).dictionaries]
    assert found == [("unit", 0.1), ("unit", 0.5), ("weighted", 0.1)]  # a setting given twice counts once


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"k": [1, 2]}, [[1, 2]]),
        ({"k": [[1, 2], [3]]}, [[1, 2], [3]]),
        ({"tags": ["a"]}, [["a"]]),
        ({"width": [1, 2]}, [1, 2]),
    ],
)
def test_a_field_that_takes_lists_is_swept_by_lists_of_lists(table: Given, expected: list[Any]):
    assert [next(iter(t.values())) for t in expand(Listed, table, "x")] == expected


def test_baselines_take_the_widths_of_the_dictionaries(tiny: Given):
    tiny["dictionary"]["n_latents"] = [16, 32, 16]
    tiny["baselines"] = {"kinds": ["random", {"kind": "data_points", "n_latents": 4}, "neurons"]}
    found = [(b.model_dump()["kind"], b.model_dump().get("n_latents")) for b in parse(tiny).baselines]
    assert found == [("random", 16), ("random", 32), ("data_points", 4), ("neurons", None)]


def test_baselines_take_the_seeds_of_training_unless_they_have_their_own(tiny: Given):
    assert parse(tiny).baseline_seeds == (0, 1)
    tiny["baselines"]["seeds"] = 7
    assert parse(tiny).baseline_seeds == (7,)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("200", 200),
        ("3e-3", 3e-3),
        ("[0.1, 0.2]", [0.1, 0.2]),
        ('"two words"', "two words"),
        ("data/x.npy", "data/x.npy"),
        ("owner/model-70m", "owner/model-70m"),
        ("true", True),
        ("{a = 1}", {"a": 1}),
    ],
)
def test_overrides_take_toml_values_and_bare_words(text: str, value: Any):
    before = {"train": {"steps": 1}}
    assert override(before, [f"train.steps={text}"]) == {"train": {"steps": value}}
    assert before == {"train": {"steps": 1}}


def test_an_override_reaches_every_one_of_several_tables():
    table = {"dictionary": [{"kind": "a", "l1": 1}, {"kind": "b"}]}
    assert override(table, ["dictionary.l1=2"])["dictionary"] == [{"kind": "a", "l1": 2}, {"kind": "b", "l1": 2}]


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("trian.steps=3", ["trian", "did you mean 'train'"]),
        ("train.step=3", ["train.step", "[train]", "did you mean 'steps'"]),
        ("source.n_feature=3", ["source.n_feature", "did you mean 'n_features'"]),
        ("runtime.devic=cpu", ["runtime.devic", "did you mean 'device'"]),
        ("source.kind=independant", ["source", "did you mean 'independent'"]),
        ("dictionary.kind=rellu", ["dictionary", "did you mean 'relu'"]),
        ('baselines.kinds=["randon"]', ["baselines.kinds", "did you mean 'random'"]),
        ('score.metrics=["recover"]', ["score.metrics", "did you mean 'recovery'"]),
        ("dictionary.l1=-1", ["dictionary.l1 = -1", "greater than or equal to 0"]),
        ("dictionary.l1=[0.1, -1]", ["dictionary.l1 = -1"]),
        ("dictionary.l1=nan", ["dictionary.l1 = nan", "finite"]),
        ("dictionary.l1=[]", ["dictionary.l1 = []", "at least one"]),
        ("train.steps=many", ["train.steps = 'many'", "integer"]),
        ("train.seeds=[0.5]", ["train.seeds", "whole number"]),
        ("source=3", ["source = 3", "list"]),
        ("source=[]", ["source = []", "at least 1"]),
        ("source.d_in=0", ["source.d_in = 0"]),
        ("name=a/b", ["name = 'a/b'"]),
        ('runtime.sinks=["tensorboard"]', ["runtime.sinks.0", "trackio"]),
        ("steps", ["--set steps", "key.path=value"]),
        ("name.first=3", ["'name' is a value"]),
        ("title=two words", ["two words", "bare word", "quote"]),
    ],
)
def test_mistakes_are_errors_of_one_line_with_field_and_remedy(tiny: Given, assignment: str, words: list[str]):
    with pytest.raises(UserError) as caught:
        parse(override(tiny, [assignment]))
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_what_is_missing_is_named(tiny: Given):
    for path, words in {("name",): "name is missing", ("source", "kind"): "source: kind is missing"}.items():
        table = override(tiny, [])
        place = table
        for part in path[:-1]:
            place = place[part]
        del place[path[-1]]
        with pytest.raises(UserError, match=words):
            parse(table)
    with pytest.raises(UserError, match=r"l1, l0: neither is set; set one, l1 .* or l0 .*"):
        parse({**tiny, "dictionary": {"kind": "relu", "n_latents": 16}})
    with pytest.raises(UserError, match="dictionary is missing"):
        parse({"name": "x", "source": tiny["source"]})


def test_the_message_of_a_rule_between_fields_is_kept():
    from pydantic import model_validator

    class Ordered(Settings):
        low: int
        high: int

        @model_validator(mode="after")
        def ordered(self) -> Ordered:
            if self.low > self.high:
                raise ValueError("low must not exceed high")
            return self

    with pytest.raises(UserError, match=r"^band: low must not exceed high$"):
        build(Ordered, {"low": 2, "high": 1}, "band")


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.toml: there is no such"):
        read_config(tmp_path / "nothing.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("name = = 3")
    with pytest.raises(UserError, match=r"bad\.toml: not readable as TOML"):
        read_config(bad)
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"bad\.toml: not readable as TOML"):
        read_config(bad)
