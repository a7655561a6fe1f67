"""Measured steps next to computed ones: the count of work, at the rate that products had in the same minutes.

    python -m benchmarks.scale --against benchmarks/results/step-768.jsonl

A line of `python -m benchmarks.step` has the rate of dense products that was measured beside the trainer, in turns with
it. That rate is taken for the products of a step, and a bandwidth of memory for all else, which such a line does not
have.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.lines import Line, emit, read
from benchmarks.scale.cost_model import Machines, cost
from benchmarks.scale.devices import LINKS, Assumptions, Device, Sourced
from benchmarks.scale.setting import Setting

KINDS: dict[str, Any] = {"sae-relu": "relu", "sae-topk": "topk"}
"""Our trainers, and their architectures."""


def against(files: Iterable[Path], copy_gb_s: float) -> list[Line]:
    """Prints a line for every step of one of our trainers on a CPU in these results, in float32.

    `copy_gb_s` is the bandwidth of memory, read and written bytes together.
    """
    return [emit("scale", compared(line, copy_gb_s), None) for line in read(files) if _is_ours(line)]


def _is_ours(line: Line) -> bool:
    is_step = line.get("benchmark") == "step" and line.get("device") == "cpu"
    return is_step and line.get("name") in KINDS and not line.get("train")


def compared(line: Line, copy_gb_s: float) -> Line:
    """One measured step with the computed one."""
    where = f"{line['machine']}, threads: {line['threads']}"
    rate = Sourced(line["gflops"] * 1e9, f"measured on {where}")
    device = Device(
        where,
        {"float32": rate, "tf32": rate, "bfloat16": rate},
        Sourced(copy_gb_s * 1e9, "--copy-gb-s"),
        Sourced(0.0, "not needed"),
        is_gpu=False,
        is_measured=True,
    )
    setting = Setting(
        d_in=line["d_in"], n_latents=line["n_latents"], batch=line["batch"], kind=KINDS[line["name"]], k=line["l0"]
    )
    machines = Machines(device, LINKS["ethernet"], LINKS["ethernet"], 1, Assumptions(product_share=1, memory_share=1))
    of = cost(setting, machines, 1)
    computed = 1e3 * of.seconds()
    return {
        "name": "against",
        "trainer": line["name"],
        **{name: line[name] for name in ("d_in", "n_latents", "batch", "l0", "threads", "gflops")},
        "copy_gb_s": copy_gb_s,
        "path": of.path,
        "phases": {
            phase.name: round(1e3 * phase.seconds(device, machines.assumptions), 3) for phase in of.phases(of.path)
        },
        "computed_ms": computed,
        "measured_ms": line["step_ms"],
        "share": computed / line["step_ms"],
        "computed_gb": sum(of.memory.values()) / 1e9,
        "measured_gb": line["peak_mb"] / 1e3,
        "basis": f"measured on {where}; computed from the rate of products of the same minutes",
    }
