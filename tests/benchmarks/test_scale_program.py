"""The program that plans a training over many devices: what it prints and refuses, and that its page is up to date."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lines import read
from benchmarks.scale.__main__ import scale
from benchmarks.scale.cost_model import Machines, cost
from benchmarks.scale.devices import DEVICES, LINKS, this_cpu
from benchmarks.scale.measure import Measurement, rate
from benchmarks.scale.page import scale as page
from benchmarks.scale.plan import step_line, table
from benchmarks.scale.setting import Setting
from pipelines.steps.joining import own_device
from sae.registry import UserError
from sae.training.kernels.cpu import Numba

ROOT = Path(__file__).parents[2]


def test_a_plan_says_what_it_is_computed_from(capsys: pytest.CaptureFixture[str]):
    lines = scale(plan=True, d_in=4096, n_latents=1 << 20, gpus=48, l0=64.0, tokens=1e9)
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in shown] == [*["step"] * 7, "answer", "sources"]
    assert [line["processes"] for line in shown[:7]] == [1, 2, 4, 8, 16, 32, 48]
    for line, of in zip(shown[:7], lines, strict=False):
        assert line["basis"].startswith("computed from rates of datasheets") and "machine" not in line
        assert line["memory_gb"] == pytest.approx(sum(line["memory"].values()), rel=1e-3)
        assert line["step_ms"] == pytest.approx(line["work_ms"] + line["communication_ms"], rel=1e-4)
        assert line["hours"] == pytest.approx(1e9 / of["samples_per_s"] / 3600, rel=1e-4)
    answer, sources = shown[7:]
    assert answer["fewest_that_fit"] == 4 and answer["fastest_that_fit"] == 48
    assert all(number > 0 and source for number, source in sources["products"].values())
    text = table(shown)
    assert (
        text.count("\n") == 12
        and "hours, by processes: 1: 47.2, 2: 23.7" in text
        and "fewest processes that fit: 4" in text
    )
    assert "data parallelism would exchange 34,360 MB a step, fully sharded 103,079 MB" in text


def test_a_page_has_a_table_for_each_setting_and_one_of_widths(capsys: pytest.CaptureFixture[str]):
    few, many, other = (scale(plan=True, gpus=p, n_latents=n) for p, n in ((2, 4096), (8, 8192), (2, 8192)))
    measured = scale(against=[ROOT / "benchmarks/results/step-768.jsonl"])
    text = page([*few, *many, *other, *measured])
    assert text.count("| processes |") == 2 and text.count("768 → 4,096") == 1
    steps, rest = text.split("**Latents of one dictionary")
    widths, compared = rest.split("**Steps on a CPU")
    assert compared.count("measured on AMD EPYC") == 2 and "| 610 | 645 | 0.95 |" in compared
    assert len(re.findall(r"^\| \d", steps, re.M)) == 2 + 4
    assert steps.count("| computed |") == 6 and widths.count("| computed |") == 1
    assert "| 2 | 4 | 8 | basis |" in widths


def test_measured_steps_are_compared_at_the_rates_of_their_minutes():
    files = [ROOT / f"benchmarks/results/step-{width}.jsonl" for width in (256, 768)]
    lines = scale(against=files)
    assert [(line["trainer"], line["d_in"]) for line in lines] == [
        (name, width) for width in (256, 768) for name in ("sae-relu", "sae-topk")
    ]
    for line in lines:
        assert line["path"] == "sparse" and line["share"] == line["computed_ms"] / line["measured_ms"]
        encode = 2 * line["batch"] * line["d_in"] * line["n_latents"] / line["gflops"] / 1e6
        assert line["phases"]["encode"] == pytest.approx(encode, rel=1e-3)
        assert 0.7 < line["share"] < 1.4, "the count of work explains a step"
        assert line["basis"].startswith("measured on AMD EPYC")


MEASURED: dict[str, Any] = {
    "name": "measured", "kind": "relu", "d_in": 768, "n_latents": 24_576, "batch": 2048, "k": 32, "members": 2,
    "path": "dense", "processes": 2, "threads": 1, "l0": 31.7, "samples_per_s_alone": 1000.0,
    "samples_per_s_all_threads": 1500.0, "samples_per_s": 1800.0, "speedup": 1.8, "speedups": [1.9, 1.7],
    "over_all_threads": 1.2, "exchanging": 0.054, "machine": "a CPU",
}  # fmt: skip


def test_measured_processes_have_a_table_in_which_the_last_line_counts():
    text = page([{**MEASURED, "speedup": 1.0}, MEASURED, {**MEASURED, "path": "sparse"}]).split("**Processes of")[1]
    assert text.count("| 1.80 (1.70 to 1.90) | 1.20 | 5.4% | measured on a CPU |") == 2 and "1.00" not in text
    assert "| 768 → 24,576, batch 2,048, 2 members, relu, L0 32, dense | 2 \N{MULTIPLICATION SIGN} 1 | 1,000 |" in text


@pytest.mark.parametrize(("kind", "path"), [("relu", "sparse"), ("relu", "dense"), ("batchtopk", "sparse")])
def test_a_planted_state_is_timed_on_its_path(kind: Any, path: Any, monkeypatch: pytest.MonkeyPatch):
    for bound in ("sparse_below", "dense_above"):
        monkeypatch.setattr(Numba, bound, getattr(Numba, bound))  # set by the program, and restored here
    found = rate(**asdict(Measurement(kind, 32, 512, 512, 16, 2, path, seconds=0.01)))
    assert found["l0"] == pytest.approx(16, rel=0.25) and found["samples_per_s"] > 0
    assert found["exchanging"] == 0 and found["device"] == own_device()


@pytest.mark.slow
def test_processes_are_measured_next_to_one(capsys: pytest.CaptureFixture[str]):
    [line] = scale(d_in=32, n_latents=512, batch=512, k=16, seconds=0.1, rounds=1)
    [shown] = map(json.loads, capsys.readouterr().out.splitlines())
    assert shown["basis"] == "measured" and shown["machine"] and shown["path"] == "sparse"
    assert line["speedup"] == line["samples_per_s"] / line["samples_per_s_alone"] == 2 * line["efficiency"]
    assert 0 < line["exchanging"] < 1 and line["l0"] == pytest.approx(16, rel=0.25)


def test_every_rate_has_a_source():
    for device in DEVICES.values():
        assert all(r.source for r in (*device.products.values(), device.memory, device.memory_bandwidth))
        assert device.products["float32"].value < device.products["tf32"].value < device.products["bfloat16"].value
    for link in LINKS.values():
        assert all(r.source for r in (link.bandwidth, link.hop, link.short_hop, link.tree_hop))
        assert link.short_hop.value < link.hop.value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 1}, "--processes = 1: a comparison with one process needs at least 2"),
        ({"l0": 5.0}, "--l0 = 5: is for --plan; set --k"),
        ({"k": 0}, "--k = 0: must be above 0"),
        ({"batch": 0}, "--batch = 0: must be at least 1"),
        ({"plan": True, "kind": "topk", "l0": 5.0}, r"--l0 = 5: kind = \"topk\" keeps k latents; set --k"),
        ({"plan": True, "n_latents": 8, "k": 9}, "--k = 9: must be above 0 and at most"),
        ({"plan": True, "gpus": 0}, "--gpus = 0: must be at least 1"),
        ({"plan": True, "gpus": 100, "n_latents": 32}, "--gpus = 100: more than there are latents"),
        ({"plan": True, "model_flops_per_token": -1.0}, "--model-flops-per-token = -1: must not be negative"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        scale(**options)


@pytest.mark.slow
def test_a_cpu_is_measured():
    device = this_cpu()
    assert device.is_measured and not device.is_gpu and device.products["float32"].source.startswith("measured on ")
    lines = scale(plan=True, d_in=64, n_latents=512, gpus=2, batch=256, device="cpu")
    assert "measured on" in lines[0]["basis"] and lines[1]["processes"] == 2


def test_the_tables_of_the_page_are_what_the_model_says():
    """A change of the model, or of the constants that it takes from the code, needs the page's commands once more."""
    devices = {device.name: device for device in DEVICES.values()}
    links = {link.name: link for link in LINKS.values()}
    fields = Setting.__dataclass_fields__
    lines = [line for line in read([ROOT / "benchmarks/results/scale.jsonl"]) if line["name"] == "step"]
    assert len(lines) > 20
    for line in lines:
        machines = Machines(devices[line["device"]], links[line["link"]], links[line["network"]], line["per_node"])
        now = step_line(cost(Setting(**{name: line[name] for name in fields}), machines, line["processes"]))
        for name in ("memory_gb", "exchanged_mb", "work_ms", "communication_ms", "samples_per_s", "efficiency"):
            assert now[name] == pytest.approx(line[name], rel=1e-4), (name, line)
