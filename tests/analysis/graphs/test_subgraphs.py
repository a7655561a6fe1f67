"""Influence, pruning and faithfulness: against matrices by hand and against splices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import sae
from sae.analysis.circuits.induction import after_earlier, head_scores, successors
from sae.analysis.graphs.contexts import top_rows
from sae.analysis.graphs.edges import attribution_graph
from sae.analysis.graphs.graph import AttributionGraph, GraphNode, LogitTarget
from sae.analysis.graphs.influence import flows, influences, prune, total_effects
from sae.analysis.graphs.local_model import local_model
from sae.analysis.graphs.subgraphs import (
    faithfulness,
    latents_of,
    mean_nodes,
    random_subgraphs,
    run_subgraphs,
    share_interval,
    values_with,
    zero_nodes,
)
from sae.analysis.intervention.edits import only
from sae.model.hooked import Model
from sae.model.token_rows import TokenRows
from sae.registry import UserError
from sae.toys.attention.network import bridged
from tests.analysis.graphs.test_edges import MLPS, Z, in_float64, prompt, random_dictionary, toy

TARGET = LogitTarget(-1, 7, "mean")


@pytest.fixture(scope="module")
def gpt2(tiny_models: Mapping[str, Path]) -> Model:
    return in_float64(Model.boot(str(tiny_models["gpt2"])))


def by_hand() -> AttributionGraph:
    """An input, two latents, one after the other, an error, and the target."""
    kinds = ("input", "latent", "error", "latent", "target")
    nodes = tuple(
        GraphNode(kind, "" if kind in ("input", "target") else "p", 0, i, 1.0) for i, kind in enumerate(kinds)
    )
    weights = torch.tensor([[3.0, 0, 0, 0, 0], [1, -1, 2, 0, 0], [0, 4, 1, 5, 0]], dtype=torch.float64)
    bias = torch.tensor([1.0, 0, -2], dtype=torch.float64)
    return AttributionGraph((0,), ("p",), LogitTarget(0, 0), nodes, torch.tensor([1, 3, 4]), weights, bias,
                            weights.sum(1) + bias)  # fmt: skip


def test_influence_is_the_sum_over_all_paths() -> None:
    graph = by_hand()
    A = torch.zeros(5, 5, dtype=torch.float64)
    A[graph.readers] = graph.weights.abs() / graph.weights.abs().sum(1, keepdim=True)
    paths = torch.linalg.inv(torch.eye(5) - A)[-1]
    assert torch.allclose(influences(graph), paths)
    assert float(influences(graph)[[0, 2]].sum()) == pytest.approx(1)
    assert torch.allclose(flows(graph).sum(1), influences(graph)[graph.readers])


def test_total_effects_follow_the_signs() -> None:
    graph = by_hand()  # values 4, 2 and 8; 5 of the target come from node 3, of which node 1 takes half away
    effect = total_effects(graph)
    assert effect.tolist() == pytest.approx([1.5 / 4 * 3 + 2.5, 4 - 2.5, 1 + 5, 5, 8])
    assert torch.allclose(flows(graph, "effect").sum(1), effect[graph.readers] * (1 - graph.bias / graph.value))


def test_pruning_keeps_the_largest_and_what_leads_to_the_target() -> None:
    graph = by_hand()
    assert prune(graph, 1.0, 1.0).kept.all() and prune(graph, 1.0, 1.0).edge_share == pytest.approx(1)
    small = prune(graph, 0.5, 1.0)
    # influences .75 (node 0), .525 (node 1), .35 (node 2), .5 (node 3)
    assert influences(graph).tolist() == pytest.approx([0.65, 0.525, 0.35, 0.5, 1])
    assert small.kept.tolist() == [True, True, False, False, True]
    assert small.kept_edges.nonzero().tolist() == [[0, 0], [2, 1]]
    assert small.node_share == pytest.approx((0.65 + 0.525) / 2.025)
    assert prune(graph, 1.0, 1.0).share_of("error") == pytest.approx(0.35)
    # The input leads on only through latents that are not kept: it goes with them.
    assert prune(graph, 0.3, 1.0).kept.tolist() == [False, False, False, False, True]
    with pytest.raises(UserError, match="edges = 0"):
        prune(graph, 1.0, 0.0)


def test_a_subgraph_is_a_splice_that_keeps_its_latents(gpt2: Model) -> None:
    places, x = {Z: random_dictionary(2), MLPS[1]: random_dictionary(1)}, prompt(gpt2)
    local = local_model(gpt2, places, x, False, False)
    masks = {name: torch.zeros_like(p.z, dtype=torch.bool) for name, p in local.places.items()}
    everything = {name: ~mask for name, mask in masks.items()}
    some = {name: mask.clone() for name, mask in masks.items()}
    for mask in some.values():
        mask[:, ::3] = True
    found = values_with(local, TARGET, [masks, some, everything], [False, False, True], zero_nodes(places))
    w = TARGET.weights(gpt2.d_vocab)
    whole = float(local.logits[-1] @ w)
    assert float(found[2]) == pytest.approx(whole)
    for value, latents in ((found[0], []), (found[1], range(0, 20, 3))):
        edits = {name: only(list(latents)) for name in places}
        with torch.no_grad(), sae.splice(gpt2, places, edits=edits, error=False) as spliced:
            spliced_value = float(spliced.bridge(x, return_type="logits")[0, -1].double() @ w)
        assert float(value) == pytest.approx(spliced_value, abs=1e-5)


def test_shares_of_nothing_and_of_everything(gpt2: Model) -> None:
    places, x = {Z: random_dictionary(2), MLPS[1]: random_dictionary(1)}, prompt(gpt2)
    graph = attribution_graph(gpt2, places, x, TARGET)
    local = local_model(gpt2, places, x, False, False)
    latents = [i for i, node in enumerate(graph.nodes) if node.kind == "latent"]
    drawn = random_subgraphs(graph, latents[:5] + latents[-7:], latents, 4, 0)
    for chosen in drawn:
        at = [graph.nodes[i].place for i in chosen]
        assert at.count(Z) == 5 and at.count(MLPS[1]) == 7 and len(set(chosen)) == 12
    means = mean_nodes(gpt2, places, torch.cat([x, x.flip(1)]))
    random = [latents_of(graph, chosen, local) for chosen in drawn]
    nothing = {name: torch.zeros_like(mask) for name, mask in random[0].items()}
    one = run_subgraphs(local, TARGET, nothing, random, means, runs_at_once=3)
    f = faithfulness([one, one])
    # The same set in another run of a batch: equal but for the rounding of float64 on some processors.
    assert tuple(f.kept) == pytest.approx((0, 0, 0), abs=1e-13)
    assert tuple(f.kept_and_errors) == pytest.approx(tuple(f.errors), rel=1e-13)
    assert len(one.random) == len(one.random_and_errors) == 4
    all_of = run_subgraphs(local, TARGET, {name: ~mask for name, mask in nothing.items()}, random, means)
    assert faithfulness([all_of]).kept_and_errors.value == pytest.approx(1)
    with pytest.raises(UserError, match="prompts: there is none"):
        faithfulness([])


def test_means_are_over_the_positions_that_are_read(gpt2: Model) -> None:
    d, rows = random_dictionary(1), torch.cat([prompt(gpt2), prompt(gpt2).flip(1)])
    x = gpt2.activations(rows, torch.ones_like(rows).bool(), Z)
    mean = mean_nodes(gpt2, {Z: d}, rows)[Z]
    assert torch.allclose(mean.codes, d.encode(x).mean((0, 1))) and torch.allclose(mean.error, (x - d(x)).mean((0, 1)))
    by_position = mean_nodes(gpt2, {Z: d}, rows, by_position=True, rows_at_once=1)[Z]
    assert torch.allclose(by_position.codes, d.encode(x).mean(0))
    after_first = random_dictionary(1).with_card(source={"kind": "transformer", "drop_position_0": True})
    assert torch.allclose(mean_nodes(gpt2, {Z: after_first}, rows)[Z].codes, d.encode(x[:, 1:]).mean((0, 1)))


def test_a_share_is_that_of_the_sums() -> None:
    share = share_interval([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], 0)
    assert share == pytest.approx((0.5, 0.5, 0.5))
    share = share_interval([0.0, 4.0], [4.0, 4.0], 0)
    assert share.value == 0.5 and (share.low, share.high) == (0, 1)


def test_the_top_rows_of_a_latent(gpt2: Model) -> None:
    d, rows = random_dictionary(1), torch.stack([prompt(gpt2)[0].roll(k) for k in range(5)])
    text = TokenRows(rows, torch.ones_like(rows).bool(), torch.ones_like(rows).bool())
    top = top_rows(gpt2, {Z: d}, {Z: [3, 8]}, text, n_top=2, rows_at_once=2)[Z]
    codes = d.encode(gpt2.activations(rows, text.attended, Z))
    for i, j in enumerate((3, 8)):
        best = codes[..., j].amax(1).topk(2)
        assert torch.allclose(top.codes[i].amax(-1).double(), best.values, atol=1e-6)
        assert torch.equal(top.tokens[i], rows[best.indices])


def test_the_scores_of_heads_that_attend_uniformly() -> None:
    network, _, _ = toy()
    for name in ("W_Q", "b_Q"):
        getattr(network, name).data.zero_()
    rows = torch.tensor([[8, 1, 2, 3, 1, 2, 3, 1, 2]])
    scores = head_scores(bridged(network, "uniform", "cpu"), rows)
    uniform = sum(1 / (n + 1) for n in range(1, 9)) / 8
    assert torch.allclose(scores.previous, torch.full((2, 2), uniform))
    expected = sum(n / (t + 1) for t, n in ((4, 1), (5, 1), (6, 1), (7, 2), (8, 2))) / 5
    assert torch.allclose(scores.induction, torch.full((2, 2), expected))
    assert successors(rows[0].tolist(), 7) == [2, 5]
    for row, after in zip(rows.tolist(), after_earlier(rows), strict=True):
        assert all(after[i].nonzero()[:, 0].tolist() == successors(row, i) for i in range(len(row)))
