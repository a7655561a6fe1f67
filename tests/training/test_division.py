"""A stack divided over processes against the whole, with threads in place of processes.

A step in float64 must give the same parameters to rounding; whole trainings are compared where no rounding decides.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.architecture import Largest
from sae.dictionaries.batchtopk import Config as BatchTopK
from sae.dictionaries.jumprelu import Config as JumpReLU
from sae.dictionaries.matching_pursuit import Config as MatchingPursuit
from sae.dictionaries.matryoshka import Config as Matryoshka
from sae.dictionaries.relu import Config as Relu
from sae.dictionaries.topk import Config as TopK
from sae.numerics.processes import ALONE, Processes
from sae.registry import UserError
from sae.sources.independent import Config as Independent
from sae.training.config import TrainConfig
from sae.training.division import Division
from sae.training.engine import Engine
from sae.training.kernels import Adam, Codes
from sae.training.kernels.reference import Reference
from sae.training.loop import divide, train_side_by_side
from sae.training.selection import keep_among, select_among_
from sae.training.stack import Stack
from sae.training.state import Member, has_latents, select_members
from tests.stacks import ARCHITECTURES, DENSE_ONLY, random_dead, random_rows, random_stack, zero_moments
from tests.threads_as_processes import run_as_processes

STEPS = 3
CASES = [
    pytest.param(name, sparse, size, id=f"{name}-{'sparse' if sparse else 'dense'}-{size}")
    for name in ARCHITECTURES
    for sparse in (False, True)
    for size in (2, 3)
    if (not sparse if name in DENSE_ONLY else (size == 3) == sparse) and name != "pursuit"
]


def part_of(stack: Stack, division: Division) -> Stack:
    """The latents of a division, of all members."""
    without = Stack.WITHOUT_LATENTS
    return Stack.of({n: t.clone() if n in without else t[:, division.latents] for n, t in stack.tensors().items()})


def steps(engine: Engine, dead: Tensor, y: Tensor | None, l1: Tensor) -> dict[str, Tensor]:
    """The stack, the moments and the terms after some steps."""
    x = random_rows(300, 5)  # more than one block
    for t in range(1, STEPS + 1):
        terms = engine.step(x, t, Adam.at(t, 1e-2, 0.9, 0.999), l1, y=y, dead=dead)
    return {
        **engine.stack.tensors(),
        **{f"m.{name}": value for name, value in engine.m.parameters().items()},
        **{f"term.{name}": value for name, value in vars(terms).items()},
    }


@pytest.mark.parametrize(("name", "sparse", "size"), CASES)
def test_a_divided_step_is_that_of_the_whole(name: str, sparse: bool, size: int):
    n_members, n_latents = (1, 70) if size == 2 else (2, 70)
    stack = random_stack(n_members, n_latents, 5, ARCHITECTURES[name])
    y = None
    if name in ("weighted", "gated", "jumprelu"):
        stack.centre = torch.linspace(-1, 1, 5 * n_members, dtype=torch.float64).view(n_members, 5)
        y = random_rows(300, 5).tanh()
    dead, l1 = random_dead(n_members, n_latents), torch.tensor([0.3, 1.7]).double()[:n_members]
    # One process has no dead latent: it takes part in the auxiliary loss of the others all the same.
    dead[:, :35] = False

    def work(group: Processes) -> tuple[Division, dict[str, Tensor]]:
        whole = Division.of(1, n_latents, ARCHITECTURES[name], group)
        own = part_of(stack, whole)
        engine = Engine(
            own,
            zero_moments(own),
            torch.full((n_members,), sparse),
            whole.local(ARCHITECTURES[name]),
            300,
            kernels=Reference(),
            target_l0=torch.tensor([3.0, 9.0]).double()[:n_members],
            division=whole,
        )
        return whole, steps(engine, dead[:, whole.latents], y, l1)

    [(_, expected)] = [work(ALONE)]
    found = run_as_processes(size, work)
    assert torch.equal(torch.cat([division.latents for division, _ in found]).sort().values, torch.arange(n_latents))
    for division, of_process in found:
        for key, value in expected.items():
            name = key.rpartition(".")[2]
            has_latents = name not in (
                *Stack.WITHOUT_LATENTS,
                "l0",
                "mse",
                "penalty",
                "auxiliary",
                "batch_threshold",
                "first_threshold",
            )
            wanted = value[:, division.latents] if has_latents else value
            torch.testing.assert_close(of_process[key], wanted, rtol=1e-9, atol=1e-10, msg=lambda m, k=key: f"{k}: {m}")


SOURCE = Independent(n_features=24, d_in=12, probability=0.1).build()
SETTINGS = TrainConfig(
    steps=40, batch_size=64, log_every=10, resample_every=10, dead_after=4, resample_pool=128, n_scale=256, average=0.9
)
STACKS: dict[str, list[Member]] = {
    "relu": [(Relu(n_latents=30, l1=0.3), 0)],
    "relu-l0": [(Relu(n_latents=30, l0=2.0, decoder="weighted"), 1)],
    "jumprelu-l0": [(JumpReLU(n_latents=30, l0=3.0, pre_act=0.01), 0)],
    "topk": [(TopK(n_latents=30, k=3, k_start=9, k_anneal=0.5), 0)],
    "batchtopk": [(BatchTopK(n_latents=30, k=3), 0)],
    "matryoshka": [(Matryoshka(n_latents=30, k=3, levels=(7, 16, 30)), 2)],
    "matryoshka-l1": [(Matryoshka(n_latents=30, l1=0.2, levels=(4, 30)), 2)],
    "members": [(Relu(n_latents=30, l1=l1), seed) for l1 in (0.1, 0.3, 1.0) for seed in (0, 1)],
    "two": [(Relu(n_latents=30, l1=0.3), seed) for seed in (0, 1)],
}


def trained(stack: list[Member], config: TrainConfig, processes: Processes, resume=None, stop: int | None = None):
    """The state at the end or after the step `stop`, with its division, and the records and dictionaries there."""
    [division] = divide([stack], processes)
    resumes = [None if resume is None else select_members(resume, division.members, division.latents)]
    for [state] in train_side_by_side([stack], SOURCE, config, resumes=resumes, divisions=[division]):
        if state.step == stop:
            break
    return division, state.checkpoint(), state.records(), state.dictionaries()


@pytest.mark.parametrize(
    ("name", "size"),
    [pytest.param(name, size, marks=[pytest.mark.slow] if size == 4 else []) for name in STACKS for size in (2, 3, 4)],
)
def test_divided_training_is_that_of_the_whole(name: str, size: int):
    """Up to the rounding of float32; in 40 steps no rounding moves a code over a threshold."""
    stack = STACKS[name]
    _, expected, records, dictionaries = trained(stack, SETTINGS, ALONE)
    found = run_as_processes(size, lambda processes: trained(stack, SETTINGS, processes))
    for division, checkpoint, of_process, _ in found:
        wanted = select_members(expected, division.members, division.latents)
        assert checkpoint.keys() == wanted.keys()
        for key, value in checkpoint.items():
            torch.testing.assert_close(value, wanted[key], rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
        for one, whole in zip(of_process, records, strict=True):
            assert one == pytest.approx(whole, rel=1e-4, abs=1e-5)
    assert [len(of_process) for *_, of_process in found] == [len(stack), *[0] * (size - 1)]
    for one, whole in zip(found[0][3], dictionaries, strict=True):
        for (key, value), wanted in zip(one.tensors().items(), whole.tensors().values(), strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
        assert one.card == whole.card


@pytest.mark.parametrize("name", ["relu", "matryoshka"])
def test_a_run_continues_on_another_number_of_processes(name: str):
    """Two processes, then three, then one."""
    stack = STACKS[name]

    def whole_of(found) -> dict[str, Tensor]:
        """The checkpoint of one process, from those of several that divide one member."""
        order = torch.cat([division.latents for division, *_ in found]).argsort()
        first = found[0][1]
        every = {key: [checkpoint[key] for _, checkpoint, *_ in found] for key in first}
        return {key: torch.cat(parts, 1)[:, order] if has_latents(key) else parts[0] for key, parts in every.items()}

    expected = trained(stack, SETTINGS, ALONE)[1]
    after_two = whole_of(run_as_processes(2, lambda p: trained(stack, SETTINGS, p, stop=10)))
    after_three = whole_of(run_as_processes(3, lambda p: trained(stack, SETTINGS, p, after_two, stop=20)))
    found = trained(stack, SETTINGS, ALONE, after_three)[1]
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_members_come_before_latents():
    def of(size: int, n_members: int) -> list[tuple[list[int], int]]:
        found = run_as_processes(size, lambda p: Division.of(n_members, 12, ARCHITECTURES["unit"], p))
        return [(list(division.members), len(division.latents)) for division in found]

    assert of(2, 4) == [([0, 2], 12), ([1, 3], 12)]
    assert of(4, 2) == [([0], 6), ([0], 6), ([1], 6), ([1], 6)]
    assert of(3, 2) == [([0, 1], 4)] * 3  # three processes have no two equal groups
    assert of(4, 5) == [([0, 4], 12), ([1], 12), ([2], 12), ([3], 12)]


def test_levels_are_divided_evenly():
    architecture = ARCHITECTURES["matryoshka"]
    found = run_as_processes(4, lambda p: Division.of(1, 70, architecture, p))
    assert [division.levels for division in found] == [(2, 4, 16), (2, 5, 18), (2, 5, 17), (3, 6, 19)]
    assert {division.most for division in found} == {19}


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match="the latents of one dictionary are not divided"):
        run_as_processes(2, lambda p: divide([[(MatchingPursuit(n_latents=12, k=2), 0)]], p))
    with pytest.raises(UserError, match="1 latents cannot be divided over 2 processes"):
        run_as_processes(2, lambda p: divide([[(Matryoshka(n_latents=16, k=2), 0)]], p))


def test_equal_codes_are_counted_once():
    """Of equal candidates the leftmost are kept, on whichever process they are, and `k` in all."""
    pre = torch.tensor(
        [[3.0, 1.0, 2.0, 2.0, 2.0, -1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [-1.0, 0.5, -2.0, -3.0, 0, -9]]
    )
    expected = torch.tensor([[3.0, 0, 2.0, 2.0, 0, 0], [1.0, 1.0, 1.0, 0, 0, 0], [0, 0.5, 0, 0, 0, 0]])

    def work(group: Processes) -> tuple[Tensor, Tensor]:
        own = pre.chunk(group.size, 1)[group.rank]
        dense = select_among_(own.clone(), Largest(3), group)
        kept = Reference().encode(own, torch.eye(own.shape[1]), torch.zeros(own.shape[1]), Largest(3))
        codes = keep_among(kept, Largest(3), group)
        return dense, to_dense(codes, own.shape[1])

    for size in (2, 3):
        found = run_as_processes(size, work)
        assert torch.equal(torch.cat([dense for dense, _ in found], 1), expected)
        assert torch.equal(torch.cat([sparse for _, sparse in found], 1), expected)


def to_dense(codes: Codes, n_latents: int) -> Tensor:
    dense = torch.zeros(len(codes.start) - 1, n_latents)
    row = torch.arange(len(dense)).repeat_interleave(codes.start.diff())
    dense[row, codes.latent.long()] = codes.value
    return dense
