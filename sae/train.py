"""The one training loop: a generator that yields its state, for a stack of dictionaries on shared batches.

Everything is a function of the configs and the seeds: batches of (source seed, step), initial values of the
member's seed, resampling of (seed, step). A run that is stopped at any step and resumed from a checkpoint
continues bit for bit. A member comes out the same whatever else is in its stack: to the bit where its tensors
are whole cache lines (``n_latents * d_in`` a multiple of 16, on a CPU), to rounding elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary
from sae.gradients import Workspace, backward, forward
from sae.kinds import Settings
from sae.liveness import count_silence_, resample_
from sae.schedule import trapezoid
from sae.source import Source
from sae.stack import Architecture, DictionaryConfig, Stack


class TrainConfig(Settings):
    """Settings of the training loop. Shares (`warm_up`, `decay`, ...) are of `steps`.

    `input_scale`: ``sqrt_d`` multiplies the input by ``sqrt(d_in) / E||x||``, so that one l1 means the same on
    every source; ``none`` leaves it. Both the scale and the mean are taken from the first `n_scale` rows.
    Latents that were silent for `dead_after` steps count as dead, and are resampled every `resample_every`
    steps (0: never) during the first share `resample_until`.
    """

    steps: int = Field(10_000, gt=0)
    batch_size: int = Field(1024, gt=0)
    lr: float = Field(1e-3, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    warm_up: float = Field(0.02, ge=0, le=1)
    decay: float = Field(0.2, ge=0, le=1)
    penalty_warm_up: float = Field(0.05, ge=0, le=1)
    input_scale: Literal["sqrt_d", "none"] = "sqrt_d"
    centre: bool = True
    n_scale: int = Field(32_768, gt=0)
    dead_after: int = Field(500, gt=0)
    resample_every: int = Field(1000, ge=0)
    resample_until: float = Field(0.6, ge=0, le=1)
    resample_pool: int = Field(8192, gt=0)
    log_every: int = Field(100, gt=0)


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
    silent_for: Int[Tensor, "n_members n_latents"]
    scale: float
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
        tensors = {f"parameter.{k}": v.detach().clone() for k, v in self.stack.parameters().items()}
        for name, pair in self.moments.items():
            tensors |= {f"moment{i}.{name}": moment.clone() for i, moment in enumerate(pair)}
        tensors["silent_for"] = self.silent_for.clone()
        return tensors | {
            "step": torch.tensor(self.step),
            "scale": torch.tensor(self.scale, dtype=torch.float64),
        }

    def dictionaries(self) -> list[Dictionary]:
        """The dictionaries as they are now, in raw units, on the CPU."""
        return [
            config.architecture().build({k: v.cpu() for k, v in self.stack.member(i).items()}, self.scale)
            for i, (config, _) in enumerate(self.members)
        ]


def select_members(checkpoint: Mapping[str, Tensor], members: Sequence[int]) -> dict[str, Tensor]:
    """The checkpoint of some members of a stack, as if they had been trained without the others."""
    keep = list(members)
    return {name: tensor[keep] if tensor.ndim else tensor for name, tensor in checkpoint.items()}


def train(
    members: Sequence[Member],
    source: Source,
    config: TrainConfig,
    device: str = "cpu",
    resume: Mapping[str, Tensor] | None = None,
) -> Iterator[State]:
    """Trains a stack and yields its state every ``config.log_every`` steps and at the end.

    The members share a shape and an architecture, and differ in their coefficient and seed. Adam (Kingma and
    Ba 2015); where the architecture holds decoder rows at unit norm, the part of the gradient along the row
    is projected out before the step and the row renormalised after it (Bricken et al. 2023).
    """
    architecture = members[0][0].architecture()
    state = _start(members, source, config, device) if resume is None else _restore(members, config, device, resume)
    stack = state.stack
    full = torch.tensor([c.coefficient for c, _ in members], dtype=torch.float32, device=device)
    optimizer = _adam(stack, state, config)
    work = Workspace.for_stack(stack, config.batch_size)
    if state.step == config.steps:
        yield state

    for step in range(state.step, config.steps):
        x = source.batch(step, config.batch_size).acts.to(device, torch.float32) * state.scale
        lr = config.lr * trapezoid(step, config.steps, config.warm_up, config.decay)
        coefficient = full * trapezoid(step, config.steps, config.penalty_warm_up, 0.0)

        forward(stack, architecture, x, work.z, work.residual)
        z_sum, penalty = backward(stack, architecture, x, coefficient, work)
        count_silence_(state.silent_for, z_sum)
        _update(stack, architecture, members[0][0].decoder_bias, optimizer, work, lr)

        state.step = step + 1
        if _resamples_after(state.step, config):
            _resample(state, architecture, source, config)
        if state.step % config.log_every == 0 or state.step == config.steps:
            state.figures = _figures(work, penalty, coefficient, state.silent_for >= config.dead_after, lr)
            yield state


def _start(members: Sequence[Member], source: Source, config: TrainConfig, device: str) -> State:
    mean, scale = _moments_of_input(source, config)
    centre = mean * scale if config.centre and members[0][0].decoder_bias else torch.zeros_like(mean)
    n_latents = members[0][0].n_latents
    stack = Stack.initialise([seed for _, seed in members], source.d_in, n_latents, centre, device)
    moments = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in stack.parameters().items()}
    silent = torch.zeros(stack.n_members, n_latents, dtype=torch.int32, device=device)
    return State(0, config.steps, config.batch_size, members, stack, moments, silent, scale, {})


def _moments_of_input(source: Source, config: TrainConfig) -> tuple[Float[Tensor, " d_in"], float]:
    """The mean of the first training rows and the input scale, both accumulated in float64."""
    batches = -(-config.n_scale // config.batch_size)
    total, norm, rows = torch.zeros(source.d_in, dtype=torch.float64), 0.0, 0
    for step in range(batches):
        x = source.batch(step, config.batch_size).acts.double().cpu()
        total += x.sum(0)
        norm += float(x.norm(dim=-1).sum())
        rows += len(x)
    scale = source.d_in**0.5 / (norm / rows) if config.input_scale == "sqrt_d" and norm > 0 else 1.0
    return (total / rows).float(), scale


def _restore(members: Sequence[Member], config: TrainConfig, device: str, saved: Mapping[str, Tensor]) -> State:
    tensor = {name: value.to(device).clone() for name, value in saved.items()}
    stack = Stack(**{name: tensor[f"parameter.{name}"] for name in Stack.NAMES})
    moments = {name: [tensor[f"moment{i}.{name}"] for i in (0, 1)] for name in Stack.NAMES}
    step, scale = int(saved["step"]), float(saved["scale"])
    return State(step, config.steps, config.batch_size, members, stack, moments, tensor["silent_for"], scale, {})


def _adam(stack: Stack, state: State, config: TrainConfig) -> torch.optim.Adam:
    """Torch's fused Adam over the stack's parameters, holding the state's moments."""
    parameters = stack.parameters()
    adam = torch.optim.Adam(parameters.values(), lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
    for name, p in parameters.items():
        taken = torch.tensor(float(state.step), device=p.device)
        adam.state[p] = {"step": taken, "exp_avg": state.moments[name][0], "exp_avg_sq": state.moments[name][1]}
    return adam


def _update(
    stack: Stack,
    architecture: Architecture,
    decoder_bias: bool,
    adam: torch.optim.Adam,
    work: Workspace,
    lr: float,
) -> None:
    gradient = work.gradients
    if not decoder_bias:
        gradient["b_dec"].zero_()
    if architecture.unit_rows:
        along = (gradient["W_dec"] * stack.W_dec).sum(-1, keepdim=True)
        gradient["W_dec"].addcmul_(along, stack.W_dec, value=-1)
    for name, p in stack.parameters().items():
        p.grad = gradient[name]
    adam.param_groups[0]["lr"] = lr
    adam.step()
    if architecture.unit_rows:
        stack.W_dec /= stack.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _resamples_after(step: int, config: TrainConfig) -> bool:
    every = config.resample_every
    return every > 0 and step % every == 0 and step <= config.resample_until * config.steps


def _resample(state: State, architecture: Architecture, source: Source, config: TrainConfig) -> None:
    """Resamples dead latents on the rows of the coming steps, `resample_pool` of them or a little more."""
    dead = state.silent_for >= config.dead_after
    if not bool(dead.any()):
        return
    stack, batch = state.stack, config.batch_size
    pieces: list[Tensor] = []
    errors: list[Tensor] = []
    work = Workspace.for_stack(stack, batch)
    for k in range(-(-config.resample_pool // batch)):
        x = source.batch(state.step + k, batch).acts.to(stack.W_dec.device, torch.float32) * state.scale
        _, residual = forward(stack, architecture, x, work.z, work.residual)
        pieces.append(x)
        errors.append(residual.square().sum(-1))
    seeds = [seed for _, seed in state.members]
    resample_(stack, state.moments, dead, torch.cat(pieces), torch.cat(errors, 1), seeds, state.step)
    state.silent_for.masked_fill_(dead, 0)


def _figures(
    work: Workspace, penalty: Tensor, coefficient: Tensor, dead: Tensor, lr: float
) -> dict[str, Tensor | float]:
    mse = work.residual.square().sum(-1).mean(-1)
    l0 = (work.z > 0).sum(-1, dtype=torch.float32).mean(-1)
    figures = {"loss": mse + penalty, "mse": mse, "penalty": penalty, "l0": l0, "coefficient": coefficient}
    return {**figures, "dead": dead.float().mean(-1), "lr": lr}
