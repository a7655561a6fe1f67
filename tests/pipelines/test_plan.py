"""The steps of a plan, and what their keys do and do not depend on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipelines.config.config import parse
from pipelines.config.toml_tables import override
from pipelines.plan import plan
from pipelines.steps.step import Step
from sae.registry import MissingFileError, UserError

Given = dict[str, Any]


def steps_of(table: Mapping[str, Any], *assignments: str) -> list[Step]:
    return plan(parse(override(table, assignments)))


def keys(steps: list[Step], *stages: str) -> set[str]:
    return {step.name for step in steps if step.stage in (stages or ("generate", "train", "score", "report"))}


def test_the_steps_of_a_small_run(tiny: Given):
    steps = steps_of(tiny)
    count = {stage: len(keys(steps, stage)) for stage in ("generate", "train", "score", "report")}
    # 2 penalties x 2 seeds, random x 2 seeds, neurons once because no seed changes it
    assert count == {"generate": 1, "train": 7, "score": 7, "report": 1}
    known: set[str] = set()
    for step in steps:  # in the order of the work
        assert all(source.name in known for source in step.inputs.values())
        known.add(step.name)
    assert len(known) == len(steps)


def test_dictionaries_trained_on_the_same_batches_share_a_group(tiny: Given):
    steps = steps_of(tiny, "dictionary.n_latents=[16, 32]")
    groups: dict[str, list[Step]] = {}
    for step in steps:
        if step.stage == "train" and "dictionary" in step.config:
            groups.setdefault(step.group, []).append(step)
    assert [len(members) for members in groups.values()] == [8]
    other = steps_of(tiny, "train.steps=[60, 70]")
    assert len({s.group for s in other if s.stage == "train" and "dictionary" in s.config}) == 2
    before = {s.name: s.group for s in steps}
    more = steps_of(tiny, "dictionary.n_latents=[16, 32]", "dictionary.l1=[0.1, 0.5, 0.9]", "train.seeds=[1, 5]")
    shared = [s for s in more if s.name in before]
    assert shared and all(before[s.name] == s.group for s in shared)  # the same lock, whatever the sweep


def test_every_score_belongs_to_its_dictionary(tiny: Given):
    steps = steps_of(tiny, "source.seed=[0, 3]")
    report = steps[-1]
    n = sum(name.startswith("score.") for name in report.inputs)
    assert n == 14
    for i in range(n):
        score, trained = report.inputs[f"score.{i}"], report.inputs[f"train.{i}"]
        assert score.inputs["dictionary"] is trained
        assert score.inputs["source"] is trained.inputs["source"]
        row = score.config["row"]
        assert row["data_seed"] == score.inputs["source"].config["source"]["seed"]
        if "dictionary" in trained.config:
            assert (row["method"], row["l1"]) == ("relu", trained.config["dictionary"]["l1"])
            assert row["seed"] == trained.config["seed"]
    rows = [tuple(report.inputs[f"score.{i}"].config["row"].items()) for i in range(n)]
    assert len(set(rows)) == n


def test_rows_of_a_sweep_never_look_like_seeds_of_one_another(tiny: Given):
    steps = steps_of(tiny, "train.lr=[1e-3, 3e-3]", "source.noise=[0, 0.1]", "dictionary.l1=0.1")
    rows = [s.config["row"] for s in steps if s.stage == "score" and s.config["row"]["l1"] is not None]
    named = {(r["source"], r["method"]) for r in rows}
    assert named == {
        (f"independent noise={noise}", f"relu lr={lr}") for noise in ("0.0", "0.1") for lr in ("0.001", "0.003")
    }


def test_keys_do_not_depend_on_the_order_in_which_things_are_written(tiny: Given):
    def turned(value: Any) -> Any:
        return {k: turned(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value

    assert keys(steps_of(tiny)) == keys(steps_of(turned(tiny)))
    whole, decimal = (steps_of(tiny, f"dictionary.l1={l1}") for l1 in ("[1, 2]", "[1.0, 2.0]"))
    assert keys(whole, "train", "score") == keys(decimal, "train", "score")
    written_out = steps_of(tiny, "train.warm_up=0.02", "dictionary.decoder=unit")  # the defaults, given explicitly
    assert keys(written_out, "train", "score") == keys(steps_of(tiny), "train", "score")


def test_runtime_settings_change_no_key(tiny: Given):
    for change in ("device=auto", "threads=2", "out=elsewhere", "checkpoint_seconds=7", 'sinks=["wandb"]'):
        assert keys(steps_of(tiny, f"runtime.{change}")) == keys(steps_of(tiny))


def test_settings_of_the_report_change_the_report_alone(tiny: Given):
    for change in ("report.best_by=f1", "title=T", "description=D", "name=other"):
        gone = keys(steps_of(tiny)) - keys(steps_of(tiny, change))
        assert gone == keys(steps_of(tiny), "report")


def test_one_changed_penalty_changes_its_own_members_and_the_report(tiny: Given):
    before, after = steps_of(tiny), steps_of(tiny, "dictionary.l1=[0.1, 0.6]")
    gone = [step for step in before if step.name not in keys(after)]
    assert sorted(step.stage for step in gone) == ["report", "score", "score", "train", "train"]
    assert all(s.config["dictionary"]["l1"] == 0.5 for s in gone if s.stage == "train")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_field_of_training_and_of_the_dictionary_matters(data: st.DataObject):
    table = {
        "name": "x",
        "source": {"kind": "independent", "n_features": 16, "d_in": 8, "probability": 0.1},
        "dictionary": {"kind": "relu", "n_latents": 16, "l1": 0.1},
    }
    trained = next(s for s in steps_of(table) if s.stage == "train")
    part = data.draw(st.sampled_from(["train", "dictionary", "source"]))
    holder = trained.inputs["source"].config if part == "source" else trained.config
    # l0 stands in for l1, and p_anneal is refused without a p.
    field = data.draw(st.sampled_from(sorted(set(holder[part]) - {"kind", "l0", "p_anneal"})))
    value = holder[part][field]
    others = {
        "input_scale": "none",
        "decoder": "weighted",
        "frequencies": "zipf",
        "values": "constant",
        "precision": "screen",
        "penalty": "tanh",
        "centre": "median",
        "start": "data",
    }
    if isinstance(value, bool):
        changed = str(not value).lower()
    elif isinstance(value, int):
        changed = str(value + data.draw(st.integers(1, 50)))
    elif isinstance(value, float):
        changed = str(value + data.draw(st.floats(0.001, 0.009)) if value < 0.99 else 0.5)
    else:
        changed = others[field]
    other = next(s for s in steps_of(table, f"{part}.{field}={changed}") if s.stage == "train")
    assert other.key != trained.key


def test_the_content_of_a_named_file_is_part_of_the_key(tiny: Given, tmp_path: Path):
    file = tmp_path / "x.npy"
    tiny["source"] = {"kind": "tensor", "file": str(file)}
    tiny["score"]["metrics"] = ["reconstruction"]
    with pytest.raises(MissingFileError, match=r"source\.file = .*x\.npy': does not exist"):
        steps_of(tiny)
    np.save(file, np.zeros((50, 4), dtype=np.float32))
    zeros = keys(steps_of(tiny))
    assert keys(steps_of(tiny)) == zeros
    np.save(file, np.ones((50, 4), dtype=np.float32))
    assert not keys(steps_of(tiny)) & zeros


def test_a_metric_or_baseline_that_a_source_cannot_serve_is_an_error_that_names_both(tiny: Given, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros((50, 4), dtype=np.float32))
    tiny["source"] = {"kind": "tensor", "file": str(tmp_path / "x.npy")}
    with pytest.raises(UserError, match=r"'recovery' needs truth.*'tensor'"):
        steps_of(tiny)
    del tiny["score"]["metrics"]
    served = next(s for s in steps_of(tiny) if s.stage == "score").config["metrics"]
    assert [m["kind"] for m in served] == ["coherence", "cost", "reconstruction"]
    tiny["baselines"]["kinds"] = ["oracle"]
    with pytest.raises(UserError, match=r"'oracle' needs truth.*'tensor'"):
        steps_of(tiny)


def test_methods_that_reconstruct_their_input_are_refused_where_there_are_targets(tiny: Given, tmp_path: Path):
    x = torch.randn(50, 4)
    save_file({"x": x, "y": 2 * x}, tmp_path / "x.safetensors")
    pairs = {"kind": "tensor", "file": str(tmp_path / "x.safetensors"), "name": "x", "target": "y"}
    tiny |= {"source": pairs, "score": {}, "baselines": {"kinds": ["linear", "neurons"]}}
    message = r"baselines.kinds: 'neurons' reconstructs its input, but the source 'tensor' has targets .* 'linear'"
    with pytest.raises(UserError, match=message) as error:
        steps_of(tiny)
    assert "\n" not in str(error.value)
    tiny["baselines"] = {"kinds": ["linear"]}
    assert keys(steps_of(tiny), "train")
    tiny["source"] = [pairs, {k: v for k, v in pairs.items() if k != "target"}]
    labels = {s.config["row"]["source"] for s in steps_of(tiny) if s.stage == "score"}
    assert labels == {"tensor", "tensor target=y"}
    sources = [s.config["source"] for s in steps_of(tiny) if s.stage == "generate"]
    assert ["target" in source for source in sources] == [True, False]


def test_labels_of_sources_with_nested_tables_are_short(tiny: dict[str, Any]):
    source = {"kind": "features", "n_features": 4, "d_in": 4}
    tree = {"kind": "tree", "parents": [-1, 0, 0, 0], "probability": 0.1}
    activities = [tree, {**tree, "scaled": True}, {"kind": "fixed", "k": 2}]
    tiny["source"] = [{**source, "activity": activity} for activity in activities]
    labels = dict.fromkeys(s.config["row"]["source"] for s in plan(parse(tiny)) if s.stage == "score")
    assert list(labels) == [
        "features activity=(tree scaled=False)",
        "features activity=(tree scaled=True)",
        "features activity=fixed",
    ]


def test_labels_of_nested_tables_without_a_kind_show_what_differs(tiny: dict[str, Any]):
    network = {"kind": "network", "n_features": 4, "activity": {"kind": "independent", "probability": 0.1}}
    tiny["source"] = [{**network, "network": {"hidden": [n]}} for n in (2, 3)]
    names = {step.config["row"]["source"] for step in plan(parse(tiny)) if step.stage == "score"}
    assert names == {"network network=hidden=[2]", "network network=hidden=[3]"}


def test_a_metric_that_is_off_by_default_is_scored_on_request_only(tiny: Given):
    def families(*assignments: str) -> set[str]:
        table = {name: value for name, value in tiny.items() if name != "score"}
        [*scored] = (step for step in steps_of(table, *assignments) if step.stage == "score")
        return {metric["kind"] for metric in scored[0].config["metrics"]}

    assert "legacy" not in families() >= {"reconstruction", "recovery", "splitting", "causal", "hedging", "coverage"}
    assert families('score.metrics=["reconstruction", "legacy"]') == {"reconstruction", "legacy"}
