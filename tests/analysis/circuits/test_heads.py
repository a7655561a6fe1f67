"""Heads: ablations computed by hand, contributions that add up to the logits, measures of shape at their extremes."""

from __future__ import annotations

import pytest
import torch

from sae.analysis.circuits.heads import (
    ablations,
    by_circuit,
    circularity,
    contributions,
    effective_heads,
    logits_with,
    point_correlation,
    projections,
)
from sae.model.token_rows import TokenRows
from sae.numerics.seeds import generator
from sae.toys.attention.addition import Addition
from sae.toys.attention.network import AttentionModelConfig, Network, bridged
from sae.toys.attention.repeats import Repeats
from sae.toys.attention.task import TokenTask

ONE = Addition(n_digits=2, n_train=300, n_test=100), AttentionModelConfig(n_heads=5, d_head=2, d_model=12)
TWO = Repeats(), AttentionModelConfig(n_layers=2, n_heads=3, d_head=4, d_model=12)


def build(case: tuple[TokenTask, AttentionModelConfig]) -> tuple[Network, TokenRows]:
    task, config = case
    network = Network(config, task, generator("test", 0))
    for name in ("b_V", "b_O", "b_U"):
        getattr(network, name).data.normal_(generator=generator("bias", name))
    tokens = task.batch(0, "test", 0, 20)
    answers = task.answers(tokens)
    return network, TokenRows(tokens, torch.ones_like(tokens, dtype=torch.bool), answers >= 0, answers)


def without(network: Network, head: int, layer: int) -> Network:
    """The network with a head that writes nothing."""
    network.W_O.data[layer, head] = 0
    return network


@pytest.mark.parametrize(("case", "layer"), [(ONE, 0), (TWO, 0), (TWO, 1)])
def test_an_ablated_head_is_one_that_writes_nothing_anywhere(case: tuple[TokenTask, AttentionModelConfig], layer: int):
    network, rows = build(case)
    model = bridged(network, "toy", "cpu")
    kept = torch.ones(network.W_Q.shape[1], dtype=torch.bool)
    kept[1] = False
    found = logits_with(model, rows, kept, layer)
    torch.testing.assert_close(found, without(network, 1, layer)(rows.tokens).detach(), rtol=1e-4, atol=1e-5)


def test_ablations_are_told_by_head_and_position():
    network, rows = build(ONE)
    assert rows.answers is not None
    found = ablations(bridged(network, "toy", "cpu"), rows)
    assert found.position.tolist() == [4, 5, 6] and found.loss_rise.shape == (5, 3)
    logits = without(network, 3, 0)(rows.tokens).detach()[:, 5]
    loss = torch.nn.functional.cross_entropy(logits, rows.answers[:, 5])
    assert float(found.loss[1] + found.loss_rise[3, 1]) == pytest.approx(float(loss), rel=1e-4)
    right = (logits.argmax(-1) == rows.answers[:, 5]).float().mean()
    assert float(found.accuracy[1] - found.accuracy_drop[3, 1]) == pytest.approx(float(right))


def test_positions_where_few_rows_have_answers_count_those_alone():
    network, rows = build(TWO)
    model = bridged(network, "toy", "cpu")
    found = ablations(model, rows, 1)
    counted = rows.counted
    assert found.position.tolist() == counted.any(0).nonzero()[:, 0].tolist()
    assert not bool(counted.all(0)[found.position[0]])
    weighted = (found.loss * counted[:, found.position].sum(0)).sum() / counted.sum()
    torch.testing.assert_close(weighted, model.losses(rows)[0].mean())


def test_heads_alone_add_up_to_the_logits_of_a_single_layer():
    network, rows = build(ONE)
    model = bridged(network, "toy", "cpu")
    every = torch.eye(5, dtype=torch.bool)
    nothing = logits_with(model, rows, torch.zeros(5, dtype=torch.bool))
    added = sum(logits_with(model, rows, one) - nothing for one in every)
    torch.testing.assert_close(nothing + added, model.logits(rows), rtol=1e-4, atol=1e-5)
    found = contributions(model, rows)
    assert rows.answers is not None
    right = (model.logits(rows) - nothing)[rows.counted]
    centred = right - right.mean(1, keepdim=True)
    expected = centred.gather(1, rows.answers[rows.counted][:, None])[:, 0]
    torch.testing.assert_close(found.sum(1), expected, rtol=1e-4, atol=1e-5)


def test_circuits_are_means_in_their_order():
    found = by_circuit(torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]]), torch.tensor([7, 7, 2]))
    assert found.tolist() == [[5.0, 5.0], [2.0, 1.0]]


def test_effective_heads_count_those_that_share():
    shared = torch.tensor([[1.0, 1.0, -1.0, 1.0], [0.0, 0.0, 3.0, 0.0], [2.0, 1.0, 0.0, 0.0]])
    assert effective_heads(shared).tolist() == pytest.approx([4, 1, 9 / 5])
    assert bool(effective_heads(torch.zeros(1, 4)).isnan().all())


def test_projections_are_those_of_the_weights():
    network, _ = build(TWO)
    seen = projections(bridged(network, "toy", "cpu"), 1)
    torch.testing.assert_close(seen.tokens["k"][2], (network.W_E @ network.W_K[1, 2]).detach())
    torch.testing.assert_close(seen.positions["q"][0], (network.W_pos @ network.W_Q[1, 0]).detach())
    torch.testing.assert_close(seen.answers[1], (network.W_O[1, 1] @ network.W_U).T.detach())


def test_alignment_is_one_up_to_scale_and_shift_and_minus_one_for_mirror_images():
    points = torch.randn(1, 4, 2, generator=generator("points"))
    pairs = torch.cat([points, 3 * points + 1, -points], dim=1)
    first = torch.arange(4)
    assert float(point_correlation(pairs, first, first + 4)) == pytest.approx(1)
    assert float(point_correlation(pairs, first, first + 8)) == pytest.approx(-1)
    assert abs(float(point_correlation(pairs, first, (first + 1) % 4 + 4))) < 0.99


def test_digits_on_a_circle_are_told_from_those_on_a_line():
    k = torch.arange(10)

    def polygon(step: int) -> torch.Tensor:
        angle = 2 * torch.pi * step * k / 10
        return torch.stack([angle.cos(), angle.sin()], 1) * 3 + 5

    assert circularity(polygon(1)) == pytest.approx((1, 1)) and circularity(polygon(3)) == pytest.approx((1, 3))
    assert circularity(polygon(9)) == pytest.approx((1, 1))
    line = torch.stack([k * 1.0, k * 2.0], 1)
    assert circularity(line)[0] <= 0.5
    random = [circularity(torch.randn(10, 2, generator=generator("random", i)))[0] for i in range(100)]
    assert 0.25 < sum(random) / 100 < 0.4
