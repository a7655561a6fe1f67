"""Neuron, latent and probe for one feature: each is best in its case, and all are at chance with permuted labels."""

from __future__ import annotations

import pytest
import torch

from sae.analysis.units.one_feature import Halves, readers
from sae.numerics.seeds import generator
from sae.registry import UserError


def halves(d: int = 12) -> tuple[Halves, Halves, Halves]:
    """A feature spread evenly over all neurons and detected by one latent; another latent is noise."""
    draw = generator("halves")
    y = torch.rand(3000, generator=draw) < 0.2
    x = torch.randn(3000, d, generator=draw) + 0.6 * y[:, None]
    z = torch.stack([torch.randn(3000, generator=draw), x.mean(1) * d**0.5], dim=1).relu()
    return tuple(Halves(t[:1500], t[1500:]) for t in (x, z, y))  # pyright: ignore[reportReturnType]


def test_a_feature_spread_over_neurons_is_read_by_probes_and_by_its_latent():
    x, z, y = halves()
    neuron, latent, mean, logistic = readers(x, z, y)
    assert [r.name for r in (neuron, latent, mean, logistic)] == ["neuron", "latent", "diff_means", "logistic"]
    assert latent.unit == 1 and neuron.unit is not None and mean.unit is None
    assert neuron.scores.auc.high < latent.scores.auc.low
    assert latent.scores.auc.value == pytest.approx(mean.scores.auc.value, abs=0.01)
    assert logistic.scores.auc.value == pytest.approx(mean.scores.auc.value, abs=0.01)
    assert all(r.scores.f1.low < r.scores.f1.value < r.scores.f1.high for r in (neuron, latent, mean, logistic))


def test_by_permuted_labels_all_are_at_chance():
    x, z, y = halves()
    for reader in readers(x, z, y, shuffles=10):
        if reader.name == "latent":
            continue  # of two latents the right one may be drawn
        assert reader.shuffled.auc.low < 0.5 < reader.shuffled.auc.high, reader
        # Any neuron has its part of this feature: the best one is no better than one drawn at random may be.
        assert reader.name == "neuron" or reader.shuffled.auc.high < reader.scores.auc.low


def test_a_neuron_that_is_silent_for_the_feature_reads_it_and_a_latent_may_not():
    y = halves()[2]
    signal = Halves(*(torch.where(half[:, None], -1.0, 1.0) for half in y))
    neuron, latent, *_ = readers(signal, signal, y)
    assert neuron.scores.auc.value == 1 and neuron.scores.f1.value == 1
    assert latent.scores.auc.value == 0


def test_without_a_dictionary_there_is_no_latent_and_without_a_class_no_answer():
    x, _, y = halves()
    assert [r.name for r in readers(x, None, y, shuffles=1)] == ["neuron", "diff_means", "logistic"]
    with pytest.raises(UserError, match="same value in all test samples"):
        readers(x, None, Halves(y.choose, torch.zeros_like(y.test)))
