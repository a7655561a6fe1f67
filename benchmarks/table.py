"""Writes the tables of README.md and of pages in docs from results, so that a command produces every number there.

python -m benchmarks.table benchmarks/results/*.jsonl
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.circuits_page import circuits
from benchmarks.gpu.table import gpu
from benchmarks.lines import Line, note, read, run
from benchmarks.scale.page import scale

TIMES = "\N{MULTIPLICATION SIGN}"
HERE = Path(__file__).parent
PAGES = (
    HERE / "README.md",
    *(HERE.parent / "docs" / f"{name}.md" for name in ("toys", "small_models", "memory", "models", "workers", "scale")),
)
Column = tuple[str, Callable[[Line], str]]


def table(*files: Path, pages: Sequence[Path] = PAGES) -> None:
    """Write tables of result files into pages, between their markers.

    Parameters
    ----------
    files
        Files of JSON lines; by default all in `benchmarks/results`.
    pages
        Markdown files with the markers.
    """
    lines = read(files or sorted((HERE / "results").glob("*.jsonl")))
    for page in pages:
        page.write_text(fill(page.read_text(encoding="utf-8"), lines), encoding="utf-8")
        note(f"{page}: written from {len(lines)} results")


def fill(text: str, lines: Sequence[Line]) -> str:
    """The text with every part ``<!-- NAME --> ... <!-- /NAME -->`` replaced by its table, if there are results for
    it."""
    for name, render in TABLES.items():
        of_name = [line for line in lines if line["benchmark"] == name]
        if of_name:
            text = placed(text, name, render(of_name))
    return text


def placed(text: str, name: str, content: str) -> str:
    """The text with what is between the markers of a name replaced, if it has them."""
    place = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
    return place.sub(lambda _: f"<!-- {name} -->\n{content}\n<!-- /{name} -->", text)


def step(lines: Sequence[Line]) -> str:
    """One table per setting, fastest trainer first. Of several results for a trainer, the last one counts."""
    parts: list[str] = []
    keys = ("d_in", "n_latents", "batch", "l0_wanted", "dtype", "device", "threads", "machine")
    for setting, group in grouped(lines, keys).items():
        d_in, n_latents, batch, l0, dtype, device, threads, machine = setting
        newest = {_trainer(line): line for line in group}
        rows = sorted(newest.values(), key=lambda line: -line["fraction"])
        rates = {name: line["fraction"] for name, line in newest.items()}
        best = rates.get("sae-relu")
        columns: list[Column] = [
            ("trainer", _trainer),
            ("l0", lambda line: f"{line['l0']:.1f}"),
            ("ms per step", lambda line: f"{line['step_ms']:.4g}"),
            ("samples/s", lambda line: f"{line['samples_per_s']:,.0f}"),
            ("share of the roofline", lambda line: f"{line['fraction']:.2f}"),
            ("speedup of sae-relu", lambda line, best=best: f"{best / line['fraction']:.1f}{TIMES}" if best else ""),
            ("peak MB", lambda line: f"{line['peak_mb']:,.0f}"),
        ]
        where = machine if str(device).startswith("cuda") else f"{machine}, {threads} threads"
        title = f"**{d_in} → {n_latents}, batch {batch}, L0 {l0}, {dtype}** ({where})"
        parts.append(f"{title}\n\n{markdown(columns, rows)}")
    return "\n\n".join(parts)


def stack(lines: Sequence[Line]) -> str:
    """One table per setting, for our stack and the loops over other trainers."""
    parts: list[str] = []
    keys = ("members", "d_in", "n_latents", "batch", "device", "threads", "machine")
    for setting, group in grouped(lines, keys).items():
        members, d_in, n_latents, batch, device, threads, machine = setting
        newest = {line["name"]: line for line in group}
        ours = newest.get("sae-relu")
        columns: list[Column] = [
            ("trainer", lambda line: line["name"]),
            ("l0", lambda line: f"{line['l0']:.1f}"),
            ("ms per step of all", lambda line: f"{line['step_ms']:.4g}"),
            ("share of the batched roofline", lambda line: f"{line['fraction']:.2f}"),
            (
                "speedup of ours",
                lambda line, ours=ours: f"{ours['fraction'] / line['fraction']:.1f}{TIMES}" if ours else "",
            ),
            ("peak MB", lambda line: f"{line['peak_mb']:,.0f}"),
        ]
        title = f"**{members} {TIMES} {d_in} → {n_latents}, batch {batch}** ({machine}, {device}, {threads} threads)"
        parts.append(f"{title}\n\n{markdown(columns, list(newest.values()))}")
    return "\n\n".join(parts)


def whole(lines: Sequence[Line]) -> str:
    """One table per setting, with the time and quality of each library."""
    parts: list[str] = []
    keys = ("d_in", "n_latents", "batch", "samples", "l1", "lr", "threads", "machine")
    for setting, group in grouped(lines, keys).items():
        d_in, n_latents, batch, samples, l1, lr, threads, machine = setting
        newest = {line["name"]: line for line in group}
        columns: list[Column] = [
            ("library", lambda line: line["name"]),
            ("seconds", lambda line: f"{line['seconds']:.1f}"),
            (
                "speedup of ours",
                lambda line: f"{line['ratio_to_ours']:.1f}{TIMES}" if "ratio_to_ours" in line else "",
            ),
            ("l0", lambda line: f"{line['l0']:.1f}"),
            ("fvu", lambda line: f"{line['fvu']:.3f}"),
            ("mcc", lambda line: f"{line['mcc']:.3f}"),
        ]
        title = f"**{d_in} → {n_latents}, {samples:,} samples in batches of {batch}, l1 {l1:g}, lr {lr:g}**"
        parts.append(f"{title} ({machine}, {threads} threads)\n\n{markdown(columns, list(newest.values()))}")
    return "\n\n".join(parts)


def architectures(lines: Sequence[Line]) -> str:
    """One table per suite. Of the two schedules of a library, the one with the higher mcc is shown."""
    parts: list[str] = []
    keys = ("suite", "d_in", "n_latents", "n_features", "batch", "samples", "l0_wanted", "seeds", "threads", "machine")
    for setting, group in grouped(lines, keys).items():
        suite, d_in, n_latents, n_features, batch, samples, l0, seeds, threads, machine = setting
        newest = {(line["kind"], _trainer(line), line["schedule"]): line for line in group}
        best: dict[tuple[str, str], Line] = {}
        for (kind, name, _), line in newest.items():
            other = best.get((kind, name))
            best[kind, name] = line if other is None or line["mcc"] > other["mcc"] else other
        columns: list[Column] = [
            ("architecture", lambda line: line["kind"]),
            ("trainer", _trainer),
            ("lr", lambda line: f"{line['lr']:g}" if line["lr"] else "own"),
            *((name, lambda line, name=name: _mean(line, name)) for name in ("l0", "fvu", "mcc", "f1", "f1_macro")),
            ("dead", lambda line: f"{line['dead']:.2f}"),
            *(
                (f"{name}, ours minus theirs", lambda line, name=name: _difference(line, name))
                for name in ("mcc", "f1", "fvu")
            ),
            ("seconds", lambda line: f"{line['seconds']:.1f}"),
        ]
        title = f"**{suite}: {n_features} features in {d_in} dimensions, {n_latents} latents, L0 {l0}**"
        where = f"{samples:,} samples in batches of {batch}, {seeds} seeds; {machine}, threads: {threads}"
        parts.append(f"{title} ({where})\n\n{markdown(columns, list(best.values()))}")
    return "\n\n".join(parts)


def data(lines: Sequence[Line]) -> str:
    """One row per setting."""
    newest = {(line["rows"], line["d_in"], line["batch"], line["threads"]): line for line in lines}
    columns: list[Column] = [
        (f"samples {TIMES} width", lambda line: f"{line['rows']:,} {TIMES} {line['d_in']}"),
        ("batch", lambda line: str(line["batch"])),
        ("threads", lambda line: str(line["threads"])),
        ("samples/s", lambda line: f"{line['rows_per_s']:,.0f}"),
        ("plain copy, samples/s", lambda line: f"{line['copy_rows_per_s']:,.0f} ({line['copy']})"),
        ("share of the copy", lambda line: f"{line['fraction']:.2f}"),
    ]
    return markdown(columns, list(newest.values()))


def generate(lines: Sequence[Line]) -> str:
    """One row per kind of source and setting."""
    newest = {(line["name"], line["d_in"], line["n_latents"], line["batch"]): line for line in lines}
    columns: list[Column] = [
        ("source", lambda line: line["name"]),
        ("width", lambda line: str(line["d_in"])),
        ("samples/s", lambda line: f"{line['rows_per_s']:,.0f}"),
        ("dense roofline of a step, samples/s", lambda line: f"{line['roofline_samples_per_s']:,.0f}"),
        ("ratio", lambda line: f"{line['fraction']:.2f}{TIMES}"),
    ]
    return markdown(columns, list(newest.values()))


def harvest(lines: Sequence[Line]) -> str:
    """One row per model and attention of the plain hook."""
    keys = ("model", "layer", "rows", "context", "device", "attention")
    newest = {tuple(line[key] for key in keys): line for line in lines}
    columns: list[Column] = [
        ("model", lambda line: line["model"]),
        ("attention", lambda line: line["attention"]),
        ("block", lambda line: str(line["layer"])),
        ("batch", lambda line: f"{line['rows']} {TIMES} {line['context']}"),
        ("tokens/s", lambda line: f"{line['tokens_per_s']:,.0f}"),
        ("plain hook, tokens/s", lambda line: f"{line['bare_tokens_per_s']:,.0f}"),
        ("seconds, ours divided by the plain hook's", lambda line: f"{line['ratio']:.2f}"),
    ]
    return markdown(columns, list(newest.values()))


def instances(lines: Sequence[Line]) -> str:
    """One row per shape of the networks."""
    newest = {(line["name"], line["n"], line["threads"]): line for line in lines}
    columns: list[Column] = [
        ("networks", lambda line: f"{line['n']} with {line['n_features']} features in {line['hidden']} dimensions"),
        ("all at once, ms per step", lambda line: f"{line['together_ms']:.3g}"),
        ("one in a loop, ms per step", lambda line: f"{line['one_ms']:.3g}"),
        ("networks a loop trains in the same time", lambda line: f"{line['loop_instances']:.1f}"),
    ]
    return markdown(columns, list(newest.values()))


def memory(lines: Sequence[Line]) -> str:
    """One row per stage, width and number of samples."""
    newest = {tuple(line[key] for key in ("name", "d_in", "n_latents", "rows", "batch")): line for line in lines}
    columns: list[Column] = [
        ("stage", lambda line: f"`{line['name']}`"),
        ("latents", lambda line: f"{line['n_latents']:,}"),
        ("samples", lambda line: f"batches of {line['batch']:,}" if line["name"] == "train" else f"{line['rows']:,}"),
        ("peak, GB", lambda line: f"{line['peak_gb']:.2f}"),
        ("stated, GB", lambda line: f"{line['stated_gb']:.2f}"),
        ("seconds", lambda line: f"{line['seconds']:,.0f}"),
    ]
    order = list(dict.fromkeys(line["name"] for line in lines))
    return markdown(columns, sorted(newest.values(), key=lambda line: (order.index(line["name"]), line["n_latents"])))


def workers(lines: Sequence[Line]) -> str:
    """One row per number of workers."""
    newest = {tuple(line[key] for key in ("workers", "sources", "d_in", "n_latents", "steps")): line for line in lines}
    columns: list[Column] = [
        ("workers", lambda line: str(line["workers"])),
        ("dictionaries", lambda line: f"{line['sources']} of {line['n_latents']} latents, {line['steps']:,} steps"),
        ("one process, s", lambda line: f"{line['one_s']:.0f}"),
        ("workers, s", lambda line: f"{line['several_s']:.0f}"),
        ("times faster", lambda line: f"{line['ratio']:.2f} ({min(line['ratios']):.2f} to {max(line['ratios']):.2f})"),
        ("files", lambda line: f"{line['files']}, {'all' if line['same_bytes'] else 'NOT'} the same"),
        ("machine", lambda line: line["machine"]),
    ]
    return markdown(columns, [newest[key] for key in sorted(newest)])


def toys(lines: Sequence[Line]) -> str:
    """One table per study, with its claim as the title and one row per fact."""
    newest = {(line["study"], line["claim"]): line for line in lines}
    columns: list[Column] = [
        ("quantity", lambda line: line["claim"].replace("|", r"\|")),
        ("expected", lambda line: line["expected"].replace("|", r"\|")),
        ("measured", lambda line: line["measured"]),
    ]
    parts = [
        f"**`{study}`**: {about}\n\n{markdown(columns, group)}"
        for (study, about), group in grouped(newest.values(), ("study", "about")).items()
    ]
    return "\n\n".join(parts)


def small_models(lines: Sequence[Line]) -> str:
    """As :func:`toys`, of the studies that have no page of their own."""
    return toys([line for line in lines if line["study"] not in OF_OTHER_PAGES])


OF_OTHER_PAGES = ("repeated_text", "induction_codes", "ioi_codes", "genres", "genres_planted")
TABLES: dict[str, Callable[[Sequence[Line]], str]] = {
    "step": step, "stack": stack, "whole": whole, "data": data, "generate": generate, "harvest": harvest,
    "architectures": architectures, "instances": instances, "toys": toys, "memory": memory, "workers": workers,
    "small_models": small_models, "gpu": gpu, "scale": scale, "circuits": circuits,
}  # fmt: skip


def markdown(columns: Sequence[Column], lines: Sequence[Line]) -> str:
    """A Markdown table with one row per result."""
    head = "| " + " | ".join(name for name, _ in columns) + " |"
    rule = "|" + "---|" * len(columns)
    return "\n".join([head, rule, *("| " + " | ".join(cell(line) for _, cell in columns) + " |" for line in lines)])


def grouped(lines: Iterable[Line], keys: Sequence[str]) -> dict[tuple[object, ...], list[Line]]:
    """Results with the same values of `keys`, in order of their first result."""
    groups: dict[tuple[object, ...], list[Line]] = {}
    for line in lines:
        groups.setdefault(tuple(line.get(key) for key in keys), []).append(line)
    return groups


def _mean(line: Line, name: str) -> str:
    """A mean with half the width of its interval."""
    within = line[f"{name}_within"]
    return f"{line[name]:.3f}" + ("" if within is None else f" ± {within:.3f}")


def _difference(line: Line, name: str) -> str:
    """The difference of ours and another result; bold if ours is worse and the interval excludes zero."""
    if f"{name}_ahead" not in line:
        return ""
    difference, within = line[f"{name}_ahead"], line[f"{name}_ahead_within"]
    text = f"{difference:+.3f}" + ("" if within is None else f" ± {within:.3f}")
    worse_by = -difference if name != "fvu" else difference
    return f"**{text}**" if within is not None and worse_by > within else text


def _trainer(line: Line) -> str:
    """The name of a trainer, with the settings of our loop that differ from the defaults."""
    extra = ", ".join(f"{key} = {value}" for key, value in line.get("train", {}).items())
    return f"{line['name']} ({extra})" if extra else line["name"]


if __name__ == "__main__":
    run(table)
