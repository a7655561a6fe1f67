"""The cost model of many devices against the code: the collectives of a step and their bytes, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.scale.cost_model import FOUND, Cost, Machines, cost
from benchmarks.scale.devices import LINKS
from benchmarks.scale.setting import Setting
from sae.numerics.processes import Processes
from sae.training.kernels import Adam
from tests.benchmarks.test_scale_of_the_code import CPU, KINDS, trained
from tests.threads_as_processes import Threads, run_as_processes

PROCESSES, BATCH, D_IN, K = 3, 600, 16, 8
MACHINES = Machines(CPU, LINKS["ethernet"], LINKS["ethernet"], 1)


def counted(kind: str, n_latents: int, is_sparse: bool, members: int, dead: bool, monkeypatch: pytest.MonkeyPatch):
    """The kind and bytes of the collectives of a step after the first, as the first of the processes sees them."""
    seen: list[tuple[str, int]] = []

    def watched(name: str, what: str) -> None:
        plain = getattr(Threads, name)

        def exchange(self: Threads, tensor: Tensor) -> Any:
            result = plain(self, tensor)
            if self.rank == 0:
                seen.append((what, sum(t.nbytes for t in (result or [tensor]))))
            return result

        monkeypatch.setattr(Threads, name, exchange)

    watched("_sum_over_group", "all-reduce")
    watched("_gather_from_group", "all-gather")
    x = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(0))

    def work(group: Processes) -> None:
        state, engine = trained(kind, members, BATCH, D_IN, n_latents, group)
        silent = torch.zeros_like(state.dead)
        if dead:
            silent[:, ::3] = True
        for t in (2, 3):  # not the first, which chooses paths
            engine.is_sparse.fill_(is_sparse and t == 3)
            if group.is_first:
                seen.clear()
            engine.step(x, t, Adam.at(t, 1e-6, 0.9, 0.999), torch.ones(members), count=True, dead=silent)

    run_as_processes(PROCESSES, work)
    return seen


def stated(of: Cost, is_sparse: bool) -> list[tuple[str, str, float]]:
    exchanged = of.collectives("sparse" if is_sparse else "dense")
    return [(one.what, one.kind, one.n_bytes) for one in exchanged if one.what != "samples"]


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    ("kind", "n_latents", "members", "dead"),
    [
        ("relu", 600, 2, False),
        ("gated", 600, 1, False),
        ("jumprelu", 600, 1, False),
        ("topk", 12_000, 1, False),  # more than one block of samples in a dense step
        ("topk", 600, 2, True),
        ("batchtopk", 600, 2, False),
        ("matryoshka", 600, 2, True),
    ],
)
def test_a_step_exchanges_what_is_stated(
    kind: Any, n_latents: int, members: int, dead: bool, is_sparse: bool, monkeypatch: pytest.MonkeyPatch
):
    found = counted(kind, n_latents, is_sparse, members, dead, monkeypatch)
    setting = Setting(D_IN, n_latents, BATCH, kind, K, members, dead=dead)
    assert setting.kind in KINDS
    # Members come first: fewer than processes, of a number that does not divide it, are all in one group.
    expected = stated(cost(setting, MACHINES, PROCESSES), is_sparse)
    often = Counter(how for _, how, _ in expected)
    assert Counter(how for how, _ in found) == often
    assert total(found, "all-reduce") == sum(n for _, how, n in expected if how == "all-reduce")
    searched = sum(n for what, _, n in expected if what == "candidates")
    others = sum(n for what, how, n in expected if how == "all-gather" and what != "candidates")
    gathered = total(found, "all-gather") - others
    if kind in ("batchtopk", "matryoshka"):  # depends on how many exceed the floor of the search
        assert searched / FOUND <= gathered <= searched / FOUND * PROCESSES
    else:
        assert gathered == searched


def total(found: list[tuple[str, int]], kind: str) -> int:
    return sum(n for how, n in found if how == kind)


def test_dense_steps_exchange_by_blocks_and_sparse_ones_at_once():
    topk = cost(Setting(D_IN, 12_000, BATCH, "topk", K), MACHINES, PROCESSES)
    dense, sparse = (Counter(one.what for one in topk.collectives(path)) for path in ("dense", "sparse"))
    assert dense == {"samples": 1, "reconstructions": 2, "sums": 2, "candidates": 2, "counts": 1}
    assert sparse == {"samples": 1, "reconstructions": 1, "sums": 1, "candidates": 1, "counts": 1}
    nested = cost(replace(topk.division.setting, kind="matryoshka", members=2), MACHINES, PROCESSES)
    assert Counter(one.what for one in nested.collectives("sparse"))["reconstructions"] == 2 * 5
