"""The cost model of many devices against the code: what a step really allocates and launches, and its constants."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.scale import memory, work
from benchmarks.scale.cost_model import Machines, cost
from benchmarks.scale.devices import DEVICES, LINKS, Assumptions, Device, Sourced
from benchmarks.scale.setting import OVER_BATCH, Setting
from benchmarks.scale.setting import Division as Share
from sae.numerics.processes import ALONE, Processes
from sae.registry import config_class
from sae.sources.independent import Config as SourceConfig
from sae.training import dense_step, engine
from sae.training.config import TrainConfig
from sae.training.division import Division
from sae.training.engine import Engine
from sae.training.input_scaling import InputStatistics
from sae.training.kernels import Adam
from sae.training.kernels.reference import Reference
from sae.training.state import State

ROOT = Path(__file__).parents[2]
KINDS: Mapping[str, dict[str, float]] = {
    "relu": {"l1": 1.0}, "gated": {"l1": 1.0}, "jumprelu": {"l0": 8.0}, "topk": {"k": 8}, "batchtopk": {"k": 8},
    "matryoshka": {"k": 8},
}  # fmt: skip


def trained(
    kind: str,
    members: int = 1,
    batch: int = 256,
    d_in: int = 32,
    n_latents: int = 1024,
    processes: Processes = ALONE,
) -> tuple[State, Engine]:
    """A state and an engine before the first step."""
    config: Any = config_class("dictionaries", kind)(n_latents=n_latents, **KINDS[kind])
    source = SourceConfig(n_features=64, d_in=d_in, probability=0.05).build()
    settings = TrainConfig(steps=10, batch_size=batch, n_scale=512)
    statistics = InputStatistics.measure(source, 512, batch, settings.input_scale, False)
    division = Division.of(members, n_latents, config.architecture(0.0), processes)
    stack = [(config, seed) for seed in range(members)]
    state = State.initial(stack, source, settings, "cpu", statistics, division)
    engine = Engine(
        state.stack,
        state.moments,
        state.is_sparse,
        division.local(config.architecture(0.0)),
        batch,
        kernels=Reference(),
        division=division,
    )
    return state, engine


def size(tensors: Sequence[Tensor]) -> int:
    """Bytes of the storages of tensors, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


CPU = Device("a CPU", DEVICES["h100"].products, Sourced(1e10, ""), Sourced(1e9, ""), is_gpu=False)


def stated(kind: Any, members: int, batch: int, d_in: int = 32, n_latents: int = 1024) -> dict[str, float]:
    setting = Setting(d_in=d_in, n_latents=n_latents, batch=batch, kind=kind, k=8, members=members)
    return memory.held_bytes(Share(setting, 1), CPU, Assumptions())


@pytest.mark.parametrize(
    ("kind", "members", "batch"), [("relu", 1, 256), ("gated", 2, 64), ("jumprelu", 3, 4096), ("topk", 2, 256)]
)
def test_the_stated_memory_is_that_of_a_state_and_an_engine(kind: str, members: int, batch: int):
    state, made = trained(kind, members, batch)
    expected = stated(kind, members, batch)
    assert expected["parameters"] == size([*state.stack.parameters().values(), state.stack.batch_threshold])
    assert expected["moments"] == size([moment for pair in state.moments.values() for moment in pair])
    dense = made._dense
    assert expected["gradient_buffers"] == size([dense.W_enc, dense.W_dec])
    assert expected["blocks"] == size([dense.v, dense.h, dense.residual])
    fired = torch.zeros_like(state.steps_since_fired, dtype=torch.bool)
    assert expected["bookkeeping"] == size([state.steps_since_fired, fired])
    setting = Setting(d_in=32, n_latents=1024, batch=batch, members=members)
    assert memory.dense_rows(Share(setting, 1), False) == dense.rows
    assert memory.members_at_once(Share(setting, 1), False) == made.at_once


class Watch(TorchDispatchMode):
    """Counts operations, and the most bytes of tensors that they made which were alive together."""

    VIEWS = ("view", "slice", "select", "expand", "transpose", "squeeze", "detach", "alias", ".t.", "split", "unbind",
             "chunk", "empty", "flatten", "permute", "lift", "_to_copy")  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.live, self.peak = 0, 0, 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += not any(view in str(func) for view in self.VIEWS)
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in given | self._seen:
                self._seen.add(key)
                self.live += tensor.untyped_storage().nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(tensor, self._freed(key, tensor.untyped_storage().nbytes()))
        return out

    def _freed(self, key: int, n_bytes: int) -> Callable[[], None]:
        def freed() -> None:
            self._seen.discard(key)
            self.live -= n_bytes

        return freed


@pytest.mark.parametrize("kind", KINDS)
def test_the_temporaries_and_operations_of_a_dense_step_are_those_counted(kind: str, shapes_unchecked: None):
    batch, d_in, n_latents = 256, 32, 4096
    state, made = trained(kind, 1, batch, d_in, n_latents)
    x = torch.randn(batch, d_in, generator=torch.Generator().manual_seed(0))
    with Watch() as watch:
        made.step(x, 2, Adam.at(2, 1e-3, 0.9, 0.999), torch.ones(1), count=True)
    expected = stated(kind, 1, batch, d_in, n_latents)["temporaries"]
    if kind in OVER_BATCH:  # the places of positive codes, 8 bytes for each of half of them, are made inside of torch
        assert expected - 4 * made._dense.rows * n_latents <= 1.1 * watch.peak and watch.peak <= expected
    else:
        assert watch.peak == pytest.approx(expected, rel=0.15, abs=0.1 * 4 * made._dense.rows * n_latents)
    assert watch.operations == pytest.approx(work.OPERATIONS[kind][0], abs=30), "without the loop"
    assert state.stack.n_members == 1


def test_the_constants_are_those_of_the_code():
    from sae.training.kernels import cpu

    assert {True: dense_step._BLOCK["cuda"], False: dense_step._BLOCK["cpu"]} == memory.BLOCK
    assert {"cpu": memory.LARGE_ON_CPU} == engine.LARGE, "a size for GPUs changes members_at_once"
    assert {"cpu": work.WORTHWHILE[False], "cuda": work.WORTHWHILE[True]} == engine.WORTHWHILE
    assert (memory.ON_CPU, memory.LEAST_ROWS[False]) == (cpu._BLOCK, cpu._LEAST_ROWS)
    assert cpu.Numba.sparse_below == work.SPARSE_BELOW[False]
    gpu = (ROOT / "sae/training/kernels/gpu.py").read_text(encoding="utf-8")  # needs Triton to be imported
    assert re.search(r"^IN_CACHE = 1 << (\d+)", gpu, re.M)[1] == str(memory.STORED.bit_length() - 1)  # type: ignore[index]
    assert re.search(r"^_AT_ONCE = 1 << (\d+)", gpu, re.M)[1] == str(memory.FUSED.bit_length() - 1)  # type: ignore[index]
    assert f"max({memory.LEAST_ROWS[True]}, entries // n_latents" in gpu
    assert f"sparse_below = {work.SPARSE_BELOW[True]}" in gpu
    assert f"self._make_room({memory.LEAST_PAIRS} * n_members * len(x), x)" in gpu


def test_memory_on_a_gpu_by_hand():
    h100 = Machines(DEVICES["h100"], LINKS["nvlink"], LINKS["ib400"])
    wide = Setting(d_in=4096, n_latents=1 << 20, batch=8192, k=64)
    held = cost(wide, h100, 4).memory
    assert held["parameters"] == 4 * (2 * (1 << 18) * 4096 + (1 << 18) + 4096 + 1)
    assert held["moments"] == 2 * (held["parameters"] - 4)
    assert held["gradient_buffers"] == 4 * 2 * (1 << 18) * 4096
    assert held["blocks"] == 4 * (2 * (1 << 29) + 2048 * 4096), "2048 samples a block"
    assert held["batches"] == 11 * 4 * 8192 * 4096
    short = cost(replace(wide, precision="bfloat16"), h100, 4).memory
    assert short["rounded_encoder"] == 2 * (1 << 18) * 4096 + 8 * (1 << 18)
    assert not cost(wide, h100, 1).fits and cost(wide, h100, 4).fits
