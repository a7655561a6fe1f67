"""Rules that every source obeys."""

from __future__ import annotations

import random
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
from sae.sources.language import Config as Language
from sae.sources.manifold import Config as Manifold
from sae.sources.network import Config as Network
from sae.testing import check_batches
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


def language(seed: int) -> Source:
    # Of random characters, because the same tokens at the beginning of two rows have the same activations.
    rng = random.Random(0)
    text = Path(FOLDER.name) / "characters.txt"
    text.write_text("\n".join("".join(map(chr, rng.choices(range(33, 126), k=40))) for _ in range(150)))
    config = Language(
        text=str(text),
        separator="\n",
        model={"d_model": 8, "n_heads": 2, "n_ctx": 16},
        tokenizer={"n_tokens": 280},
        training={"steps": 3, "batch_size": 4},
        context=16,
        heldout_share=0.3,
        hook="blocks.0.mlp.hook_post",
        seed=seed,
    )
    directory = Path(FOLDER.name) / f"language-{seed}"
    config.prepare(directory, lambda done, total, unit: None, "cpu")
    return config.open(directory, "cpu")


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
    "language": language,
}


@pytest.fixture(params=SOURCES)
def make(request: pytest.FixtureRequest) -> Callable[[int], Source]:
    return SOURCES[request.param]


def test_the_rules_of_batches(make: Callable[[int], Source]):
    check_batches(make(0), make(0), make(1))


def test_targets_belong_to_their_samples(make: Callable[[int], Source]):
    source, again = make(0), make(0)
    for split in ("train", "choose", "test"):
        batch = source.batch(3, 16, split)
        assert torch.equal(batch.wanted, again.batch(3, 16, split).wanted)
        assert batch.wanted.shape == batch.acts.shape and (batch.wanted is batch.acts) != source.has_targets
    if isinstance(source, Mlp):
        assert torch.equal(batch.wanted, source(batch.acts))
