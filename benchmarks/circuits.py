"""Attribution graphs on toys whose circuit is known: what the known path carries of the effect, and what a graph finds.

python -m benchmarks.circuits                       two-layer induction and three-digit addition, three seeds each
python -m benchmarks.circuits induction --seeds 1   one of them, the model of seed 1

Models are trained by the settings of configs/toys/induction.toml and addition.toml, then a dictionary for each head at
``attn.hook_z``. A unit is one head at one position: all latents of that head there.

induction: the known path is the previous-token heads (mean attention to the token before at least twice that of uniform
attention) at B, the position after an earlier A, then the induction heads (at least half of their attention to such
positions) at the second A. addition: one layer, whose answer at sign i is a function of the digits at places up to i.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

import sae
from benchmarks.lines import Line, emit, note, run
from sae.analysis.circuits.induction import head_scores, successors
from sae.analysis.graphs.edges import GraphConfig, attribution_graph
from sae.analysis.graphs.graph import AttributionGraph, LogitTarget
from sae.analysis.graphs.heads import head_of_latents, joined_over_heads, latents_of_heads
from sae.analysis.graphs.influence import influences, prune
from sae.analysis.graphs.local_model import local_model
from sae.analysis.graphs.subgraphs import (
    Faithfulness,
    NodeMean,
    Subgraph,
    faithfulness,
    latents_of,
    mean_nodes,
    random_subgraphs,
    run_subgraphs,
    share_interval,
    zero_nodes,
)
from sae.dictionaries.relu import Relu
from sae.numerics.seeds import generator
from sae.registry import UserError, unknown
from sae.toys.attention.network import AttentionModelConfig
from sae.toys.attention.saved import AnyTask, Toy, load_toy, train_toy
from sae.toys.attention.training import AttentionTrainingConfig

CONFIGS = Path(__file__).parents[1] / "configs" / "toys"
L1 = 0.1
"""The L1 coefficient of every dictionary."""
LATENTS_PER_DIMENSION = 4


@dataclass(frozen=True, eq=False)
class Circuit:
    """A trained toy, with dictionaries of its heads' outputs."""

    toy: Toy
    rows: Tensor

    @property
    def hooks(self) -> list[str]:
        """The hook points of the heads' outputs."""
        return [f"blocks.{layer}.attn.hook_z" for layer in range(self.toy.model.n_layers)]

    @property
    def n_heads(self) -> int:
        """Heads per layer."""
        return self.toy.model.shape(self.hooks[0])[0]

    def identity(self) -> dict[str, Relu]:
        """The neuron basis of every hook point, which leaves no error."""
        eye = torch.eye(self.toy.model.width(self.hooks[0]))
        return {hook: Relu.tied(torch.cat([eye, -eye])) for hook in self.hooks}

    def trained(self, steps: int) -> dict[str, Relu]:
        """One dictionary for each head, joined by layer."""
        found = dict[str, Relu]()
        kept = torch.ones_like(self.rows, dtype=torch.bool)
        for hook in self.hooks:
            acts = self.toy.model.activations(self.rows, kept, hook)[:, 1:].flatten(0, 1)
            heads = acts.unflatten(1, (self.n_heads, -1)).unbind(1)
            n = LATENTS_PER_DIMENSION * heads[0].shape[1]
            fits = [sae.fit(x, n_latents=n, l1=L1, steps=steps, batch_size=512, lr=3e-3, progress=False) for x in heads]
            found[hook] = joined_over_heads([d for [d] in fits])  # pyright: ignore[reportArgumentType]
        return found

    @cached_property
    def answers(self) -> Tensor:
        """The answer at each position of the rows."""
        return self.toy.task.answers(self.rows)


def circuits(
    *toys: str,
    seeds: Sequence[int] = (0, 1, 2),
    prompts: int = 16,
    draws: int = 20,
    threads: int = 1,
    steps: int = 2000,
    cache: Path = Path("runs/circuits"),
) -> list[Line]:
    """Print, for each toy, seed and dictionary, the shares of the effect that the known path and the graph explain.

    Parameters
    ----------
    toys
        induction, addition; without any, both.
    seeds
        Seeds of the models, one each.
    prompts
        Prompts of each model.
    draws
        Random subgraphs of each prompt.
    threads
        Threads of the process.
    steps
        Steps of training of every dictionary.
    cache
        Folder of the trained toys.
    """
    known = {"induction": _induction, "addition": _addition}
    for name in toys:
        if name not in known:
            raise UserError(unknown(name, known, "toy"))
    torch.set_num_threads(threads)
    lines: list[Line] = []
    for name in toys or known:
        for seed in seeds:
            note(f"{name}, seed {seed}")
            circuit = _circuit(name, seed, cache)
            for facts, measured in known[name](circuit, prompts, draws, steps):
                lines.append(emit("circuits", {"toy": name, "seed": seed, **facts, **_shares(faithfulness(measured))}))
    return lines


def _circuit(name: str, seed: int, cache: Path) -> Circuit:
    source: dict[str, Any] = tomllib.loads((CONFIGS / f"{name}.toml").read_text(encoding="utf-8"))["source"]
    toy = toy_of_config(cache / f"{name}-{seed}", source, seed)
    note(f"accuracy {toy.scores['accuracy']:.4f}")
    return Circuit(toy, toy.task.batch(seed, "test", 0, min(500, toy.task.limit("test") or 500)))


def toy_of_config(folder: Path, source: Mapping[str, Any], seed: int) -> Toy:
    """The toy with the settings of a config's source, trained in the folder unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    task = TypeAdapter[Any](AnyTask).validate_python(source["task"])
    model, training = AttentionModelConfig(**source["model"]), AttentionTrainingConfig(**source["training"])
    train_toy(folder, task, model, training, seed, lambda done, of, unit: None, "cpu")
    return load_toy(folder)


def _shares(f: Faithfulness) -> dict[str, Any]:
    names = ("kept", "random", "kept_and_errors", "random_and_errors", "errors", "latents")
    return {name: [round(x, 4) for x in getattr(f, name)] for name in names} | {"prompts": f.n_prompts}


Results = Iterator[tuple[dict[str, Any], list[Subgraph]]]


def _induction(circuit: Circuit, prompts: int, draws: int, steps: int) -> Results:
    scores = head_scores(circuit.toy.model, circuit.rows)
    n_tokens, (first, second) = circuit.rows.shape[1], circuit.hooks
    uniform = sum(1 / (n + 1) for n in range(1, n_tokens)) / (n_tokens - 1)
    previous = (scores.previous[0] >= 2 * uniform).nonzero()[:, 0].tolist()
    best, induction = [int(scores.previous[0].argmax())], (scores.induction[1] >= 0.5).nonzero()[:, 0].tolist()
    about = {"previous_token_heads": previous, "induction_heads": induction}
    about |= {"attention_to_previous": _rounded(scores.previous[0]), "to_successor": _rounded(scores.induction[1])}
    paths = {"known path": previous, "strongest previous-token head": best, "induction heads alone": []}
    asked = [_induction_prompt(circuit, i) for i in range(prompts)]
    for kind, places in (("identity", circuit.identity()), ("trained", circuit.trained(steps))):
        of = {hook: head_of_latents(d, circuit.n_heads) for hook, d in places.items()}
        means = mean_nodes(circuit.toy.model, places, circuit.rows, by_position=True)
        found: dict[str, list[Subgraph]] = {}
        first_layer: list[tuple[float, float]] = []
        for i, (tokens, target) in enumerate(asked):
            t, local = target.position, local_model(circuit.toy.model, places, tokens, False, False)
            at = successors(tokens[0].tolist(), t)
            every = {first: _units(circuit.n_heads, range(t + 1)), second: _units(circuit.n_heads, [t])}
            for name, heads in paths.items():
                path = {first: [(h, p) for p in at for h in heads], second: [(h, t) for h in induction]}
                random = [latents_of_heads(one, of, t + 1) for one in _random_units(path, every, draws, i)]
                for ablation, baseline in (("zero", zero_nodes(places)), ("mean", means)):
                    kept = latents_of_heads(path, of, t + 1)
                    found.setdefault(f"{name}, {ablation}", []).append(
                        run_subgraphs(local, target, kept, random, baseline)
                    )
            config = GraphConfig(attention="through", rows_at_once=256)
            graph = attribution_graph(circuit.toy.model, places, tokens, target, config)
            measured, nodes = _pruned(graph, local, zero_nodes(places), draws, i)
            found.setdefault("graph, zero", []).append(measured)
            on_path = [j for j in nodes if graph.nodes[j].position in at and _head(graph, j, of) in previous]
            everywhere = graph.at("latent", first)
            chance = sum(graph.nodes[j].position in at and _head(graph, j, of) in previous for j in everywhere)
            in_first = [j for j in nodes if graph.nodes[j].place == first]
            influence = influences(graph)
            first_layer.append((float(influence[on_path].sum() / influence[in_first].sum()), chance / len(everywhere)))
        share, by_chance = (share_interval([p[k] for p in first_layer], [1.0] * prompts, 0) for k in (0, 1))
        for name, measured in found.items():
            facts = {"nodes": name, "dictionaries": kind}
            if name.startswith("graph"):
                facts |= {"first_layer_on_path": _rounded(share), "of_all_latents": _rounded(by_chance)}
            yield facts | (about if name == "known path, zero" else {}), measured


def _induction_prompt(circuit: Circuit, i: int) -> tuple[Tensor, LogitTarget]:
    """A row up to one of the first positions of its second repetition."""
    known = (circuit.answers[i] >= 0).nonzero()[:, 0]
    t = int(known[i % min(5, len(known))])
    return circuit.rows[i : i + 1, : t + 1], LogitTarget(t, int(circuit.answers[i, t]), "mean")


def _addition(circuit: Circuit, prompts: int, draws: int, steps: int) -> Results:
    n = (circuit.rows.shape[1] - 1) // 3
    for kind, places in (("identity", circuit.identity()), ("trained", circuit.trained(steps))):
        found: dict[str, list[Subgraph]] = {}
        own: list[float] = []
        remainders: list[float] = []
        for i in range(prompts):
            place = i % n
            t = 2 * n + place
            tokens, target = circuit.rows[i : i + 1, : t + 1], LogitTarget(t, int(circuit.answers[i, t]), "mean")
            local = local_model(circuit.toy.model, places, tokens, False, False)
            graph = attribution_graph(circuit.toy.model, places, tokens, target, GraphConfig(rows_at_once=256))
            measured, _ = _pruned(graph, local, zero_nodes(places), draws, i)
            found.setdefault("graph, zero", []).append(measured)
            influence, inputs = influences(graph), graph.at("input")
            digits = [j for j in inputs if graph.nodes[j].position < 2 * n]
            lower = [j for j in digits if graph.nodes[j].position % n <= place]
            own.append(float(influence[lower].sum() / influence[digits].sum()))
            remainders.append(float(graph.remainder.abs().max()))
        chance = [(i % n + 1) / n for i in range(prompts)]
        ones = [1.0] * prompts
        facts = {"digits_up_to_the_place": _rounded(share_interval(own, ones, 0)),
                 "of_all_digits": round(sum(chance) / prompts, 4), "largest_remainder": max(remainders)}  # fmt: skip
        for name, values in found.items():
            yield {"nodes": name, "dictionaries": kind, **facts}, values


def _pruned(
    graph: AttributionGraph, local: Any, baseline: Mapping[str, NodeMean], draws: int, seed: int
) -> tuple[Subgraph, list[int]]:
    """What the latents of a pruned graph explain next to random ones that reach the target, and those latents."""
    pruned = prune(graph)
    kept = [j for j in pruned.kept.nonzero()[:, 0].tolist() if graph.nodes[j].kind == "latent"]
    reaching = [j for j in range(len(graph.nodes)) if float(pruned.score[j]) > 0]
    random = [latents_of(graph, chosen, local) for chosen in random_subgraphs(graph, kept, reaching, draws, seed)]
    return run_subgraphs(local, graph.target, latents_of(graph, kept, local), random, baseline), kept


def _head(graph: AttributionGraph, node: int, of: Mapping[str, Tensor]) -> int:
    """The head of a latent of the first layer; -1 for one of another."""
    place, latent = graph.nodes[node].place, graph.nodes[node].latent
    return int(of[place][latent]) if place == next(iter(of)) else -1


def _units(n_heads: int, positions: Sequence[int]) -> list[tuple[int, int]]:
    return [(h, p) for p in positions for h in range(n_heads)]


def _random_units(
    path: Mapping[str, Sequence[tuple[int, int]]], every: Mapping[str, Sequence[tuple[int, int]]], draws: int, seed: int
) -> list[dict[str, list[tuple[int, int]]]]:
    """As many heads and positions in every layer, of those that reach the target."""
    draw = generator("random units", seed)
    return [
        {hook: [every[hook][k] for k in torch.randperm(len(every[hook]), generator=draw)[: len(units)].tolist()]
         for hook, units in path.items()}
        for _ in range(draws)
    ]  # fmt: skip


def _rounded(values: Any) -> list[float]:
    return [round(float(x), 4) for x in values]


if __name__ == "__main__":
    run(circuits)
