"""The plan of a training: one line for each number of processes, with what would be exchanged otherwise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.lines import Line, emit, note
from benchmarks.scale.collectives import Collective
from benchmarks.scale.cost_model import Cost, Machines, cost, data_parallel, efficiency, fully_sharded, least_width
from benchmarks.scale.devices import Link, Sourced
from benchmarks.scale.setting import Setting
from benchmarks.scale.work import Phase


def plan(setting: Setting, machines: Machines, most: int, tokens: float | None = None) -> list[Line]:
    """Prints the plan for 1, 2, 4, ... and `most` processes, and returns its lines."""
    costs = [cost(setting, machines, p) for p in counts(most)]
    lines = [emit("scale", step_line(of, tokens), None) for of in costs]
    lines.append(emit("scale", answer_line(costs), None))
    lines.append(emit("scale", sources_line(machines), None))
    if sys.stderr.isatty():
        note(table(lines))
    return lines


def counts(most: int) -> list[int]:
    """1, 2, 4, ..., and `most`."""
    return sorted({1 << i for i in range(most.bit_length()) if 1 << i <= most} | {most})


def basis(machines: Machines) -> str:
    """From what the numbers of a line follow."""
    if machines.device.is_measured:
        return f"computed from rates measured on {machines.device.name}, and from reported rates of links"
    at_peak = machines.assumptions.product_share == 1
    how = "at their peak" if at_peak else "times an assumed share"
    return f"computed from rates of datasheets, {how}, and from reported rates of links"


def named(setting: Setting, machines: Machines) -> Line:
    """The setting of a line."""
    names = {"device": machines.device.name, "link": machines.link.name, "network": machines.network.name}
    return {**asdict(setting), **names, "per_node": machines.per_node}


def step_line(of: Cost, tokens: float | None = None) -> Line:
    """The cost of a step on some processes; sizes are of each device."""
    d, exchanged = of.division, of.collectives()
    line: Line = {
        "name": "step",
        **named(d.setting, of.machines),
        "processes": d.processes,
        "shards": d.shards,
        "members_each": d.members,
        "latents_each": d.latents,
        "memory_gb": sum(of.memory.values()) / 1e9,
        "memory": {what: round(n / 1e9, 4) for what, n in of.memory.items()},
        "fits": of.fits,
        "exchanged_mb": sum(one.n_bytes for one in exchanged) / 1e6,
        "sent_mb": sum(one.sent_bytes for one in exchanged) / 1e6,
        "data_parallel_mb": data_parallel(of).n_bytes / 1e6 if d.processes > 1 else 0.0,
        "fully_sharded_mb": sum(one.n_bytes for one in fully_sharded(of)) / 1e6 if d.processes > 1 else 0.0,
        "data_parallel_ms": 1e3 * data_parallel(of).seconds,
        "fully_sharded_ms": 1e3 * sum(one.seconds for one in fully_sharded(of)),
        "collectives": collective_lines(exchanged),
        "path": of.path,
        "dense": {phase.name: phase_line(of, phase) for phase in of.phases("dense")},
        "sparse": {phase.name: phase_line(of, phase) for phase in of.phases("sparse")},
        "work_ms": 1e3 * of.work(of.path),
        "communication_ms": 1e3 * of.communication(),
        "launches_ms": 1e3 * of.launches(of.path),
        "harvest_ms": 1e3 * of.harvest,
        "step_ms": 1e3 * of.seconds(),
        "samples_per_s": of.samples_per_s(),
        "samples_per_s_dense": of.samples_per_s("dense"),
        "samples_per_s_sparse": of.samples_per_s("sparse"),
        "samples_per_s_dense_products": of.dense_products_per_s(),
        "efficiency": efficiency(of),
        "shares": {limit: round(share, 3) for limit, share in of.shares().items()},
        "limit": of.binds,
    }
    if tokens is not None:
        line["hours"] = tokens / of.samples_per_s() / 3600
    return {**line, "basis": basis(of.machines)}


def phase_line(of: Cost, phase: Phase) -> dict[str, float]:
    """Work of a phase in GFLOP, GB and milliseconds."""
    seconds = phase.seconds(of.machines.device, of.machines.assumptions)
    return {"gflop": round(phase.flops / 1e9, 3), "gb": round(phase.n_bytes / 1e9, 4), "ms": round(1e3 * seconds, 4)}


def collective_lines(exchanged: Sequence[Collective]) -> dict[str, dict[str, Any]]:
    """What is exchanged: how, how often, the bytes of all results and the time."""
    by_what: dict[str, list[Collective]] = {}
    for one in exchanged:
        by_what.setdefault(one.what, []).append(one)
    return {
        what: {
            "kind": every[0].kind,
            "times": len(every),
            "mb": round(sum(one.n_bytes for one in every) / 1e6, 4),
            "ms": round(1e3 * sum(one.seconds for one in every), 4),
        }
        for what, every in by_what.items()
    }


def answer_line(costs: Sequence[Cost]) -> Line:
    """The fewest processes that fit, those that are fastest, and the width from which devices pay."""
    last = costs[-1]
    setting, machines = last.division.setting, last.machines
    fitting = [of for of in costs if of.fits]
    fastest = max(fitting, key=lambda of: of.samples_per_s(), default=None)
    return {
        "name": "answer",
        **named(setting, machines),
        "fewest_that_fit": fitting[0].division.processes if fitting else None,
        "fastest_that_fit": fastest.division.processes if fastest else None,
        "least_width": {str(p): least_width(setting, machines, p) for p in (of.division.processes for of in costs[1:])},
        "basis": basis(machines),
    }


def sources_line(machines: Machines) -> Line:
    """Where the rates are from, and what is assumed."""
    device = machines.device
    return {
        "name": "sources",
        "device": device.name,
        "products": {name: _sourced(rate) for name, rate in device.products.items()},
        "memory_bandwidth": _sourced(device.memory_bandwidth),
        "memory": _sourced(device.memory),
        "links": {link.name: _link(link) for link in (machines.link, machines.network)},
        "assumptions": asdict(machines.assumptions),
    }


def _link(link: Link) -> dict[str, Any]:
    return {name: _sourced(getattr(link, name)) for name in ("bandwidth", "hop", "short_hop", "tree_hop")}


def _sourced(number: Sourced) -> list[Any]:
    return [number.value, number.source]


HEADS = (
    "processes", "latents each", "GB each", "fits", "MB exchanged", "work ms", "exchange ms", "harvest ms",
    "samples/s", "efficiency", "limit",
)  # fmt: skip


def cells(line: Line) -> list[str]:
    """The cells of a step's row under :data:`HEADS`."""
    return [
        str(line["processes"]),
        f"{line['latents_each']:,}",
        f"{line['memory_gb']:.1f}",
        "yes" if line["fits"] else "no",
        f"{line['exchanged_mb']:,.1f}",
        f"{line['work_ms']:,.4g}",
        f"{line['communication_ms']:,.3g}",
        f"{line['harvest_ms']:,.3g}",
        f"{line['samples_per_s']:,.0f}",
        f"{line['efficiency']:.2f}",
        line["limit"],
    ]


def table(lines: Sequence[Line]) -> str:
    """The steps of a plan for a terminal, with the answer below."""
    rows = [list(HEADS), *(cells(line) for line in lines if line["name"] == "step")]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    steps, answer = [line for line in lines if line["name"] == "step"], _of(lines, "answer")
    last = steps[-1]
    text.append(f"{last['path']} steps; {last['basis']}")
    if last["processes"] > 1:
        text.append(
            f"data parallelism would exchange {last['data_parallel_mb']:,.0f} MB a step, "
            f"fully sharded {last['fully_sharded_mb']:,.0f} MB"
        )
    if "hours" in last:
        text.append("hours, by processes: " + ", ".join(f"{line['processes']}: {line['hours']:.3g}" for line in steps))
    text.append(f"fewest processes that fit: {answer['fewest_that_fit'] or 'none of these'}")
    enough = ", ".join(f"{p}: {n:,}" if n else f"{p}: none" for p, n in answer["least_width"].items())
    if enough:
        text.append(f"latents of a dictionary from which the efficiency is at least a half, by processes: {enough}")
    return "\n".join(text)


def _of(lines: Sequence[Line], name: str) -> Line:
    return next(line for line in lines if line["name"] == name)
