"""Faithfulness of a part of a graph: how much of the target's value the model keeps with those nodes alone.

The model is run with every other latent at every position set to a baseline (its mean, or zero). What is kept is
computed anew from what the forward pass brings, so nothing is frozen here. The errors of all dictionaries are kept, or
set to the baseline too; inputs, and positions that a dictionary does not read, stay. With m the target's value,

    share explained = (m(kept) - m(none)) / (m(model) - m(none)),

as in Marks et al. 2024, where `none` has every latent and every error at the baseline. Over prompts it is the ratio of
the sums, with a bootstrap interval over prompts: a prompt whose denominator is near zero would rule a mean of ratios. A
random subgraph has, at every place, as many of the graph's latents as the kept one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.graphs.graph import AttributionGraph, Target, check_places
from sae.analysis.graphs.influence import PrunedGraph
from sae.analysis.graphs.local_model import (
    ForwardHooks,
    LocalModel,
    has_skip,
    keeps,
    read_positions,
    run_bridge,
    skip_part,
)
from sae.analysis.intervention.splicing import Places, ends
from sae.model.hooked import Model
from sae.numerics.seeds import generator
from sae.numerics.statistics import LEVEL, Interval
from sae.registry import UserError

KeptLatents = Mapping[str, Bool[Tensor, "n_tokens n_latents"]]
"""The latents that are kept, by place."""


@dataclass(frozen=True, eq=False)
class NodeMean:
    """What takes the place of an ablated node of one dictionary."""

    codes: Float[Tensor, "*n_tokens n_latents"]
    """The code of every latent; for each position, or for all."""
    error: Float[Tensor, "*n_tokens d_out"]
    """The error."""


def zero_nodes(places: Places) -> dict[str, NodeMean]:
    """Zeros, for zero ablation."""
    return {name: NodeMean(d.W_dec.new_zeros(d.n_latents), d.W_dec.new_zeros(d.d_out)) for name, d in places.items()}


@torch.no_grad()
def mean_nodes(
    model: Model | Any,
    places: Places,
    tokens: Int[Tensor, "rows n_tokens"],
    by_position: bool = False,
    rows_at_once: int = 32,
) -> dict[str, NodeMean]:
    """The mean codes and the mean error of every dictionary over the positions that it reads in rows without padding;
    `by_position`: for each position apart, for rows in which a position has a meaning."""
    check_places(list(places))
    wrapped, sums = Model.of(model), dict[str, list[Tensor]]()
    hooks = list(dict.fromkeys(hook for name in places for hook in ends(name)))
    for part in tokens.to(wrapped.device).split(rows_at_once):
        seen = dict[str, Tensor]()

        run_bridge(wrapped, part, [(hook, keeps(seen, hook)) for hook in hooks])
        for name, read in read_positions(wrapped, places, part).items():
            x, y = (seen[hook] for hook in ends(name))
            d, mask = places[name].to(device=x.device, dtype=x.dtype), read[..., None].to(x)
            z = d.encode(x)
            found = [(z * mask), (y - d.reconstruct(x, z)) * mask, mask]
            axes = (0,) if by_position else (0, 1)
            added = [value.double().sum(axes) for value in found]
            sums[name] = [a + b for a, b in zip(sums[name], added, strict=True)] if name in sums else added
    return {name: NodeMean(z / n.clamp_min(1), e / n.clamp_min(1)) for name, (z, e, n) in sums.items()}


def kept_latents(pruned: PrunedGraph, local: LocalModel) -> dict[str, Tensor]:
    """The latents of a pruned graph, by place."""
    return latents_of(pruned.graph, pruned.kept.nonzero()[:, 0].tolist(), local)


def latents_of(graph: AttributionGraph, nodes: Sequence[int], local: LocalModel) -> dict[str, Tensor]:
    """The latents among some nodes of a graph, by place."""
    masks = {name: torch.zeros_like(place.z, dtype=torch.bool) for name, place in local.places.items()}
    for i in nodes:
        node = graph.nodes[i]
        if node.kind == "latent":
            masks[node.place][node.position, node.latent] = True
    return masks


def random_subgraphs(
    graph: AttributionGraph, like: Sequence[int], candidates: Sequence[int], draws: int, seed: int
) -> list[list[int]]:
    """Random sets of latents with as many at every place as `like` has, from the `candidates`."""
    draw = generator("random subgraphs", seed)
    sets: list[list[int]] = [[] for _ in range(draws)]
    for place in graph.places:
        n = sum(graph.nodes[i].kind == "latent" and graph.nodes[i].place == place for i in like)
        pool = [i for i in candidates if graph.nodes[i].kind == "latent" and graph.nodes[i].place == place]
        for chosen in sets:
            chosen += [pool[k] for k in torch.randperm(len(pool), generator=draw)[:n].tolist()]
    return sets


@torch.no_grad()
def values_with(
    local: LocalModel,
    target: Target,
    kept: Sequence[KeptLatents],
    errors: Sequence[bool],
    baseline: Mapping[str, NodeMean],
) -> Float[Tensor, " runs"]:
    """The target's value with some latents alone, for several sets of them; `errors` says whether errors are kept."""
    n = len(kept)
    reads = dict[str, Tensor]()
    hooks: ForwardHooks = []
    keep_error = torch.tensor(list(errors), device=local.inputs.device)[:, None, None]
    for name, place in local.places.items():
        hook, end = ends(name)
        mask = torch.stack([one[name] for one in kept]).to(local.inputs.device)
        codes, mean_error = (_here(x, local).to(place.z) for x in (baseline[name].codes, baseline[name].error))

        def write(
            acts: Tensor, hook: Any, *, name: str = name, d: Any = place.d, at: Tensor = place.read,
            mask: Tensor = mask, codes: Tensor = codes, mean_error: Tensor = mean_error,
        ) -> Tensor:  # fmt: skip
            x, y = reads[name], acts.flatten(2)
            z = d.encode(x)
            skip = skip_part(d, x) if has_skip(d) else 0
            error = torch.where(keep_error, y - d.decode(z) - skip, mean_error)
            new = d.decode(torch.where(mask, z, codes)) + skip + error
            return torch.where(at[:, None], new, y).to(acts.dtype).view(acts.shape)

        hooks += [(hook, keeps(reads, name)), (end, write)]
    logits = run_bridge(local.model, local.tokens.expand(n, -1), hooks)
    return local.readout(target).of(reads, logits).double().cpu()


def _here(mean: Tensor, local: LocalModel) -> Tensor:
    """A mean at the positions of the prompt, which may be shorter than the rows that it is of."""
    return mean if mean.dim() == 1 else mean[: local.tokens.shape[1]]


@dataclass(frozen=True, eq=False)
class Subgraph:
    """The target's value of one prompt with and without a set of latents."""

    whole: float
    """In the model as it is."""
    none: float
    """With every latent and every error at the baseline."""
    errors: float
    """With the errors alone."""
    kept: float
    """With the latents, without errors."""
    kept_and_errors: float
    """With the latents and all errors."""
    latents: float
    """With all latents, without errors."""
    random: Float[Tensor, " draws"]
    """With random latents, without errors."""
    random_and_errors: Float[Tensor, " draws"]
    """With random latents and all errors."""


def run_subgraphs(
    local: LocalModel,
    target: Target,
    kept: KeptLatents,
    random: Sequence[KeptLatents],
    baseline: Mapping[str, NodeMean],
    runs_at_once: int = 64,
) -> Subgraph:
    """Runs the model with a set of latents, and with random ones."""
    nothing = {name: torch.zeros_like(mask) for name, mask in kept.items()}
    everything = {name: torch.ones_like(mask) for name, mask in kept.items()}
    sets = [nothing, nothing, kept, kept, everything, *random, *random]
    errors = [False, True, False, True, False, *([False] * len(random)), *([True] * len(random))]
    found = torch.cat(
        [
            values_with(local, target, sets[i : i + runs_at_once], errors[i : i + runs_at_once], baseline)
            for i in range(0, len(sets), runs_at_once)
        ]
    )
    reads = {name: place.x[None] for name, place in local.places.items()}
    whole = float(local.readout(target).of(reads, local.logits[None]))
    none, alone, with_kept, with_both, latents = found[:5].tolist()
    return Subgraph(whole, none, alone, with_kept, with_both, latents, *found[5:].chunk(2))


@dataclass(frozen=True)
class Faithfulness:
    """Shares of the effect that sets of latents explain, over prompts, with intervals."""

    kept: Interval
    """The latents, without errors."""
    random: Interval
    """As many random ones: the mean over draws and prompts."""
    kept_and_errors: Interval
    """The latents and all errors."""
    random_and_errors: Interval
    """As many random ones, and all errors."""
    errors: Interval
    """The errors alone."""
    latents: Interval
    """All latents, without errors."""
    n_prompts: int
    """The number of prompts."""


def faithfulness(prompts: Sequence[Subgraph], seed: int = 0) -> Faithfulness:
    """The shares explained over several prompts. Raises `UserError` where there is none."""
    if not prompts:
        raise UserError("prompts: there is none; give one or more")
    whole = [p.whole - p.none for p in prompts]

    def share(name: str) -> Interval:
        values = [getattr(p, name) for p in prompts]
        means = [float(v.mean()) if isinstance(v, Tensor) else v for v in values]
        return share_interval([m - p.none for m, p in zip(means, prompts, strict=True)], whole, seed)

    names = ("kept", "random", "kept_and_errors", "random_and_errors", "errors", "latents")
    return Faithfulness(**{name: share(name) for name in names}, n_prompts=len(prompts))


def share_interval(part: Sequence[float], whole: Sequence[float], seed: int, draws: int = 1000) -> Interval:
    """``sum(part) / sum(whole)`` with the percentile interval of a bootstrap over the entries; of one entry, its
    share."""
    a, b = np.array(part, dtype=np.float64), np.array(whole, dtype=np.float64)
    value = float(a.sum() / b.sum()) if b.sum() else float("nan")
    chosen = np.random.default_rng(seed).integers(len(a), size=(draws, len(a)))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = a[chosen].sum(1) / b[chosen].sum(1)
    if not np.isfinite(shares).all():
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
