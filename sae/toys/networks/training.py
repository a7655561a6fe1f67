"""Training of many toy networks at once.

All instances see the same batches, like the members of a stack of dictionaries, so an instance is trained the same,
up to rounding, whatever other instances are in the stack. Instances with different feature distributions get samples
of their own distribution from the same random numbers. The loss is the sum over instances, so gradients do not mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.numerics.seeds import generator
from sae.source import Split
from sae.toys.features.law import Law
from sae.toys.networks.model import ForwardPass, Networks
from sae.toys.networks.settings import TrainingConfig
from sae.toys.networks.tasks import FeatureTask

N_LOGGED = 100
"""About how often training yields its state."""
_PIECE = 2048
"""Samples measured at once; the same for any number of instances, so that all are measured on the same samples."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples of features for a toy network, a pure function of (seed, split, step)."""

    law: Law
    """The distribution of the codes."""
    seed: int
    """Seed of the samples."""
    signed: bool = False
    """Whether each code gets a random sign."""
    unit: bool = False
    """Whether samples are scaled to length one."""

    def rows(self, step: int, size: int, split: Split = "train") -> Float[Tensor, "size n_features"]:
        draw = generator("network", self.seed, split, step)
        x = self.law.codes(size, draw)
        if self.signed:
            x = x * (1 - 2 * torch.randint(2, x.shape, generator=draw).float())
        return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12) if self.unit else x


@dataclass(frozen=True, eq=False)
class Population:
    """The inputs, task and per-instance settings of the instances that are trained together."""

    task: FeatureTask
    """The function that the networks learn."""
    inputs: Sequence[Inputs]
    """The different distributions of inputs."""
    which: Int[Tensor, " n_instances"]
    """Index into `inputs` for each instance."""
    importance: Float[Tensor, "n_instances n_outputs"]
    """Weight of each output in the loss of each instance."""
    dropout: Float[Tensor, " n_instances"]
    """Dropout probability of each instance."""
    hidden_l1: Float[Tensor, " n_instances"]
    """Weight of the L1 penalty on the hidden layers of each instance."""
    weight_decay: Float[Tensor, " n_instances"]
    """Weight decay of each instance."""

    def rows(self, step: int, size: int, split: Split = "train") -> Float[Tensor, "#n_instances size n_features"]:
        """The samples of every instance; a leading axis of 1 if all have the same."""
        x = torch.stack([inputs.rows(step, size, split) for inputs in self.inputs])
        return x if len(x) == 1 else x[self.which]

    def loss(
        self, result: ForwardPass, x: Float[Tensor, "#n_instances batch n_features"]
    ) -> Float[Tensor, " n_instances"]:
        """The mean squared error of every instance over samples and outputs, weighted by importance, or the mean
        cross-entropy over samples."""
        target = self.task.target(x)
        if self.task.loss == "cross_entropy":
            return -(target * result.output.log_softmax(-1)).sum(-1).mean(-1)
        error = (result.output - target).square().mean(1)
        return (error * self.importance).mean(-1)

    def penalty(self, result: ForwardPass) -> Float[Tensor, " n_instances"]:
        """The weighted mean L1 norm of the hidden layers."""
        return self.hidden_l1 * torch.stack([h.abs().sum(-1).mean(-1) for h in result.hidden]).sum(0)

    @cached_property
    def uses_dropout(self) -> bool:
        return bool(self.dropout.any())

    def dropout_layer(self, draw: torch.Generator) -> Callable[[Tensor], Tensor] | None:
        """Inverted dropout with the same random numbers for every instance; None if no instance uses dropout."""
        if not self.uses_dropout:
            return None
        p = self.dropout[:, None, None]

        def drop(h: Tensor) -> Tensor:
            return h * (torch.rand(h.shape[1:], generator=draw) >= p) / (1 - p)

        return drop


@dataclass(frozen=True, eq=False)
class NetworkState:
    """State of the training of a stack of networks."""

    step: int
    """Number of steps made."""
    networks: Networks
    """The networks after these steps, sharing memory with those in training."""
    loss: Float[Tensor, " n_instances"]
    """The loss on the batch of this step; at the end, on the last batch without dropout."""


def train_networks(networks: Networks, population: Population, config: TrainingConfig) -> Iterator[NetworkState]:
    """Trains the networks; yields the state before the first step, about `N_LOGGED` times in all, and at the end.

    The networks that are yielded share memory with those in training: copy what you keep.
    """
    parameters = {name: p.clone().requires_grad_() for name, p in networks.parameters.items()}
    networks = networks.with_parameters(parameters)
    adam = torch.optim.Adam(parameters.values(), lr=config.lr, fused=True)
    decay = {name: population.weight_decay.view(-1, *[1] * (p.ndim - 1)) for name, p in parameters.items()}
    fixed = None if config.n_samples is None else population.rows(0, config.n_samples)
    every = max(1, config.steps // N_LOGGED)
    for step in range(config.steps):
        x = population.rows(step, config.batch_size) if fixed is None else fixed
        drop = population.dropout_layer(generator("dropout", population.inputs[0].seed, step))
        result = networks(x, drop)
        loss = population.loss(result, x)
        if step % every == 0:
            yield NetworkState(step, _plain(networks), loss.detach())
        adam.zero_grad()
        (loss + population.penalty(result)).sum().backward()
        rate = config.rate(step)
        adam.param_groups[0]["lr"] = rate
        with torch.no_grad():
            for name, p in parameters.items():
                p.mul_(1 - rate * decay[name])
        adam.step()
    trained = _plain(networks)
    yield NetworkState(config.steps, trained, measure(trained, population, config))


def _plain(networks: Networks) -> Networks:
    return networks.with_parameters({name: p.detach() for name, p in networks.parameters.items()})


@torch.no_grad()
def measure(
    networks: Networks, population: Population, config: TrainingConfig, split: Split = "train", n_rows: int = 0
) -> Float[Tensor, " n_instances"]:
    """The loss without dropout on at least `n_rows` samples of a split, or if that is 0 on the last training batch."""
    if not n_rows:
        fixed = config.n_samples is not None
        x = population.rows(0 if fixed else config.steps - 1, config.n_samples or config.batch_size)
        return population.loss(networks(x), x)
    total = torch.zeros(networks.n_instances)
    pieces = list(_pieces(population, split, n_rows))
    for x in pieces:
        total += population.loss(networks(x), x)
    return total / len(pieces)


@torch.no_grad()
def unexplained(
    networks: Networks, population: Population, split: Split = "test", n_rows: int = 8192
) -> Float[Tensor, " n_instances"]:
    """The fraction of variance unexplained, ``sum (y - task(x))^2 / sum (task(x) - mean)^2`` over samples and outputs,
    unweighted; NaN for tasks with classes."""
    if population.task.loss == "cross_entropy":
        return torch.full((networks.n_instances,), torch.nan)
    error = torch.zeros(networks.n_instances)
    sums, squares, n = torch.zeros(()), torch.zeros(()), 0
    for x in _pieces(population, split, n_rows):
        target = population.task.target(x)
        error += (networks(x).output - target).square().sum((1, 2))
        sums, squares, n = sums + target.double().sum(1), squares + target.double().square().sum(1), n + x.shape[1]
    variance = (squares - sums.square() / n).sum(-1)
    return (error / variance).float()


def _pieces(population: Population, split: Split, n_rows: int) -> Iterator[Tensor]:
    """At least `n_rows` samples of a split, `_PIECE` at a time."""
    for step in range(-(-n_rows // _PIECE)):
        yield population.rows(step, _PIECE, split)
