"""Prefetched batches: values, order and errors are those of the source, and no thread is left running."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch

from sae.numerics.profiler import Spans
from sae.source import Batch, Source, Split, TensorSource
from sae.sources.correlated import Config as Correlated
from sae.training.prefetch import SPAN, batches_of, default_workers


class Recorded(Source):
    """Samples filled with their step; records the steps requested and fails at one of them."""

    d_in = 2

    def __init__(self, fails_at: int = -1) -> None:
        self.requested: list[int] = []
        self.fails_at = fails_at

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        assert split == "train"
        self.requested.append(step)
        if step == self.fails_at:
            raise ValueError(f"no step {step}")
        return Batch(torch.full((size, 2), float(step)))


def fetching() -> Sequence[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_values_and_order_are_the_sources(workers: int):
    g = torch.Generator().manual_seed(0)
    sources = [
        Correlated(n_features=12, d_in=6, n_active=2, noise=0.01).build(),
        TensorSource(torch.randn(200, 6, generator=g)),
        TensorSource(torch.randn(200, 6, generator=g), targets=torch.randn(200, 6, generator=g)),
    ]
    for source in sources:
        for steps in (range(3, 12), range(0, 2), range(5, 5)):
            rows = list(batches_of(source, steps, 16, workers=workers))
            assert len(rows) == len(steps)
            for (x, y), batch in zip(rows, (source.batch(s, 16) for s in steps), strict=True):
                assert torch.equal(x, batch.acts) and torch.equal(y, batch.wanted)
                assert (y is x) != source.has_targets  # nothing is fetched twice
    assert not fetching()


@pytest.mark.parametrize("workers", [1, 2])
def test_each_step_is_fetched_once_and_no_further_than_needed(workers: int):
    source = Recorded()
    rows = batches_of(source, range(10), 4, workers=workers)
    assert float(next(rows).x[0, 0]) == 0
    assert float(next(rows).x[0, 0]) == 1
    rows.close()
    assert len(set(source.requested)) == len(source.requested) and max(source.requested) <= workers + 2
    assert not fetching()
    source = Recorded()
    assert [float(x[0, 0]) for x, _ in batches_of(source, range(10), 4, workers=workers)] == list(range(10))
    assert sorted(source.requested) == list(range(10))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_is_raised_at_its_own_step(workers: int):
    rows = batches_of(Recorded(fails_at=2), range(10), 4, workers=workers)
    assert [float(next(rows).x[0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="no step 2"):
        next(rows)
    assert not fetching()


def test_samples_are_float32_and_a_cpu_prefetches_nothing():
    class Doubles(Recorded):
        def batch(self, step: int, size: int, split: Split = "train") -> Batch:
            acts = super().batch(step, size, split).acts.double()
            return Batch(acts, targets=2 * acts)

    assert default_workers("cpu") == 0 and default_workers("cuda:1") >= 1
    for workers in (None, 1):
        source = Doubles()
        rows = batches_of(source, range(5), 4, workers=workers)
        x, y = next(rows)
        assert x.dtype == y.dtype == torch.float32 and torch.equal(y, 2 * x)
        assert workers or source.requested == [0]
        rows.close()


def test_time_spent_prefetching_is_separate_from_the_steps():
    spans = Spans()
    with spans("train"):
        for _ in batches_of(Recorded(), range(6), 4, workers=1, spans=spans):
            pass
    by_path = spans.by_path()
    assert by_path[(SPAN,)].count == 6 and by_path[("train",)].self_seconds == by_path[("train",)].seconds


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    plain = Correlated(n_features=64, d_in=32, n_active=2).build()
    acts = plain.batch(0, 4000).acts
    for source in (plain, TensorSource(acts, targets=acts.flip(1))):
        for step, (x, y) in enumerate(batches_of(source, range(20), 256, "cuda")):
            torch.cuda._sleep(1_000_000)  # pyright: ignore
            batch = source.batch(step, 256)
            assert x.device.type == y.device.type == "cuda"
            assert torch.equal(x.cpu(), batch.acts) and torch.equal(y.cpu(), batch.wanted)
