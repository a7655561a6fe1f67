"""Streamed activations: the order of windows, and the samples that training reads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import sae
from sae.activations.stream import SEGMENTS, Stream
from sae.activations.window_order import WindowOrder
from sae.model.hooked import Model
from sae.numerics.card import wrong_entries
from sae.numerics.processes import ALONE, Processes
from sae.registry import UserError
from sae.sources.transformer import Config
from tests.streaming import Killed, build, bytes_of, columns, kill_after, silent, words
from tests.threads_as_processes import run_as_processes

HOOK = "blocks.0.hook_resid_post"


def _order(n_rows: int, rows_per_window: int, seed: int = 0) -> WindowOrder:
    counts = np.random.default_rng(n_rows).integers(0, 9, n_rows)
    return WindowOrder(counts.astype(np.int64), rows_per_window, seed)


@pytest.mark.parametrize(("n_rows", "rows_per_window"), [(10, 3), (7, 7), (20, 1), (50, 8), (5, 9)])
def test_segments_hold_every_activation_once_an_epoch(n_rows: int, rows_per_window: int):
    order, places = _order(n_rows, rows_per_window), dict[int, dict[int, tuple[int, int, int]]]()
    windows = 3 * order.n_windows
    for window in range(windows):
        rows = order.rows(window)
        each = [(window // order.n_windows, int(row), k) for row in rows for k in range(int(order.counts[row]))]
        assert len(each) == order.size(window)
        for identity, later, position in zip(each, *order.places(window), strict=True):
            assert places.setdefault(window + int(later), {}).setdefault(int(position), identity) is identity
    seen = Counter[tuple[int, int, int]]()
    for segment in range(windows):
        n, start = order.segment_size(segment), order.segment_start(segment)
        assert sorted(places.get(segment, {})) == list(range(n))
        assert {order.segment_of(sample) for sample in range(start, start + n)} <= {segment}
        assert order.segment_start(segment + 1) == start + n
        seen.update(places.get(segment, {}).values())
    assert set(seen.values()) == {1}


class _Counted:
    """Columns that name their row, and a count of how often each row was computed."""

    def __init__(self, order: WindowOrder, piece: int = 2) -> None:
        self.order, self.piece, self.computed = order, piece, Counter[int]()
        self.threads = set[str]()

    def compute(self, rows: NDArray[np.int64]) -> Iterator[Mapping[str, Tensor]]:
        for part in np.array_split(rows, max(1, len(rows) // self.piece)):
            self.computed.update(part.tolist())
            self.threads.add(threading.current_thread().name)
            identity = [10 * row + k for row in part for k in range(self.order.counts[row])]
            yield {"acts": torch.tensor(identity, dtype=torch.long).reshape(-1, 1)}

    def stream(self, processes: Processes = ALONE, rows_at_once: int = 1) -> Stream:
        def empty(n: int) -> dict[str, Tensor]:
            return {"acts": torch.zeros(n, 1, dtype=torch.long)}

        return Stream(self.order, self.compute, empty, "cpu", processes, rows_at_once)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("rows_at_once", [1, 3])
def test_processes_that_read_together_read_what_one_reads(size: int, rows_at_once: int):
    """Every row is computed by one of them, and batches do not depend on how many there are."""
    order = _order(40, 7)
    starts = [*range(0, 2 * order.n_samples - 5, 5), 3, 0]  # and from the beginning again

    def read(processes: Processes) -> tuple[Tensor, Counter[int]]:
        counted = _Counted(order)
        stream = counted.stream(processes, rows_at_once)
        stream.end = 2 * order.n_samples
        taken = torch.cat([stream.take(i, i + 5)["acts"] for i in starts])[:, 0]
        stream.close()
        return taken, counted.computed

    expected, _ = read(ALONE)
    found = run_as_processes(size, read)
    assert all(torch.equal(taken, expected) for taken, _ in found)
    assert {row for _, computed in found for row in computed} == set(range(40))
    assert max(sum(c.values()) for _, c in found) < 1.6 * sum(sum(c.values()) for _, c in found) / size


def test_reading_in_order_computes_each_row_once_an_epoch_in_another_thread():
    order = _order(40, 4)
    counted = _Counted(order)
    stream = counted.stream()
    stream.end = 2 * order.n_samples
    read = torch.cat([stream.take(i, min(i + 7, stream.end))["acts"] for i in range(0, stream.end, 7)])[:, 0]
    times = Counter(read.tolist())
    # Half of an epoch's last window is in the first segment of the next epoch.
    at_the_end = order.size(2 * order.n_windows - 1) // 2
    assert sum(times.values()) == 2 * order.n_samples and 0 < at_the_end < order.n_samples / 2
    assert Counter(times.values())[2] >= order.n_samples - 2 * at_the_end
    assert counted.computed.total() <= 2 * 40 + order.rows_per_window
    assert not any("Main" in name for name in counted.threads)
    stream.close()


def test_a_sample_depends_on_its_number_alone_and_memory_is_bounded():
    order = _order(60, 5)
    whole = _Counted(order).stream()
    n = 2 * order.n_samples
    expected = whole.take(0, n)["acts"][:, 0]
    whole.close()
    stream, rng = _Counted(order).stream(), np.random.default_rng(1)
    for begin in [*rng.integers(0, n - 9, 60).tolist(), *range(0, n - 9, 9)]:
        assert torch.equal(stream.take(begin, begin + 9)["acts"][:, 0], expected[begin : begin + 9])
        assert len(stream._segments) <= SEGMENTS  # pyright: ignore[reportPrivateUsage]
    stream.close()


def test_what_the_model_raises_is_raised_where_it_is_read():
    order = _order(40, 4)

    def fails(rows: NDArray[np.int64]) -> Iterator[Mapping[str, Tensor]]:
        raise UserError("source.hook: NaN")
        yield {}

    stream = Stream(order, fails, lambda n: {"acts": torch.zeros(n, 1)}, "cpu")
    with pytest.raises(UserError, match="NaN"):
        stream.take(0, 5)
    stream.close()


@pytest.fixture(scope="module")
def base(tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    text = words(tmp_path_factory.mktemp("text") / "text.txt", 300)
    return {"model": str(tiny_models["llama"]), "hook": HOOK, "text": str(text), "separator": "|", "context": 16,
            "heldout_share": 0.3, "window_tokens": 500}  # fmt: skip


def test_a_streamed_source_has_the_vectors_of_a_stored_one(tmp_path: Path, base: dict[str, Any]):
    stored, streamed = build(tmp_path / "disk", **base), build(tmp_path / "none", **base, cache="none")
    assert not list((tmp_path / "none").glob("train-*"))
    assert streamed.n_rows == stored.n_rows
    for split in ("choose", "test"):
        kept, again = columns(stored, split), columns(streamed, split)
        assert all(torch.equal(kept[name], again[name]) for name in kept)
    n = streamed.n_rows["train"]
    assert n is not None and streamed.order.n_windows > 3
    with streamed.reading(2 * n):
        read = torch.cat([streamed.batch(step, n).acts for step in range(2)])
    exact = "donot_use_mm_for_euclid_dist"
    distance, nearest = torch.cdist(read, columns(stored, "train")["acts"], compute_mode=exact).min(1)
    assert float(distance.max()) < 1e-3 * float(read.norm(dim=-1).mean())
    assert len(nearest.unique()) > 0.9 * n


def test_training_closes_the_stream_and_ends_on_the_same_values(tmp_path: Path, base: dict[str, Any]):
    settings: dict[str, Any] = {"kind": "relu", "n_latents": 32, "l1": 0.1, "steps": 60, "batch_size": 64}
    once, twice = (sae.fit(build(tmp_path / str(i), **base, cache="none"), **settings)[0] for i in range(2))
    assert once.card["source"]["hook"] == base["hook"] and once.card["processing"].startswith("none")
    assert wrong_entries(once.card) == [] and "transformers" in once.card and "splits" not in once.card
    assert torch.equal(once.W_dec, twice.W_dec)
    assert not [t for t in threading.enumerate() if t.name.startswith("harvest")]


def test_auto_keeps_a_small_source_on_disk_and_says_so(tmp_path: Path, base: dict[str, Any]):
    source = build(tmp_path, **base, cache="auto")
    assert source.facts["cache"] == "disk" and not source.computes_ahead


def test_sources_prepared_together_have_the_files_of_each_alone(tmp_path: Path, base: dict[str, Any]):
    hooks = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out")
    sources = [(Config(**base | {"hook": hook}), tmp_path / str(i)) for i, hook in enumerate(hooks)]
    with counted_passes() as passes:
        Config.prepare_together(sources, silent, "cpu")
    together = passes()
    with counted_passes() as passes:
        sources[-1][0].prepare(tmp_path / "alone", silent, "cpu")
    assert together == passes()
    assert bytes_of(tmp_path / "alone") == bytes_of(tmp_path / "2")
    interrupted = [(config, tmp_path / f"again-{i}") for i, (config, _) in enumerate(sources)]
    for stop in range(3):
        with pytest.raises(Killed):
            Config.prepare_together(interrupted, kill_after(stop), "cpu")
    Config.prepare_together(interrupted, silent, "cpu")
    for (_, whole), (_, again) in zip(sources, interrupted, strict=True):
        assert bytes_of(whole) == bytes_of(again)


@contextmanager
def counted_passes() -> Generator[Callable[[], int]]:
    """Counts the forward passes that record activations."""
    with mock.patch.object(Model, "activations_at", autospec=True, side_effect=Model.activations_at) as recorded:
        yield lambda: recorded.call_count


def test_sources_opened_together_share_the_passes_of_the_model(tmp_path: Path, base: dict[str, Any]):
    hooks = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    sources = [(Config(**base | {"hook": hook}, cache="none"), tmp_path / str(i)) for i, hook in enumerate(hooks)]
    Config.prepare_together(sources, silent, "cpu")
    alone = [config.open(where, "cpu") for config, where in sources]
    expected = [[source.batch(step, 100).acts for step in range(8)] for source in alone]
    with counted_passes() as passes:
        together = Config.open_together(sources, "cpu")
        for step in range(8):
            for source, batches in zip(together, expected, strict=True):
                torch.testing.assert_close(source.batch(step, 100).acts, batches[step])
    with counted_passes() as one:
        deepest = sources[1][0].open(sources[1][1], "cpu")
        for step in range(8):
            deepest.batch(step, 100)
    assert passes() == one()
