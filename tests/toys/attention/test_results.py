"""Published results of the attention toys, reproduced from training on. About five minutes on one core."""

from __future__ import annotations

import pytest
import torch

from sae.analysis.circuits.heads import (
    ablations,
    by_circuit,
    circularity,
    contributions,
    effective_heads,
    point_correlation,
    projections,
)
from sae.sources.attention import AnswerPositions
from sae.toys.attention.addition import Addition
from sae.toys.attention.network import AttentionModelConfig
from sae.toys.attention.predictors import predictor_losses
from sae.toys.attention.repeats import Repeats
from sae.toys.attention.saved import Toy, held_out, load_toy, train_toy
from sae.toys.attention.skip_trigram import SkipTrigram
from sae.toys.attention.task import TokenTask
from sae.toys.attention.training import AttentionTrainingConfig, Training, evaluate

pytestmark = pytest.mark.slow


def trained(
    task: TokenTask, model: AttentionModelConfig, training: AttentionTrainingConfig, seed: int = 0
) -> dict[str, float]:
    work = Training(task, model, training, seed, "cpu")
    for _ in work.run():
        pass
    return evaluate(work.network, task, held_out(task, seed))


@pytest.fixture(scope="module")
def addition(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("addition")
    task = Addition(n_digits=3, n_train=10_000, n_test=2_000)
    model, training = (
        AttentionModelConfig(n_heads=32, d_head=2, d_model=128),
        AttentionTrainingConfig(steps=4_688, lr=3e-3),
    )
    train_toy(directory, task, model, training, 0, lambda done, total, unit: None, "cpu")
    return load_toy(directory)


def test_three_digits_are_added_within_120_epochs(addition: Toy):
    assert addition.scores["accuracy"] > 0.95 and addition.scores["least"] > 0.90


def test_heads_treat_the_two_numbers_alike(addition: Toy):
    keys, place = projections(addition.model).positions["k"], torch.arange(3)
    assert float(point_correlation(keys, place, place + 3).min()) > 0.9
    assert float(point_correlation(keys, place, (place + 1) % 3 + 3).max()) < 0.9


def test_digits_lie_on_circles_and_pairs_of_digits_are_shared_by_heads(addition: Toy):
    rows = AnswerPositions(addition.task, "answers")(held_out(addition.task, 0)[:1000])
    written = projections(addition.model).answers
    assert max(circularity(points) for points in written) > (0.9, 0)
    labels, at = addition.task.labels(rows.tokens), rows.counted
    pair, place = (10 * labels["a"] + labels["b"])[at], at.nonzero()[:, 1] - 6
    added = contributions(addition.model, rows)
    for i in range(3):
        effective = effective_heads(by_circuit(added[place == i], pair[place == i]))
        assert len(effective) == 100 and float(effective.min()) > 2 and float(effective.max()) < 32
    assert bool((ablations(addition.model, rows).accuracy_drop.max(0).values > 0.1).all())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_heads_solve_three_skip_trigrams_and_one_does_not(seed: int):
    task, training = SkipTrigram(k=3), AttentionTrainingConfig(steps=4_000, lr=1e-2)
    one, two = (
        trained(task, AttentionModelConfig(n_heads=n, d_head=1, embedding="one_hot"), training, seed) for n in (1, 2)
    )
    assert two["loss"] - two["floor"] < 0.01 < 0.2 < one["loss"] - one["floor"]


def test_two_layers_do_induction_and_one_does_not():
    task, training = Repeats(), AttentionTrainingConfig(steps=1_500, batch_size=128, lr=3e-3)
    one, two = (
        trained(task, AttentionModelConfig(n_layers=n, n_heads=4, d_head=16, d_model=64), training) for n in (1, 2)
    )
    by_hand = predictor_losses(task, 0, held_out(task, 0))
    assert two["loss"] < by_hand["induction_3"] < by_hand["induction_2"] < 1 < one["loss"]
    assert two["accuracy"] > 0.98 and one["accuracy"] < 0.5
