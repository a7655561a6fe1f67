"""The known meaning of latents: features matched by direction, labels by firing."""

from __future__ import annotations

import pytest
import torch

from sae.analysis.latents import LatentsConfig, explore_latents
from sae.analysis.latents.agreement import best_labels
from sae.dictionaries.relu import Relu
from sae.metric import Case, gather_evidence
from sae.metrics.firing import Config as Firing
from sae.registry import UserError
from sae.source import TensorSource
from sae.sources.independent import Config as Independent


def silent(done: int, total: int, unit: str) -> None:
    pass


def test_an_oracle_is_matched_feature_by_feature():
    source = Independent(n_features=10, d_in=8, probability=0.1).build()
    assert source.truth is not None
    d = Relu.tied(source.truth.directions.flip(0))
    found = explore_latents(d, source, LatentsConfig(n_tokens=4000), silent)
    assert found.matched is not None and found.properties is None
    assert found.matched.feature.tolist() == list(range(9, -1, -1)) and bool(found.matched.mutual.all())
    torch.testing.assert_close(found.matched.cosine, torch.ones(10))
    plain = Firing().score(Case(d, gather_evidence(source, 4000))).vectors["f1"]
    torch.testing.assert_close(found.matched.f1, plain.flip(0), atol=0.1, rtol=0)  # other rows, half of them


def test_a_latent_without_a_partner_is_told_its_nearest_feature():
    source = Independent(n_features=4, d_in=8, probability=0.1).build()
    assert source.truth is not None
    d = Relu.tied(torch.cat([source.truth.directions, source.truth.directions[2:3] * 0.5 + 0.01]))
    found = explore_latents(d, source, LatentsConfig(n_tokens=2000), silent)
    assert found.matched is not None
    assert found.matched.feature.tolist() == [0, 1, 2, 3, 2]
    assert found.matched.mutual.tolist() == [True] * 4 + [False]


def test_an_examples_features_are_those_of_its_row():
    source = Independent(n_features=10, d_in=8, probability=0.3).build()
    assert source.truth is not None
    found = explore_latents(Relu.tied(source.truth.directions), source, LatentsConfig(n_tokens=2000), silent)
    w, e = found.windows, found.examples
    assert w.feature is not None and w.coefficient is not None
    codes = torch.cat([source.batch(0, 8192, h).codes[:1000] for h in ("choose", "test")])  # pyright: ignore
    assert torch.equal(w.coefficient, codes[e.row].topk(6, dim=1).values)
    assert torch.equal(codes[e.row].gather(1, w.feature), w.coefficient)


@pytest.fixture
def labelled() -> TensorSource:
    """Coordinates 0 and 1 determine labels, the second one a class; coordinate 2 is unrelated."""
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(4000, 4, generator=g) < 0.3).float() * torch.rand(4000, 4, generator=g)
    labels = {"<first>": (x[:, 0] > 0).long(), "second": 3 + 2 * (x[:, 1] > 0).long(), "rare": torch.zeros(4000).long()}
    return TensorSource(x, labels, heldout=0.5)


def test_the_best_label_of_each_latent(labelled: TensorSource):
    best = best_labels(Relu.tied(torch.eye(4)), labelled)
    assert best is not None
    assert [best.names[i] for i in best.best[:2].tolist()] == ["<first>", "second = 5"]
    assert best.f1[:2].tolist() == [1.0, 1.0] and best.precision[0] == 1.0 and best.recall[0] == 1.0
    assert float(best.f1[2]) < 0.6 and "rare" not in [best.names[i] for i in best.best.tolist()]


def test_a_label_is_measured_on_rows_that_it_was_not_chosen_on(labelled: TensorSource):
    """A label that follows a latent on the validation split and nothing elsewhere gets no credit."""
    chance = torch.zeros(4000, dtype=torch.long)
    part = torch.from_numpy(labelled.parts["choose"])
    chance[part] = (labelled.acts[part, 2] > 0).long()
    other = torch.from_numpy(labelled.parts["test"])
    chance[other] = (labelled.acts[other, 3] > 0).long()
    labelled.labels = {"chance": chance}
    best = best_labels(Relu.tied(torch.eye(4)), labelled)
    assert best is not None and float(best.f1[2]) < 0.5 and float(best.f1[3]) == 1.0


def test_a_latent_that_never_fires_tells_nothing(labelled: TensorSource):
    best = best_labels(Relu.tied(-torch.eye(4)), labelled)
    assert best is not None and best.best.tolist() == [-1] * 4 and bool(best.f1.isnan().all())


def test_another_width_is_refused_in_one_line(labelled: TensorSource):
    with pytest.raises(UserError, match="activations of width 5, but the source has width 4"):
        explore_latents(Relu.tied(torch.eye(5)), labelled, LatentsConfig(), silent)
