"""The results of `benchmarks.circuits` as tables of docs/models.md: one column for each model."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.lines import Line

Row = tuple[str, str, str, str]
"""A label, then the dictionaries, the nodes and the value of the lines that it shows."""
ROWS: dict[str, Sequence[Row]] = {
    "induction": (
        ("known path", "identity", "known path, zero", "kept"),
        ("as many random heads and positions", "identity", "known path, zero", "random"),
        ("with the strongest previous-token head alone", "identity", "strongest previous-token head, zero", "kept"),
        ("with no previous-token head", "identity", "induction heads alone, zero", "kept"),
        ("known path, trained dictionaries", "trained", "known path, zero", "kept"),
        ("the same and all errors", "trained", "known path, zero", "kept_and_errors"),
        ("as many random, trained dictionaries", "trained", "known path, zero", "random"),
        ("known path, others at the mean of their position", "identity", "known path, mean", "kept"),
        ("as many random, others at the mean of their position", "identity", "known path, mean", "random"),
        ("the graph, trained dictionaries", "trained", "graph, zero", "kept"),
        ("the same and all errors", "trained", "graph, zero", "kept_and_errors"),
        ("as many random latents", "trained", "graph, zero", "random"),
        ("on the path: influence of the graph's first-layer latents", "trained", "graph, zero", "first_layer_on_path"),
        ("on the path: all active latents of that layer", "trained", "graph, zero", "of_all_latents"),
    ),
    "addition": (
        ("the graph, identity", "identity", "graph, zero", "kept"),
        ("as many random coordinates", "identity", "graph, zero", "random"),
        ("the graph, trained dictionaries", "trained", "graph, zero", "kept"),
        ("the same and all errors", "trained", "graph, zero", "kept_and_errors"),
        ("as many random latents", "trained", "graph, zero", "random"),
        ("influence of digits: of places up to the predicted one", "trained", "graph, zero", "digits_up_to_the_place"),
    ),
}  # fmt: skip


def circuits(lines: Sequence[Line]) -> str:
    """One table for each toy. Of several results for a model, the last one counts."""
    return "\n\n".join(_table(toy, [line for line in lines if line["toy"] == toy]) for toy in ROWS
                       if any(line["toy"] == toy for line in lines))  # fmt: skip


def _table(toy: str, lines: Sequence[Line]) -> str:
    newest = {(line["seed"], line["dictionaries"], line["nodes"]): line for line in lines}
    seeds = sorted({line["seed"] for line in lines})
    prompts = sorted({line["prompts"] for line in lines})
    head = [f"| {toy}, {' or '.join(map(str, prompts))} prompts | ", " | ".join(f"model {s}" for s in seeds), " |"]
    body = [
        f"| {label} | {' | '.join(_interval(newest[seed, kind, nodes][value]) for seed in seeds)} |"
        for label, kind, nodes, value in ROWS[toy]
    ]
    return "\n".join(["".join(head), "|" + "---|" * (1 + len(seeds)), *body])


def _interval(values: Sequence[float]) -> str:
    value, low, high = (f"{x:.2f}" if abs(x) >= 0.9995 else f"{x:.3f}".replace("0.", ".", 1) for x in values)
    return f"{value} [{low}, {high}]"
