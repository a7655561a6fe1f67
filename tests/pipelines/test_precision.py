"""``train.precision = "auto"``: what a run takes, where it is kept, and that steps are named by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sae
from pipelines.config.config import Config, parse
from pipelines.plan import plan
from pipelines.precision import choose_precision, precision_notes
from pipelines.steps.precision_record import PRECISIONS
from sae.model.hook_names import width_of
from sae.registry import config_class
from sae.training.precision import EncoderTiming

Given = dict[str, Any]
Call = Callable[..., tuple[int, str, str]]


class Clock:
    """Stands in for the timing: the screen is `gain` times as fast, and every shape that is timed is listed."""

    def __init__(self) -> None:
        self.gain, self.shapes = 3.0, list[tuple[int, int, int]]()

    def __call__(self, d_in: int, n_latents: int, batch: int, device: str) -> EncoderTiming:
        self.shapes.append((d_in, n_latents, batch))
        return EncoderTiming(d_in, n_latents, batch, device, 1, self.gain)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("pipelines.precision.time_encoder", clock)
    return clock


def config_of(table: Given, **train: Any) -> Config:
    return parse({**table, "train": {**table["train"], **train}})


def trained(config: Config) -> set[str]:
    return {step.name for step in plan(config) if step.stage == "train" and "train" in step.config}


@pytest.mark.parametrize(("gain", "taken"), [(3.0, "screen"), (0.3, "float32")])
def test_steps_are_named_by_what_was_taken(tiny: Given, tmp_path: Path, clock: Clock, gain: float, taken: str):
    clock.gain = gain
    chosen = choose_precision(config_of(tiny, precision="auto"), tmp_path)
    assert clock.shapes == [(8, 16, 32)]
    assert trained(chosen) == trained(config_of(tiny, precision=taken))
    assert {s.config["train"]["precision"] for s in plan(chosen) if "train" in s.config} == {taken}
    [note] = precision_notes(chosen, tmp_path)
    assert note.startswith(f"train.precision = 'auto': {taken}; ") and str(tmp_path / PRECISIONS) in note


def test_what_was_taken_stays_whatever_is_fast_later(tiny: Given, tmp_path: Path, clock: Clock):
    config = config_of(tiny, precision="auto")
    first = trained(choose_precision(config, tmp_path))
    clock.gain = 0.1
    assert trained(choose_precision(config, tmp_path)) == first and len(clock.shapes) == 1
    wider = parse({**tiny, "dictionary": {**tiny["dictionary"], "n_latents": [16, 64]}, "train": {"precision": "auto"}})
    assert len(clock.shapes) == 1 and set(choose_precision(wider, tmp_path).precisions.values()) == {"float32"}
    assert clock.shapes[1:] == [(8, 16, 1024), (8, 64, 1024)] or clock.shapes[1:] == [(8, 64, 1024), (8, 16, 1024)]
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / PRECISIONS).rename(moved / PRECISIONS)
    assert trained(choose_precision(config, moved)) == first


def test_a_damaged_record_is_made_again(tiny: Given, tmp_path: Path, clock: Clock):
    config = config_of(tiny, precision="auto")
    for damage in ("{", "[]", '{"8x16 batch=32": {"gain": "high"}}'):
        (tmp_path / PRECISIONS).write_text(damage)
        clock.shapes.clear()
        assert trained(choose_precision(config, tmp_path)) and clock.shapes == [(8, 16, 32)]
        assert json.loads((tmp_path / PRECISIONS).read_text())["8x16 batch=32"]["gain"] == 3.0


def test_nothing_is_timed_or_written_for_float32(tiny: Given, tmp_path: Path, clock: Clock):
    config = parse(tiny)
    assert choose_precision(config, tmp_path) is config and precision_notes(config, tmp_path) == []
    assert not clock.shapes and not list(tmp_path.iterdir())


def test_a_precision_that_is_slower_here_is_warned_of(tiny: Given, tmp_path: Path, clock: Clock):
    clock.gain = 0.25
    config = config_of(tiny, precision="screen")
    [warning] = precision_notes(config, tmp_path)
    assert warning.startswith("train.precision = 'screen': ") and "4 times as slow" in warning
    clock.gain = 5.0
    assert precision_notes(config, tmp_path) == [warning] and len(clock.shapes) == 1
    assert precision_notes(config, tmp_path / "elsewhere") == []


def test_plan_and_status_take_one_choice(call: Call, tiny_file: Path, tmp_path: Path, clock: Clock):
    options = ("--out", tmp_path / "out", "--set", "train.precision=auto")
    code, told, _ = call("plan", tiny_file, *options)
    assert code == 0 and "'auto': screen; 3 times as fast" in " ".join(told.split())
    clock.gain = 0.1
    code, told, _ = call("status", tiny_file, *options)
    assert code == 0 and "train     7 waiting" in told and "'auto': screen" in told and len(clock.shapes) == 1


@pytest.mark.slow
def test_a_run_trains_with_what_was_taken_and_its_cards_say_so(
    call: Call, tiny_file: Path, tmp_path: Path, clock: Clock
):
    options = ("--out", tmp_path / "out", "--set", "train.precision=auto", "--set", "train.steps=20")
    code, _, noted = call("run", tiny_file, *options)
    assert code == 0 and "'auto': screen" in " ".join(noted.split())
    clock.gain = 0.1
    code, told, _ = call("status", tiny_file, *options)
    assert code == 0 and "train     7 done" in told and "'auto': screen" in told and len(clock.shapes) == 1
    made = [f for f in (tmp_path / "out").glob("train-*") if (f / "log.jsonl").exists()]
    assert {sae.load(f / "dictionary").card["train"]["precision"] for f in made} == {"screen"}


@pytest.mark.parametrize("found", ["tests", None])
def test_the_width_is_known_before_work_or_assumed(tiny: Given, tmp_path: Path, clock: Clock, found: str | None):
    model = tmp_path / "model"
    if found:
        model.mkdir()
        (model / "config.json").write_text(json.dumps({"n_embd": 48, "n_layer": 2}))
    source = {"kind": "transformer", "model": str(model) if found else "owner/model", "text": "random:words"}
    source |= {"hook": "blocks.0.hook_mlp_out", "n_tokens": 1000}
    config = config_of({**tiny, "source": source, "score": {}, "baselines": {}}, precision="auto")
    chosen = choose_precision(config, tmp_path)
    assert clock.shapes == [(48 if found else 1024, 16, 32)]
    assert ("was assumed" in precision_notes(chosen, tmp_path)[0]) is (found is None)


def test_widths_of_sources():
    code = config_class("sources", "code")(code={"kind": "hash"})
    assert code.planned_width == code.code.dimensions
    assert width_of("blocks.3.hook_resid_post", {"text_config": {"hidden_size": 64}}) == 64
    assert width_of("blocks.3.mlp.hook_post", {"hidden_size": 64}) is None
    assert width_of("blocks.3.attn.q.hook_out", {"hidden_size": 64}) is None


def test_a_record_keeps_the_timing(tiny: Given, tmp_path: Path, clock: Clock):
    choose_precision(config_of(tiny, precision="auto"), tmp_path)
    entry = json.loads((tmp_path / PRECISIONS).read_text())["8x16 batch=32"]
    timing = EncoderTiming(8, 16, 32, "cpu", 1, 3.0)
    assert EncoderTiming(**entry) == timing and replace(timing, gain=1.0).faster == "float32"
