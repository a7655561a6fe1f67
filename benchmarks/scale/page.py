"""Plans as tables of docs/scale.md, with what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.lines import Line
from benchmarks.scale.plan import HEADS, cells

TIMES = "\N{MULTIPLICATION SIGN}"
TITLE = ("kind", "d_in", "n_latents", "batch", "k", "members", "precision", "model_flops", "device", "link", "network")
"""What the steps of a table have in common."""


def scale(lines: Sequence[Line]) -> str:
    """One table for each setting, in the order of the results, one of the least widths, one of measured steps and one
    of measured processes.

    Of several lines for a setting and a number of processes the last counts.
    """
    steps: dict[tuple[Any, ...], dict[int, Line]] = {}
    for line in lines:
        if line["name"] == "step":
            steps.setdefault(tuple(line[key] for key in TITLE), {})[line["processes"]] = line
    names = ("answer", "against", "measured")
    answers, compared, measured = ([line for line in lines if line["name"] == name] for name in names)
    tables = [*(_table(of) for of in steps.values()), _widths(answers), _compared(compared), _measured(measured)]
    return "\n\n".join(tables)


def _table(of: Mapping[int, Line]) -> str:
    first, last = next(iter(of.values())), list(of.values())[-1]
    model = f", a model of {first['model_flops'] / 1e6:,.0f} MFLOP a token" if first["model_flops"] else ""
    title = (
        f"**{first['d_in']} → {first['n_latents']:,}, batch {first['batch']:,}, {_members(first)}{first['kind']}, "
        f"L0 {first['k']:g}, {first['precision']}{model}** ({first['device']}, {_links(first)}; {last['path']} steps; "
        f"data parallelism would exchange {last['data_parallel_mb']:,.0f} MB a step, "
        f"fully sharded {last['fully_sharded_mb']:,.0f})"
    )
    rows = [(*cells(line), line["basis"].split()[0]) for line in of.values()]
    return _markdown(title, (*HEADS, "basis"), rows)


def _widths(answers: Sequence[Line]) -> str:
    """The least widths by the number of processes. Settings that differ in the width, the members or the model alone
    have one row, of the plan for the most processes."""
    by_rest: dict[tuple[Any, ...], Line] = {}
    for line in sorted(answers, key=lambda one: len(one["least_width"])):
        by_rest[tuple(line[key] for key in TITLE if key not in ("n_latents", "members", "model_flops"))] = line
    counts = sorted({int(p) for line in answers for p in line["least_width"]})
    rows = [
        (
            f"{line['d_in']}, batch {line['batch']:,}, {line['kind']}, L0 {line['k']:g}, {line['precision']}",
            f"{line['device']}, {_links(line)}",
            *(_latents(line["least_width"], str(p)) for p in counts),
            line["basis"].split()[0],
        )
        for line in sorted(by_rest.values(), key=lambda one: (one["link"], one["kind"], one["d_in"]))
    ]
    return _markdown(
        "**Latents of one dictionary from which the efficiency is at least a half, by the number of processes**",
        ("width of the activations and setting", "devices", *map(str, counts), "basis"),
        rows,
    )


def _compared(lines: Sequence[Line]) -> str:
    """Measured steps next to computed ones."""
    rows = [
        (
            f"{line['trainer']}, {line['d_in']} → {line['n_latents']:,}, batch {line['batch']:,}, L0 {line['l0']:.0f}",
            f"{line['computed_ms']:.0f}",
            f"{line['measured_ms']:.0f}",
            f"{line['share']:.2f}",
            f"{line['computed_gb']:.3f}",
            f"{line['measured_gb']:.3f}",
            line["basis"],
        )
        for line in lines
    ]
    heads = ("step", "computed ms", "measured ms", "computed / measured", "computed GB", "measured GB", "basis")
    return _markdown("**Steps on a CPU, computed and measured**", heads, rows)


def _measured(lines: Sequence[Line]) -> str:
    """Processes next to one process; of several lines for a setting the last counts."""
    keys = ("kind", "d_in", "n_latents", "batch", "k", "members", "path", "processes", "threads", "machine")
    newest = {tuple(line[key] for key in keys): line for line in lines}
    rows = [
        (
            f"{line['d_in']} → {line['n_latents']:,}, batch {line['batch']:,}, "
            f"{_members(line)}{line['kind']}, L0 {line['l0']:.0f}, {line['path']}",
            f"{line['processes']} {TIMES} {line['threads']}",
            f"{line['samples_per_s_alone']:,.0f}",
            f"{line['samples_per_s_all_threads']:,.0f}",
            f"{line['samples_per_s']:,.0f}",
            f"{line['speedup']:.2f} ({min(line['speedups']):.2f} to {max(line['speedups']):.2f})",
            f"{line['over_all_threads']:.2f}",
            f"{line['exchanging']:.1%}",
            f"measured on {line['machine']}",
        )
        for line in newest.values()
    ]
    heads = (
        "trained", f"processes {TIMES} threads", "samples/s of one process", "with all threads", "of all processes",
        "times one process", "times all threads", "exchanging", "basis",
    )  # fmt: skip
    return _markdown("**Processes of one machine, measured on its CPU**", heads, rows)


def _latents(widths: Mapping[str, int | None], p: str) -> str:
    if p not in widths:
        return ""
    return "none" if widths[p] is None else f"{widths[p]:,}"


def _members(line: Line) -> str:
    return f"{line['members']} members, " if line["members"] > 1 else ""


def _links(line: Line) -> str:
    return f"{line['link']}, {line['network']}"


def _markdown(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([title, "", _row(heads), "|" + "---|" * len(heads), *map(_row, rows)])


def _row(entries: Sequence[str]) -> str:
    return "| " + " | ".join(entries) + " |"
