"""The one training loop: a generator that yields its state, for a stack of dictionaries on shared batches.

Everything is a function of the configs and the seeds: batches of (source seed, step), initial values of the
member's seed, resampling of (seed, step). A run that is stopped at any step and resumed from a checkpoint
continues bit for bit. A member comes out the same whatever else is in its stack: on a CPU to the bit, where its
tensors are whole cache lines (``n_latents * d_in`` a multiple of 16), and to rounding elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BeforeValidator, Field
from torch import Tensor

from sae.architecture import DictionaryConfig
from sae.dense import bar_of
from sae.dictionary import Dictionary
from sae.engine import Engine, Precision
from sae.gradient import Terms
from sae.kernels import Adam
from sae.kinds import Settings
from sae.liveness import count_silence_, resample_
from sae.prefetch import Pair, batches_of
from sae.schedule import trapezoid
from sae.source import Source
from sae.spans import NO_SPANS, Spans
from sae.sparsity import Control
from sae.stack import Stack, Start
from sae.units import Beginning, Scaling, Units


def _centre(given: Any) -> Any:
    """Yes and no, as they were once given."""
    return {True: "mean", False: "none"}[given] if isinstance(given, bool) else given


class TrainConfig(Settings):
    """Settings of the training loop. Shares (`warm_up`, `decay`, ...) are of `steps`.

    `input_scale` is told in :mod:`sae.units`; it and what b_dec begins at (`centre`: the mean or the geometric median)
    are taken from the first `n_scale` rows, and so are decoder rows with ``start = "data"``. With `average`, what comes
    out is a moving average of the parameters with this factor a step (Polyak and Juditsky 1992).
    Latents that were silent for `dead_after` steps count as dead, and are resampled every `resample_every`
    steps (0: never) during the first share `resample_until`. `precision` is that of the encoder's product
    once codes are sparse: ``screen`` finds the candidates in bfloat16 and computes their codes in float32, so that
    codes are those of ``float32``; ``bfloat16`` takes the rounded product for the codes. Encoder rows begin at the norm
    `encoder_norm`; .1, where other libraries begin, finds features in fewer steps on wide dictionaries.
    """

    steps: int = Field(10_000, gt=0)
    batch_size: int = Field(1024, gt=0)
    lr: float = Field(1e-3, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    warm_up: float = Field(0.02, ge=0, le=1)
    decay: float = Field(0.2, ge=0, le=1)
    penalty_warm_up: float = Field(0.05, ge=0, le=1)
    input_scale: Scaling = "sqrt_d"
    centre: Annotated[Literal["mean", "median", "none"], BeforeValidator(_centre)] = "mean"
    start: Start = "random"
    average: float = Field(0.0, ge=0, lt=1)
    n_scale: int = Field(32_768, gt=0)
    dead_after: int = Field(500, gt=0)
    resample_every: int = Field(1000, ge=0)
    resample_until: float = Field(0.6, ge=0, le=1)
    resample_pool: int = Field(8192, gt=0)
    log_every: int = Field(100, gt=0)
    precision: Precision = "float32"
    encoder_norm: float = Field(0.1, gt=0)


Member = tuple[DictionaryConfig, int]
"""A dictionary's settings and its seed."""


@dataclass
class State:
    """Where training stands after `step` steps; yielded by :func:`train`."""

    step: int
    steps: int
    batch_size: int
    members: Sequence[Member]
    stack: Stack
    moments: Mapping[str, list[Tensor]]
    average: Mapping[str, Tensor]
    factor: Float[Tensor, " n_members"]
    integral: Float[Tensor, " n_members"]
    smooth_l0: Float[Tensor, " n_members"]
    silent_for: Int[Tensor, "n_members n_latents"]
    is_sparse: Bool[Tensor, " n_members"]
    units: Units
    figures: dict[str, Tensor | float]

    def records(self) -> list[dict[str, float | int]]:
        """The figures of the last step, one mapping a member."""
        return [
            {
                "step": self.step,
                "samples": self.step * self.batch_size,
                **{k: float(v[i]) if isinstance(v, Tensor) else v for k, v in self.figures.items()},
            }
            for i in range(len(self.members))
        ]

    def checkpoint(self) -> dict[str, Tensor]:
        """Everything that the rest of the run depends on; per-member tensors lead with the member axis."""
        tensors = {f"parameter.{k}": v.detach().clone() for k, v in self.stack.tensors().items()}
        for name, pair in self.moments.items():
            tensors |= {f"moment{i}.{name}": moment.clone() for i, moment in enumerate(pair)}
        return tensors | {
            "factor": self.factor.clone(),
            "integral": self.integral.clone(),
            "smooth_l0": self.smooth_l0.clone(),
            "silent_for": self.silent_for.clone(),
            "is_sparse": self.is_sparse.clone(),
            "step": torch.tensor(self.step),
            **{f"average.{k}": v.clone() for k, v in self.average.items()},
            **{f"units.{k}": v for k, v in self.units.tensors().items()},
        }

    def result(self) -> Stack:
        """The parameters that dictionaries are made of, as views: their average, where one is kept."""
        return Stack.of({**self.stack.tensors(), **self.average})

    def dictionaries(self) -> list[Dictionary]:
        """The dictionaries as they are now, in raw units, on the CPU."""
        stack = self.result()
        return [
            config.architecture().build(*self.units.folded({k: v.cpu() for k, v in stack.member(i).items()}))
            for i, (config, _) in enumerate(self.members)
        ]


def select_members(checkpoint: Mapping[str, Tensor], members: Sequence[int]) -> dict[str, Tensor]:
    """The checkpoint of some members of a stack, as if they had been trained without the others."""
    keep = list(members)
    shared = ("step", "units.")
    return {name: t if name.startswith(shared) else t[keep] for name, t in checkpoint.items()}


def train(
    members: Sequence[Member],
    source: Source,
    config: TrainConfig,
    device: str = "cpu",
    resume: Mapping[str, Tensor] | None = None,
    spans: Spans = NO_SPANS,
) -> Iterator[State]:
    """Trains a stack and yields its state every ``config.log_every`` steps and at the end.

    The members share a shape and an architecture, and differ in their coefficient and seed. Adam (Kingma and
    Ba 2015); where the architecture holds decoder rows at unit norm, the part of the gradient along the row
    is projected out before the step and the row renormalised after it (Bricken et al. 2023).
    """
    for [state] in train_side_by_side([members], source, config, device, [resume], spans):
        yield state


def train_side_by_side(
    stacks: Sequence[Sequence[Member]],
    source: Source,
    config: TrainConfig,
    device: str = "cpu",
    resumes: Sequence[Mapping[str, Tensor] | None] | None = None,
    spans: Spans = NO_SPANS,
) -> Iterator[list[State]]:
    """Trains stacks of different shapes or architectures in one pass over the data, each as it would be alone.

    Yields the states of all; checkpoints to `resumes` must be of the same step.
    """
    resumes = resumes or [None] * len(stacks)
    # Looked at once, and only where a stack begins.
    scaling = config.input_scale, config.centre == "median"
    beginning = cache(lambda: Beginning.of(source, config.n_scale, config.batch_size, *scaling))
    states = [
        _start(members, source, config, device, beginning())
        if resume is None
        else _restore(members, config, device, resume)
        for members, resume in zip(stacks, resumes, strict=True)
    ]
    assert len({state.step for state in states}) == 1, "stacks side by side stand at the same step"
    teams = [_Team(state, config, spans) for state in states]
    step = states[0].step
    if step == config.steps:
        yield states
    coming = range(step, config.steps)
    with closing(batches_of(source, coming, config.batch_size, device, spans=spans)) as batches:
        while step < config.steps:
            with spans("data"):
                pair = next(batches)
            step += 1
            logged = step % config.log_every == 0 or step == config.steps
            for team in teams:
                team.step(pair, source, logged)
            if logged:
                yield states


class _Team:
    """A stack in training."""

    def __init__(self, state: State, config: TrainConfig, spans: Spans) -> None:
        self.state, self.config, self.spans = state, config, spans
        configs, like = [member for member, _ in state.members], state.factor
        self.first = configs[0]
        self.full = torch.tensor([c.coefficient for c in configs]).to(like)
        target = torch.tensor([c.target_l0 or torch.nan for c in configs]).to(like)
        controlled = torch.tensor([c.controlled for c in configs], device=like.device)
        free = torch.full_like(target, torch.nan)
        counts = torch.tensor([c.counts for c in configs], device=like.device)
        wanted = torch.where(controlled, target, free)
        self.control = Control(wanted, counts, state.integral, state.smooth_l0, config.steps)
        self.controls = self.control.at_work
        self.engine = Engine(
            state.stack,
            state.moments,
            state.is_sparse,
            self.first.architecture(state.step / config.steps),
            config.batch_size,
            decoder_bias=self.first.decoder_bias,
            precision=config.precision,
            spans=spans,
            target_l0=target,
        )

    def step(self, pair: Pair, source: Source, logged: bool) -> None:
        """One step on rows in raw units."""
        state, config = self.state, self.config
        lr = config.lr * trapezoid(state.step, config.steps, config.warm_up, config.decay)
        warm = trapezoid(state.step, config.steps, config.penalty_warm_up, 0.0)
        with self.spans("bookkeeping"):
            x, y = state.units(pair)
            state.factor *= self.engine.anneal(self.first.architecture(state.step / config.steps), x)
        coefficient = self.full * state.factor * self.control.weight(state.step / config.steps) * warm
        state.step += 1
        adam, steady = (Adam.at(state.step, rate, config.beta1, config.beta2) for rate in (lr, config.lr))
        dead = state.silent_for >= config.dead_after
        terms = self.engine.step(x, state.step, adam, coefficient, logged or self.controls, y, dead, steady)
        with self.spans("bookkeeping"):
            count_silence_(state.silent_for, terms.fired)
            if self.controls and warm == 1:
                self.control.follow_(terms.l0, state.step / config.steps)
            if self.first.resampled and _resamples_after(state.step, config):
                _resample(state, self.engine, source, config)
            # The first steps count less, or the beginning would be remembered for too long.
            keep = min(config.average, (1 + state.step) / (10 + state.step))
            for name, average in state.average.items():
                average.lerp_(state.stack.parameters()[name], 1 - keep)
            if state.step == config.steps:
                self._calibrate(source)
            if logged:
                state.figures = _figures(terms, coefficient, state.silent_for >= config.dead_after, lr)

    def _calibrate(self, source: Source) -> None:
        """Has thresholds that were controlled meet the target on the pool of the coming rows, by one factor for all."""
        for i in (self.control.counts & ~self.control.target.isnan()).nonzero()[:, 0].tolist():
            own, target = self.state.result().part(i, i + 1), float(self.control.target[i])
            ratios = list[Tensor]()
            pool = _pool(self.state, source, self.config)
            for x, _ in pool:
                pre = torch.addmm(own.b_enc[0], x - own.subtracted[0], own.W_enc[0].T)
                ratio = (pre / own.own["threshold"][0].clamp_min(1e-12)).clamp_min(0).flatten()
                ratios.append(ratio.topk(min(len(ratio), round(4 * target * len(x)))).values)
            factor = bar_of(torch.cat(ratios), round(target * sum(len(x) for x, _ in pool)))
            own.own["threshold"].mul_(factor.clamp(0.5, 2))


def _start(members: Sequence[Member], source: Source, config: TrainConfig, device: str, beginning: Beginning) -> State:
    first, seeds = members[0][0], [seed for _, seed in members]
    centred = config.centre != "none"
    centre, target = (
        part if centred else torch.zeros_like(part) for part in (beginning.centre, beginning.target_centre)
    )
    b_dec = target if first.decoder_bias else torch.zeros_like(target)
    stack = Stack.initialise(seeds, first.n_latents, b_dec, device, config.start, beginning.rows)
    stack.W_enc *= config.encoder_norm
    if source.has_targets:
        stack.centre = centre.to(device).repeat(len(seeds), 1)
    begins = first.architecture(0.0).begins
    stack.own = {name: torch.full_like(stack.b_enc, value) for name, value in begins.items()}
    zeros = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in stack.parameters().items()}
    silent = torch.zeros(stack.n_members, first.n_latents, dtype=torch.int32, device=device)
    dense = torch.zeros(stack.n_members, dtype=torch.bool)
    factor, integral, smooth = torch.ones_like(stack.bar), torch.zeros_like(stack.bar), torch.zeros_like(stack.bar)
    average = {name: p.clone() for name, p in stack.parameters().items()} if config.average else {}
    held = average, factor, integral, smooth, silent, dense
    return State(0, config.steps, config.batch_size, members, stack, zeros, *held, beginning.units, {})


def _restore(members: Sequence[Member], config: TrainConfig, device: str, saved: Mapping[str, Tensor]) -> State:
    tensor = {name: value.to(device).clone() for name, value in saved.items()}

    def of(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensor.items() if name.startswith(prefix)}

    stack = Stack.of(of("parameter."))
    moments = {name: [tensor[f"moment{i}.{name}"] for i in (0, 1)] for name in stack.parameters()}
    held = tensor["factor"], tensor["integral"], tensor["smooth_l0"], tensor["silent_for"], saved["is_sparse"].clone()
    step, units = int(saved["step"]), Units.of(of("units."))
    return State(step, config.steps, config.batch_size, members, stack, moments, of("average."), *held, units, {})


def _resamples_after(step: int, config: TrainConfig) -> bool:
    every = config.resample_every
    return every > 0 and step % every == 0 and step <= config.resample_until * config.steps


def _resample(state: State, engine: Engine, source: Source, config: TrainConfig) -> None:
    """Resamples dead latents on the pool of the coming rows."""
    dead = state.silent_for >= config.dead_after
    if not bool(dead.any()):
        return
    pieces = _pool(state, source, config)
    errors = torch.cat([engine.errors(*piece) for piece in pieces], 1)
    x, y = (torch.cat(part) for part in zip(*pieces, strict=True))
    seeds = [seed for _, seed in state.members]
    resample_(state.stack, state.moments, dead, x, y, errors, seeds, state.step)
    for name, value in state.members[0][0].architecture(0.0).begins.items():
        for numbers, to in ((state.stack.own[name], value), *((moment, 0.0) for moment in state.moments[name])):
            numbers.masked_fill_(dead, to)
    engine.refresh()
    state.silent_for.masked_fill_(dead, 0)


def _pool(state: State, source: Source, config: TrainConfig) -> list[Pair]:
    """The rows of the coming steps, `resample_pool` of them or a little more."""
    batch, device = config.batch_size, str(state.stack.W_dec.device)
    coming = range(state.step, state.step + -(-config.resample_pool // batch))
    with closing(batches_of(source, coming, batch, device, workers=0)) as batches:
        return [state.units(pair) for pair in batches]


def _figures(terms: Terms, coefficient: Tensor, dead: Tensor, lr: float) -> dict[str, Tensor | float]:
    return {
        "loss": terms.loss,
        "mse": terms.mse,
        "penalty": terms.penalty,
        "l0": terms.l0,
        "coefficient": coefficient,
        "dead": dead.float().mean(-1),
        "lr": lr,
    }
