"""The programs at tiny sizes: what they print, and that the numbers in a result are consistent."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from benchmarks import trainers
from benchmarks.architectures import architectures, interval
from benchmarks.data import data
from benchmarks.generate import generate
from benchmarks.harvest import harvest
from benchmarks.install import installed, size_mb
from benchmarks.instances import instances
from benchmarks.isolated import ProcessError, call
from benchmarks.language import language
from benchmarks.lines import run
from benchmarks.memory import memory as peak_memory
from benchmarks.peers import peers
from benchmarks.pool import Pool, planted
from benchmarks.recovery import next_weight
from benchmarks.roofline import Roofline
from benchmarks.stack import stack
from benchmarks.step import step
from benchmarks.toys import toys
from benchmarks.trainers import Setting, dictionary_learning
from benchmarks.whole import whole
from sae.numerics import memory
from sae.registry import UserError

KEYS = {
    "name", "d_in", "n_latents", "batch", "l0", "dtype", "device", "threads", "samples_per_s",
    "roofline_samples_per_s", "fraction", "peak_mb",
}  # fmt: skip


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_step_is_timed_in_a_trained_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    tiny = {"d_in": 16, "n_latents": 64, "batch": 256, "l0": 4, "threads": 1, "seconds": 0.05, "cache": tmp_path}
    [line] = step(only=["sae-relu"], least_steps=100, **tiny)
    [shown] = printed(capsys)
    assert shown.keys() >= KEYS and shown["name"] == "sae-relu"
    assert line["fraction"] == pytest.approx(line["samples_per_s"] / line["roofline_samples_per_s"])
    assert line["samples_per_s"] == pytest.approx(1000 * 256 / line["step_ms"])
    assert line["trained_steps"] >= 100
    assert 2 < line["l0"] < 8
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(files) == 1
    step(only=["sae-relu"], least_steps=100, **tiny)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files, "the state is reused"


def test_an_installation_is_measured_by_its_files_and_needs_a_python(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(3_000_000))
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert size_mb(tmp_path) == pytest.approx(3, abs=0.01)
    with pytest.raises(UserError, match=r"no-such-python: .*; give a Python with --python"):
        installed("no-such-python", "torch", True, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "link"]


def test_a_trainer_that_is_not_installed_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    absent = [name for name in trainers.names() if trainers.missing(name)]
    assert step(only=absent, threads=1, seconds=0.05, cache=tmp_path) == []
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="'sae-lasso' is not a known trainer"):
        step(only=["sae-lasso"], cache=tmp_path)


def test_steps_from_the_start(tmp_path: Path):
    tiny = {"d_in": 16, "n_latents": 64, "batch": 64, "l0": 4, "threads": 1, "seconds": 0.05}
    [line] = step(only=["sae-topk"], cache=tmp_path, **tiny)
    assert line.keys() >= KEYS and line["steps"] > 0
    assert line["l0"] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("kind", dictionary_learning.KINDS)
def test_trainers_of_dictionary_learning_need_no_levels(kind: str):
    """All of them once computed the widths of nested dictionaries, and failed where there were none."""
    arguments = dictionary_learning.arguments(kind, Setting(d_in=16, n_latents=64, batch=64, l0=4), steps=100)
    assert arguments["activation_dim"] == 16 and "group_fractions" not in arguments


def test_a_measurement_that_fails_ends_in_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A library whose trainers all failed once left nothing but notes, and exit code 0."""

    def broken(function: str, settings: dict, threads: int) -> dict:
        raise ProcessError(f"{function} ended with exit code 1")

    monkeypatch.setattr("benchmarks.step.call", broken)
    monkeypatch.setattr("sys.argv", ["step", "--only", "sae-topk", "--cache", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        run(step)
    assert end.value.code == 1
    assert "without a result: sae-topk: benchmarks.step:measure ended" in capsys.readouterr().err


def test_a_library_without_which_nothing_is_compared_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("benchmarks.peers.installed", lambda name: False)
    monkeypatch.setattr("sys.argv", ["peers"])
    with pytest.raises(SystemExit) as end:
        run(peers)
    assert end.value.code == 1 and "sparsify: sparsify is not installed" in capsys.readouterr().err


@pytest.mark.slow
def test_one_line_for_every_trainer_of_a_library():
    lines = peers(only=["sae"])
    assert [line["name"] for line in lines[:2]] == ["sae-relu", "sae-topk"]
    assert {line["of"] for line in lines} == {"steps", "whole run", "architecture"}


def test_a_stack(capsys: pytest.CaptureFixture[str]):
    lines = stack(members=3, d_in=16, n_latents=64, batch=64, l0=4, steps=20, threads=1, seconds=0.05)
    assert lines[0]["name"] == "sae-relu" and lines[0]["members"] == 3
    for line, shown in zip(lines, printed(capsys), strict=True):
        assert shown["benchmark"] == "stack"
        assert line["fraction"] == pytest.approx(line["roofline_ms"] / line["step_ms"])


@pytest.mark.slow
def test_a_whole_run_ends_in_scores(tmp_path: Path):
    lines = whole(d_in=32, n_latents=64, batch=64, steps=30, threads=1, repeats=1, cache=tmp_path)
    assert lines[0]["ratio_to_ours"] == 1
    for line in lines:
        assert line["samples"] == 30 * 64
        assert 0 <= line["mcc"] <= 1 and line["fvu"] > 0 and line["l0"] > 0


@pytest.mark.parametrize("kind", ["topk", pytest.param("jumprelu", marks=pytest.mark.slow)])
def test_every_architecture_is_scored_next_to_other_libraries(kind: str, capsys: pytest.CaptureFixture[str]):
    lines = architectures(only=[kind], seeds=2, steps=40, batch=32, batches=4, rounds=2)
    assert lines[0]["name"] == "sae" and lines[0]["schedule"] == "common"
    for line, shown in zip(lines, printed(capsys), strict=True):
        assert shown["benchmark"] == "architectures" and shown["kind"] == kind
        assert 0 <= line["mcc"] <= 1 and line["fvu"] > 0 and line["l0"] >= 0 and line["mcc_within"] >= 0
        assert len(line["runs"]["mcc"]) == 2 and ("mcc_ahead" in line) == (line["name"] != "sae")
        assert len(line["tried"]) <= 2


def test_the_search_for_a_weight_interpolates_between_its_neighbours():
    assert next_weight({1.0: 4.0}) == 8.0 and next_weight({1.0: 0.5}) == pytest.approx(0.5**1.5)
    assert next_weight({1.0: 4.0, 4.0: 0.25}) == pytest.approx(2.0)
    assert next_weight({1.0: 4.0, 2.0: 1.001}) is None
    assert next_weight({1.0: 2.0, 3.0: 2.1}) == pytest.approx(3 * 2.1**1.5), "outside of all, even if that was worse"


def test_an_interval_is_students():
    assert interval([0.5]) == (0.5, None)
    middle, within = interval([0.0, 1.0, 2.0])
    assert middle == 1 and within == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_reading(tmp_path: Path):
    tiny = {"rows": 1000, "d_in": 8, "batch": 64, "shard_rows": 300, "threads": 1, "seconds": 0.05}
    [line] = data(cache=tmp_path, **tiny)
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 4
    assert line["fraction"] == pytest.approx(line["rows_per_s"] / line["copy_rows_per_s"])


def test_every_kind_of_toy_source_is_drawn():
    lines = generate(d_in=16, n_latents=32, batch=64, threads=1, seconds=0.05)
    assert {"independent", "correlated"} <= {line["name"] for line in lines}
    for line in lines:
        assert line["fraction"] == pytest.approx(line["rows_per_s"] / line["roofline_samples_per_s"])


@pytest.mark.slow
def test_networks_are_timed_against_a_loop():
    lines = instances(n=3, steps=5)
    assert {line["name"] for line in lines} == {"pentagon", "demo", "geometry"}
    for line in lines:
        assert line["loop_instances"] == pytest.approx(line["together_ms"] / line["one_ms"])


def test_a_study_prints_its_facts(capsys: pytest.CaptureFixture[str]):
    lines = toys("exclusive_pair")
    assert printed(capsys)[0]["study"] == "exclusive_pair" and lines[0]["measured"].startswith("1.0")
    assert lines[0]["about"].startswith("Two features that never fire together")
    with pytest.raises(UserError, match="'exclusive' is not a known study: did you mean 'exclusive_pair'"):
        toys("exclusive")


@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_harvesting_gives_the_same_vectors_as_a_plain_hook(name: str, tiny_models: dict[str, Path]):
    tiny = {"rows": 2, "context": 16, "batches": 2, "threads": 1, "seconds": 0.05}
    lines = harvest(model=str(tiny_models[name]), **tiny)  # the program compares the vectors themselves
    assert [line["attention"] for line in lines] == ["eager", "fused"]
    for line in lines:
        assert line["ratio"] == pytest.approx(line["bare_tokens_per_s"] / line["tokens_per_s"])
        assert line["layer"] == 1


def test_harvesting_is_skipped_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert harvest(model=str(tmp_path)) == []
    assert "skipped" in capsys.readouterr().err


def test_a_call_runs_in_a_separate_process():
    assert call("os:getpid", {}, threads=1) != os.getpid()
    assert call("torch:get_num_threads", {}, threads=2) == 2
    assert call("os:getenv", {"key": "OMP_NUM_THREADS"}, threads=3) == "3"
    with pytest.raises(ProcessError, match="os:no_such_function"):
        call("os:no_such_function", {}, threads=1)


def test_the_roofline_counts_five_products():
    roofline = Roofline(d_in=8, n_latents=16, batch=32, n_members=3, at_least=0.0)
    assert roofline.flops == 5 * 2 * 3 * 32 * 8 * 16
    assert all(roofline.seconds() > 0 for _ in range(2))
    assert len(roofline.measured) == 2


def test_the_peak_counts_memory_that_was_freed_again():
    hidden = torch.ones(16 * 2**20)
    del hidden
    before = memory.held_bytes("cpu")
    torch.ones(8 * 2**20)  # 32 MB, freed at once
    assert 30 <= (memory.peak_bytes("cpu") - before) / 2**20 <= 45


def test_the_pool_cycles_through_its_batches():
    batches = planted(d_in=16, n_features=32, batch=8, n_active=2)
    pool = Pool(batches)
    assert torch.equal(pool.batch(len(batches) + 1, 8).acts, batches[1])
    norm = torch.stack([x.norm(dim=-1).mean() for x in batches]).mean()
    assert math.isclose(float(norm), 4.0, rel_tol=1e-3)


@pytest.mark.slow
def test_peak_memory_at_a_small_size(capsys: pytest.CaptureFixture[str]):
    lines = peak_memory("score-labels", "explore", small=True)
    assert [(line["name"], line["n_latents"]) for line in lines] == [
        (name, n) for name in ("score-labels", "explore") for n in (256, 1024)
    ]
    for line, shown in zip(lines, printed(capsys), strict=True):
        assert shown["peak_gb"] == pytest.approx(line["peak_gb"], rel=1e-4)
        assert 0 <= line["peak_gb"] <= line["stated_gb"] and line["seconds"] > 0
    with pytest.raises(UserError, match="'scoring' is not a known stage"):
        peak_memory("scoring")


def test_language_models_and_n_grams_are_compared_on_one_text(tmp_path: Path, tiny_models: dict[str, Path]):
    words = [f"w{i * i % 7}" for i in range(400)]
    train, heldout = tmp_path / "train.txt", tmp_path / "heldout.txt"
    train.write_text("\n\n".join(" ".join(words[i : i + 20]) for i in range(0, 400, 20)))
    heldout.write_text(" ".join(words[3:203]))
    overlap, model, *grams = language(heldout=heldout, models=[str(tiny_models["gpt2"])], train=train, context=16)
    assert overlap["8_words"] > 0.9 > overlap["paragraphs"]
    assert model["name"] == tiny_models["gpt2"].name and len(grams) == 3
    # A random model knows nothing of the text, in which each word has few successors.
    assert model["nats_per_token"] > grams[0]["nats_per_token"] > grams[2]["nats_per_token"]
    for line in (model, *grams):
        assert line["nats_per_token"] * 198 == pytest.approx(line["nats_per_byte"] * 599, rel=0.01)
