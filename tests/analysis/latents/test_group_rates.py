"""Firing in two groups of documents: exact permutations, closed forms, and how often there are errors by chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sae
from sae.analysis.groups import compare_firing, compare_texts
from sae.dictionaries.relu import Relu
from sae.model.hooked import Model
from sae.numerics.paired_tests import benjamini_hochberg
from sae.numerics.seeds import generator


def identity(n: int) -> Relu:
    """A dictionary whose latent j is the positive part of coordinate j."""
    return Relu(torch.eye(n), torch.eye(n), torch.zeros(n), torch.zeros(n))


def documents(n: int, rate: Tensor, size: int = 30, spread: float = 0.0, seed: int = 0) -> list[Tensor]:
    """Documents in which coordinate j is positive at a rate that differs from document to document by a factor."""
    random = generator("documents", seed)
    factor = (spread * torch.randn(n, 1, len(rate), generator=random)).exp()
    return list((torch.rand(n, size, len(rate), generator=random) < (rate * factor)).float())


def statistic(a: list[Tensor], b: list[Tensor]) -> float:
    """The studentised difference of a single latent, written out."""
    parts: list[tuple[float, float]] = []
    for group in (a, b):
        fired, samples = [float((x > 0).sum()) for x in group], [float(len(x)) for x in group]
        rate, n = sum(fired) / sum(samples), len(group)
        squares = sum((k - rate * m) ** 2 for k, m in zip(fired, samples, strict=True))
        parts.append((rate, n / (n - 1) * squares / sum(samples) ** 2))
    return (parts[0][0] - parts[1][0]) / math.sqrt(parts[0][1] + parts[1][1])


def test_p_is_that_of_all_permutations():
    a, b = documents(5, torch.tensor([0.5]), size=8), documents(6, torch.tensor([0.2]), size=8, seed=1)
    a[0], b[2] = a[0][:3], b[2][:5]  # of different lengths
    r = compare_firing(identity(1), a, b, draws=20_000)
    true = statistic(a, b)
    assert float(r.t) == pytest.approx(true, rel=1e-6)
    both, exceed, n = a + b, 0, 0
    for chosen in combinations(range(11), 5):
        rest = [both[i] for i in range(11) if i not in chosen]
        exceed += abs(statistic([both[i] for i in chosen], rest)) >= abs(true) * (1 - 1e-9)
        n += 1
    assert n == 462 and float(r.p) == pytest.approx(exceed / n, abs=0.01)
    assert float(r.rate_a) == pytest.approx(float(torch.cat(a).mean())) and r.n_documents == (5, 6)
    assert float(r.low) < float(r.difference) < float(r.high)


def test_latents_that_differ_are_found_and_those_of_one_document_are_not():
    rate = torch.tensor([0.1, 0.1, 0.3, 0.0])
    a, b = documents(40, rate), documents(40, torch.tensor([0.3, 0.1, 0.1, 0.0]), seed=1)
    a[0][:, 1] = 1.0  # one document full of it
    r = compare_firing(identity(4), a, b)
    assert set(r.differing()) == {0, 2} and float(r.difference[0]) < 0 < float(r.difference[2])
    assert math.isnan(r.p[3]) and math.isnan(r.q[3]) and float(r.p[0]) == pytest.approx(1 / 5001)
    assert "2 of 3 latents differ between 40 and 40 documents" in str(r)


@pytest.mark.slow
def test_errors_are_as_rare_as_they_say_where_documents_vary():
    """Rates vary by a factor of two or so between documents: tests over samples find differences in most latents."""
    found, inside, n_latents = 0, 0.0, 400
    rate = torch.full((n_latents,), 0.1)
    for trial in range(20):
        a = documents(30, rate, spread=0.7, seed=2 * trial)
        b = documents(60, rate, spread=0.7, seed=2 * trial + 1)
        r = compare_firing(identity(n_latents), a, b, draws=1000)
        assert 0.02 < float((r.p <= 0.05).double().mean()) < 0.09
        inside += float(((r.low < 0) & (r.high > 0)).double().mean()) / 20
        found += len(r.differing())
    assert found <= 8 and 0.92 < inside < 0.98


def test_lengths_that_differ_a_lot_are_named():
    long, short = documents(6, torch.tensor([0.5]), size=30), documents(6, torch.tensor([0.5]), size=5, seed=1)
    assert "30.0 samples on average in A and 5.0 in B" in str(compare_firing(identity(1), long, short, draws=10))
    assert "on average" not in str(compare_firing(identity(1), [x[:5] for x in long], short, draws=10))


@pytest.mark.slow
def test_limits_of_lengths_and_of_few_documents():
    """Rates that are beta(0.1, 0.9) in each document, equal in expectation; the module's docstring has the numbers."""
    random = torch.distributions.Beta(torch.full((20,), 0.1), torch.full((20,), 0.9))
    draw = generator("documents", 5)

    def group(n: int, least: int, most: int) -> list[Tensor]:
        sizes = torch.randint(least, most + 1, (n,), generator=draw).tolist()
        return [(torch.rand(size, 20, generator=draw) < random.sample()).float() for size in sizes]

    torch.manual_seed(5)
    unequal = cut = inside = 0.0
    for _ in range(100):
        short, long = group(15, 1, 5), group(15, 60, 100)
        unequal += bool(compare_firing(identity(20), short, long, draws=1000).differing()) / 100
        short, long = group(15, 3, 3), [x[:3] for x in long]
        cut += bool(compare_firing(identity(20), short, long, draws=1000).differing()) / 100
        few = compare_firing(identity(20), group(8, 20, 20), group(40, 20, 20), draws=1000)
        inside += float(((few.low <= 0) & (few.high >= 0)).double().mean()) / 100
    print(f"comparisons with false discoveries: {unequal:.2f}, cut to one length {cut:.2f}; intervals: {inside:.2f}")
    assert unequal > 0.12 and cut <= 0.1 and 0.8 < inside < 0.9


def test_texts_are_documents(tiny_models: Mapping[str, Path], shapes_unchecked: None):
    model, hook = Model.boot(str(tiny_models["gpt2"])), "blocks.0.hook_resid_post"
    W = torch.randn(24, 16, generator=generator("test"))
    d = Relu.tied(W / W.norm(dim=1, keepdim=True))
    a, b = [f"w{i} w{i + 1} w1" for i in range(6)], ["", *(f"w{i} w20 w{i + 3} w5 w7" for i in range(8))]
    r = compare_texts(model, d, a, b, hook=hook, draws=200)
    assert r.n_documents == (6, 8) and r.n_samples == (18, 40), "without BOS and empty texts"
    tokens = sae.tokens(model, a).ids
    acts = model.activations(tokens, torch.ones_like(tokens).bool(), hook)[:, 1:]
    torch.testing.assert_close(r.rate_a, (d.encode(acts) > 0).double().mean((0, 1)))
    with pytest.raises(sae.UserError, match="hook is missing"):
        compare_texts(model, d, a, b)
    again = compare_texts(model, d, iter(a), iter(b), hook=hook, draws=200)
    assert torch.equal(again.p.nan_to_num(), r.p.nan_to_num())
    with pytest.raises(sae.UserError, match="texts: NoneType None"):
        compare_texts(model, d, [*a, None], b, hook=hook)  # pyright: ignore[reportArgumentType]
    with pytest.raises(sae.UserError, match="a name; give the model"):
        compare_texts("gpt2", d, a, b, hook=hook)


def test_mistakes_are_user_errors():
    x = [torch.rand(3, 2)] * 5
    for a, b, words in ((x[:4], x, "a: 4 documents"), (x, [*x, torch.rand(3)], r"b\[5\]: shape \[3\]")):
        with pytest.raises(sae.UserError, match=words):
            compare_firing(identity(2), a, b)
    for bad in (math.nan, math.inf):
        with pytest.raises(sae.UserError, match=r"b\[5\]: the activations contain NaN or infinite values in 1 of 3"):
            compare_firing(identity(2), x, [*x, torch.tensor([[1.0, 2.0], [bad, 1.0], [0.0, 0.0]])])


def test_documents_are_arrays_and_lists_too():
    a, b = documents(6, torch.tensor([0.2, 0.5])), documents(6, torch.tensor([0.4, 0.5]), seed=1)
    expected = compare_firing(identity(2), a, b, draws=50)
    given = compare_firing(identity(2), [x.numpy() for x in a], (x.tolist() for x in b), draws=50)
    assert torch.equal(given.t, expected.t) and torch.equal(given.p, expected.p)


def test_false_discovery_rates_by_hand():
    assert benjamini_hochberg([0.01, math.nan, 0.04, 0.03])[::2] == pytest.approx([0.03, 0.04])
    assert benjamini_hochberg([0.01, math.nan, 0.04, 0.03])[3] == pytest.approx(0.04)
    assert math.isnan(benjamini_hochberg([0.01, math.nan])[1])
