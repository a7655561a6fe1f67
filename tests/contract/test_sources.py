"""Rules that every source obeys."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sae.source import Source, TensorSource
from sae.sources.attention import Config as Attention
from sae.sources.code import Config as Code
from sae.sources.correlated import Config as Correlated
from sae.sources.features import Config as Features
from sae.sources.independent import Config as Independent
from sae.sources.manifold import Config as Manifold
from sae.sources.network import Config as Network
from tests.transcoding import Mlp

FOLDER = tempfile.TemporaryDirectory()
"""Removed when the tests end."""
PAIRS = torch.randn(2, 200, 6, generator=torch.Generator().manual_seed(0))
ACTIVITIES = (
    {"kind": "independent", "probability": 0.1},
    {"kind": "copula", "probability": 0.2, "correlation": {"kind": "random"}},
    {"kind": "correlated", "size": 3, "probability": 0.3},
    {"kind": "one_of", "size": 4},
    {"kind": "fixed", "k": 2},
    {"kind": "concept", "k": 3},
    {"kind": "tree", "roots": 2, "branching": 5, "depth": 1, "probability": 0.15, "given": "conditional"},
)

CODES = (
    {"kind": "scenario", "margin": 2.0},
    {"kind": "floor", "levels": 4},
    {"kind": "circle", "circles": 2, "points": 3, "width": 0.7},
    {"kind": "hash", "width": 6},
)


def code(settings: dict[str, object]) -> Callable[[int], Source]:
    return lambda seed: Code(code=settings, d_in=6, noise=0.01, seed=seed).build()


def features(activity: dict[str, object]) -> Callable[[int], Source]:
    return lambda seed: Features(n_features=12, d_in=6, activity=activity, noise=0.01, offset=1, seed=seed).build()


def attention(hook: str) -> Callable[[int], Source]:
    def build(seed: int) -> Source:
        config = Attention(
            task={"kind": "addition", "n_digits": 2, "n_train": 200, "n_test": 100},
            model={"n_heads": 4, "d_head": 2, "d_model": 8},
            training={"steps": 5, "batch_size": 16},
            positions="answers",
            hook=hook,
            n_rows=100,
            n_heldout_rows=50,
            seed=seed,
        )
        directory = Path(FOLDER.name) / f"{hook}-{seed}"
        config.prepare(directory, lambda done, total, unit: None, "cpu")
        return config.open(directory, "cpu")

    return build


SOURCES: dict[str, Callable[[int], Source]] = {
    "independent": lambda seed: Independent(n_features=12, d_in=6, probability=0.1, noise=0.01, seed=seed).build(),
    "correlated": lambda seed: Correlated(n_features=12, d_in=6, n_active=2, noise=0.01, seed=seed).build(),
    **{f"features {activity['kind']}": features(activity) for activity in ACTIVITIES},
    "features pool": lambda seed: Features(
        n_features=12, d_in=6, activity=ACTIVITIES[0], noise=0.01, n_train=50, seed=seed
    ).build(),
    "code pool": lambda seed: Code(code=CODES[0], d_in=6, noise=0.01, n_train=50, seed=seed).build(),
    "network": lambda seed: Network(
        n_features=12,
        activity={"kind": "fixed", "k": 2},
        network={"hidden": [6]},
        training={"steps": 20},
        instances=2,
        seed=seed,
    ).build(),
    **{f"code {settings['kind']}": code(settings) for settings in CODES},
    "manifold": lambda seed: Manifold(d_in=6, sparse=8, dense=1, circles=1, clusters=2, noise=0.01, seed=seed).build(),
    "tensor": lambda seed: TensorSource(torch.randn(200, 6, generator=torch.Generator().manual_seed(0)), seed=seed),
    "pairs": lambda seed: TensorSource(PAIRS[0], seed=seed, targets=PAIRS[1]),
    "mlp": lambda seed: Mlp(seed),
    "attention": attention("blocks.0.attn.hook_z"),
}


@pytest.fixture(params=SOURCES)
def make(request: pytest.FixtureRequest) -> Callable[[int], Source]:
    return SOURCES[request.param]


def test_a_batch_is_a_function_of_seed_and_step(make: Callable[[int], Source]):
    source, again, other = make(0), make(0), make(1)
    for split in ("train", "choose", "test"):
        later = source.batch(5, 16, split).acts
        first = source.batch(2, 16, split).acts
        assert torch.equal(first, again.batch(2, 16, split).acts)
        assert torch.equal(later, again.batch(5, 16, split).acts)
        assert not torch.equal(first, later)
    assert not torch.equal(source.batch(2, 16).acts, other.batch(2, 16).acts)


def test_splits_share_no_row(make: Callable[[int], Source]):
    source = make(0)
    rows = {s: {tuple(r.tolist()) for r in source.batch(0, 20, s).acts} for s in ("train", "choose", "test")}
    assert not rows["train"] & rows["test"] and not rows["choose"] & rows["test"] and not rows["train"] & rows["choose"]


def test_shapes_and_truth(make: Callable[[int], Source]):
    source = make(0)
    batch = source.batch(0, 16)
    assert batch.acts.shape == (16, source.d_in) and batch.acts.dtype == torch.float32
    if source.truth is not None:
        assert batch.codes is not None and float(batch.codes.min()) >= 0
        torch.testing.assert_close(source.truth.directions.norm(dim=-1), torch.ones(batch.codes.shape[1]))


def test_targets_are_there_where_a_source_says_so_and_belong_to_their_rows(make: Callable[[int], Source]):
    source, again = make(0), make(0)
    for split in ("train", "choose", "test"):
        batch = source.batch(3, 16, split)
        assert (batch.targets is not None) == source.has_targets
        assert torch.equal(batch.wanted, again.batch(3, 16, split).wanted)
        assert batch.wanted.shape == batch.acts.shape and (batch.wanted is batch.acts) != source.has_targets
    if isinstance(source, Mlp):
        assert torch.equal(batch.wanted, source(batch.acts))
