"""The training loop: a generator that yields its state, for a stack of dictionaries on shared batches.

Everything is a function of the configs and the seeds: batches of (source seed, step), initial values of the
member's seed, resampling of (seed, step). A run that is stopped at any step and resumed from a checkpoint
continues bit for bit. A member trains the same in any stack: on a CPU to the bit where its tensors are whole cache
lines (``n_latents * d_in`` a multiple of 16), and to rounding elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import cache

import torch
from torch import Tensor

from sae.numerics.memory import check_memory
from sae.numerics.processes import ALONE, Processes
from sae.numerics.profiler import NO_SPANS, Spans
from sae.numerics.schedules import trapezoid
from sae.source import Source
from sae.training.config import TrainConfig
from sae.training.dead_latents import count_steps_since_fired_, resample_
from sae.training.division import Division
from sae.training.engine import Engine
from sae.training.frequency_order import follow_frequency_
from sae.training.gradients import Terms
from sae.training.input_scaling import InputStatistics
from sae.training.kernels import Adam
from sae.training.l0_controller import Control
from sae.training.prefetch import Pair, batches_of
from sae.training.selection import thresholds_of_batch
from sae.training.state import Member, State


def train(
    members: Sequence[Member],
    source: Source,
    config: TrainConfig,
    device: str = "cpu",
    resume: Mapping[str, Tensor] | None = None,
    spans: Spans = NO_SPANS,
) -> Iterator[State]:
    """Trains a stack and yields its state every ``config.log_every`` steps and at the end.

    The members share a shape and an architecture, and differ in the penalty's weight and the seed. `resume` is a
    checkpoint to continue from. The optimizer is Adam (Kingma and Ba 2015); where the architecture holds decoder rows
    at unit norm, the gradient's component along a row is removed before the step and the row is normalised after it
    (Bricken et al. 2023). Raises `UserError` where the settings do not fit the source.
    """
    for [state] in train_side_by_side([members], source, config, device, [resume], spans):
        yield state


def train_side_by_side(
    stacks: Sequence[Sequence[Member]],
    source: Source | Sequence[Source],
    config: TrainConfig,
    device: str = "cpu",
    resumes: Sequence[Mapping[str, Tensor] | None] | None = None,
    spans: Spans = NO_SPANS,
    divisions: Sequence[Division] | None = None,
) -> Iterator[list[State]]:
    """Trains stacks of different shapes or architectures in one pass over the data, each as it would train alone.

    With a sequence of sources, each stack trains on its own. Yields the states of all stacks; the checkpoints `resumes`
    must be of the same step. Where the stacks are divided over processes, `divisions` are the parts of this process,
    and a checkpoint has the members and latents of its division.
    """
    sources = [source] * len(stacks) if isinstance(source, Source) else source
    divisions = divide(stacks, ALONE) if divisions is None else divisions
    _check_sizes(stacks, sources, config, device, divisions)
    resumes = resumes or [None] * len(stacks)
    # Measured at most once for each source, and only if a stack does not resume.
    scaling = config.input_scale, config.centre == "median"

    @cache
    def statistics(of: Source) -> InputStatistics:
        return InputStatistics.measure(of, config.n_scale, config.batch_size, *scaling)

    states = [
        State.initial(members, of, config, device, statistics(of), division)
        if resume is None
        else State.restored(members, of, config, device, resume, division)
        for members, of, resume, division in zip(stacks, sources, resumes, divisions, strict=True)
    ]
    assert len({state.step for state in states}) == 1, "stacks that train side by side are at the same step"
    trainers = [_Trainer(state, config, spans) for state in states]
    step = states[0].step
    if step == config.steps:
        yield states
        return
    coming, size, distinct = range(step, config.steps), config.batch_size, list(dict.fromkeys(sources))
    with ExitStack() as stack:
        for each in distinct:
            stack.enter_context(each.reading(config.steps * size))
        batches = {
            each: stack.enter_context(closing(batches_of(each, coming, size, device, spans=spans))) for each in distinct
        }
        while step < config.steps:
            with spans("data"):
                pairs = {each: next(batches[each]) for each in distinct}
            step += 1
            logged = step % config.log_every == 0 or step == config.steps
            for trainer, of in zip(trainers, sources, strict=True):
                trainer.step(pairs[of], of, logged)
            if logged:
                yield states


def divide(stacks: Sequence[Sequence[Member]], processes: Processes) -> list[Division]:
    """The part of each stack that this process trains. Raises `UserError` where a stack cannot be divided."""
    firsts = [members[0][0] for members in stacks]
    return [
        Division.of(len(members), first.n_latents, first.architecture(0.0), processes)
        for members, first in zip(stacks, firsts, strict=True)
    ]


def _check_sizes(
    stacks: Sequence[Sequence[Member]],
    sources: Sequence[Source],
    config: TrainConfig,
    device: str,
    divisions: Sequence[Division],
) -> None:
    """Raises `UserError` where a batch, or the parameters, cannot fit in memory."""
    for members, source, division in zip(stacks, sources, divisions, strict=True):
        row = 4 * (source.d_in + (0 if source.truth is None else len(source.truth.directions)))
        check_memory(f"train.batch_size = {config.batch_size}", config.batch_size * row)
        check_memory(f"train.n_scale = {config.n_scale}", config.n_scale * row)
        if config.resample_every:
            check_memory(f"train.resample_pool = {config.resample_pool}", config.resample_pool * row)
        n_latents = members[0][0].n_latents
        # Encoder and decoder, each with both moments of Adam.
        needed = len(division.members) * 3 * 2 * 4 * len(division.latents) * source.d_in
        check_memory(f"n_latents = {n_latents} in a stack of {len(members)}", needed, device)


class _Trainer:
    """Trains one stack."""

    def __init__(self, state: State, config: TrainConfig, spans: Spans) -> None:
        self.state, self.config, self.spans = state, config, spans
        configs, like = [member for member, _ in state.own_members], state.factor
        self.first, division = configs[0], state.division
        self.coefficient = torch.tensor([c.coefficient for c in configs]).to(like)
        target = torch.tensor([c.target_l0 or torch.nan for c in configs]).to(like)
        controlled = torch.tensor([c.controlled for c in configs], device=like.device)
        counts = torch.tensor([c.counts for c in configs], device=like.device)
        controlled_target = torch.where(controlled, target, torch.full_like(target, torch.nan))
        self.control = Control(controlled_target, counts, state.integral, state.smooth_l0, config.steps)
        self.controls = self.control.is_active
        self.engine = Engine(
            state.stack,
            state.moments,
            state.is_sparse,
            division.local(self.first.architecture(state.step / config.steps)),
            config.batch_size,
            decoder_bias=self.first.decoder_bias,
            precision=config.precision,
            spans=spans,
            target_l0=target,
            keep_near=config.keep_near,
            aligned=config.aligned,
            division=division,
        )

    def step(self, pair: Pair, source: Source, logged: bool) -> None:
        """One step on a batch of raw activations."""
        state, config = self.state, self.config
        lr = config.lr * trapezoid(state.step, config.steps, config.warm_up, config.decay)
        warm = trapezoid(state.step, config.steps, config.penalty_warm_up, 0.0)
        with self.spans("bookkeeping"):
            x, y = state.scaling(pair)
            architecture = self.first.architecture(state.step / config.steps)
            state.factor *= self.engine.anneal(state.division.local(architecture), x)
        coefficient = self.coefficient * state.factor * self.control.weight(state.step / config.steps) * warm
        state.step += 1
        adam, constant_rate = (Adam.at(state.step, rate, config.beta1, config.beta2) for rate in (lr, config.lr))
        terms = self.engine.step(
            x,
            state.step,
            adam,
            coefficient,
            count=logged or self.controls,
            y=y,
            dead=state.dead,
            constant_rate=constant_rate,
        )
        with self.spans("bookkeeping"):
            count_steps_since_fired_(state.steps_since_fired, terms.fired)
            if self.controls and warm == 1:
                self.control.follow_(terms.l0, state.step / config.steps)
            if self.first.resampled and _resamples_after(state.step, config):
                _resample(state, self.engine, source, config)
            if state.frequency is not None and follow_frequency_(state, terms.frequency):
                self.engine.refresh()
            # The average is shorter during the first steps, so that it forgets the initial values.
            keep = min(config.average, (1 + state.step) / (10 + state.step))
            for name, average in state.average.items():
                average.lerp_(state.stack.parameters()[name], 1 - keep)
            if state.step == config.steps:
                self._calibrate(source)
            if logged:
                dead = state.dead.float().sum(-1)
                state.division.group.sum_(dead)
                state.logged_values = _logged_values(terms, coefficient, dead / state.division.n_latents, lr)

    def _calibrate(self, source: Source) -> None:
        """Scales a member's thresholds by one factor to meet a controlled target on the pool of coming samples."""
        if not any(member.counts and member.controlled for member, _ in self.state.members):
            return
        pool, group = _pool(self.state, source, self.config), self.state.division.group
        for i in (self.control.counts & ~self.control.target.isnan()).nonzero()[:, 0].tolist():
            member, target = self.state.result().part(i, i + 1), float(self.control.target[i])
            ratios = list[Tensor]()
            for x, _ in pool:
                pre = torch.addmm(member.b_enc[0], x - member.subtracted[0], member.W_enc[0].T)
                ratio = (pre / member.latent_parameters["threshold"][0].clamp_min(1e-12)).clamp_min(0).flatten()
                ratios.append(ratio.topk(min(len(ratio), round(4 * target * len(x)))).values)
            n_active = round(target * sum(len(x) for x, _ in pool))
            [factor], _ = thresholds_of_batch([torch.cat(ratios)], n_active, group)
            member.latent_parameters["threshold"].mul_(factor.clamp(0.5, 2))


def _resamples_after(step: int, config: TrainConfig) -> bool:
    every = config.resample_every
    return every > 0 and step % every == 0 and step <= config.resample_until * config.steps


def _resample(state: State, engine: Engine, source: Source, config: TrainConfig) -> None:
    """Resamples dead latents on the pool of coming samples."""
    dead, division = state.dead, state.division
    if not division.processes.any(dead.any()):  # those who have no dead latent take part in reading the pool
        return
    pieces = _pool(state, source, config)
    errors = torch.cat([engine.errors(*piece) for piece in pieces], 1)
    pool = Pair(*(torch.cat(part) for part in zip(*pieces, strict=True)))
    resample_(
        state.stack,
        state.moments,
        dead,
        pool,
        errors,
        seeds=[seed for _, seed in state.own_members],
        step=state.step,
        latents=division.latents,
        group=division.group,
    )
    state.stack.keep_near_(config.keep_near)
    if config.aligned:
        state.stack.align_()
    for name, value in state.members[0][0].architecture(0.0).initial_values.items():
        state.stack.latent_parameters[name].masked_fill_(dead, value)
        for moment in state.moments[name]:
            moment.masked_fill_(dead, 0.0)
    engine.refresh()
    state.steps_since_fired.masked_fill_(dead, 0)


def _pool(state: State, source: Source, config: TrainConfig) -> list[Pair]:
    """The scaled samples of the coming steps, at least `resample_pool` of them, in batches."""
    batch, device = config.batch_size, str(state.stack.W_dec.device)
    coming = range(state.step, state.step + -(-config.resample_pool // batch))
    with closing(batches_of(source, coming, batch, device, workers=0)) as batches:
        return [state.scaling(pair) for pair in batches]


def _logged_values(terms: Terms, coefficient: Tensor, dead: Tensor, lr: float) -> dict[str, Tensor | float]:
    return {
        "loss": terms.loss,
        "mse": terms.mse,
        "penalty": terms.penalty,
        "l0": terms.l0,
        "coefficient": coefficient,
        "dead": dead,
        "lr": lr,
    }
