"""Training many toy networks at once on rows of features.

Instances share their batches, as members of a stack of dictionaries do: an instance comes out the same whatever else is
trained beside it, but for rounding. Those with another law of features get rows of that law, drawn from the same random
numbers. All losses are added up, so that no instance feels another.
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
from sae.toys.networks.model import Networks, Pass
from sae.toys.networks.settings import TrainingConfig
from sae.toys.networks.tasks import FeatureTask

N_LOGGED = 100
"""How often in its course training yields."""
_PIECE = 2048
"""How many rows are measured at once; the same for any number of instances, so that all meet the same rows."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Rows of features: the law of their codes, and whether each code gets a sign. With `unit`, rows have length one.
    Equal settings give equal rows for every (seed, split, step)."""

    law: Law
    seed: int
    signed: bool = False
    unit: bool = False

    def rows(self, step: int, size: int, split: Split = "train") -> Float[Tensor, "size n_features"]:
        draw = generator("network", self.seed, split, step)
        x = self.law.codes(size, draw)
        if self.signed:
            x = x * (1 - 2 * torch.randint(2, x.shape, generator=draw).float())
        return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12) if self.unit else x


@dataclass(frozen=True, eq=False)
class Population:
    """What instances are trained on: `inputs`, the different kinds of rows, and `which` of them each instance has;
    `importance` of every output in its loss, and its `dropout`, `hidden_l1` and `weight_decay`."""

    task: FeatureTask
    inputs: Sequence[Inputs]
    which: Int[Tensor, " n_instances"]
    importance: Float[Tensor, "n_instances n_outputs"]
    dropout: Float[Tensor, " n_instances"]
    hidden_l1: Float[Tensor, " n_instances"]
    weight_decay: Float[Tensor, " n_instances"]

    def rows(self, step: int, size: int, split: Split = "train") -> Float[Tensor, "#n_instances size n_features"]:
        """The rows of every instance; a view of shape 1 where all have the same."""
        drawn = torch.stack([inputs.rows(step, size, split) for inputs in self.inputs])
        return drawn if len(drawn) == 1 else drawn[self.which]

    def loss(self, found: Pass, x: Float[Tensor, "#n_instances batch n_features"]) -> Float[Tensor, " n_instances"]:
        """The mean error of every instance over rows and outputs, weighted by importance."""
        wanted = self.task.target(x)
        if self.task.loss == "cross_entropy":
            return -(wanted * found.output.log_softmax(-1)).sum(-1).mean(-1)
        error = (found.output - wanted).square().mean(1)
        return (error * self.importance).mean(-1)

    def penalty(self, found: Pass) -> Float[Tensor, " n_instances"]:
        """The weighted mean L1 norm of the hidden layers."""
        return self.hidden_l1 * torch.stack([h.abs().sum(-1).mean(-1) for h in found.hidden]).sum(0)

    @cached_property
    def drops(self) -> bool:
        return bool(self.dropout.any())

    def dropping(self, draw: torch.Generator) -> Callable[[Tensor], Tensor] | None:
        """Inverted dropout, by the same numbers for every instance; None where there is none."""
        if not self.drops:
            return None
        p = self.dropout[:, None, None]

        def drop(h: Tensor) -> Tensor:
            return h * (torch.rand(h.shape[1:], generator=draw) >= p) / (1 - p)

        return drop


@dataclass(frozen=True, eq=False)
class Trained:
    """Where training stands: after `step` steps the networks, and the loss of the last batch."""

    step: int
    networks: Networks
    loss: Float[Tensor, " n_instances"]


def train_networks(networks: Networks, population: Population, config: TrainingConfig) -> Iterator[Trained]:
    """Trains, and yields before the first step, about `N_LOGGED` times on the way, and at the end.

    The networks that are yielded share their memory with those in training: copy what is to be kept.
    """
    parameters = {name: p.clone().requires_grad_() for name, p in networks.parameters.items()}
    networks = networks.with_parameters(parameters)
    adam = torch.optim.Adam(parameters.values(), lr=config.lr, fused=True)
    kept = {name: population.weight_decay.view(-1, *[1] * (p.ndim - 1)) for name, p in parameters.items()}
    fixed = None if config.n_samples is None else population.rows(0, config.n_samples)
    every = max(1, config.steps // N_LOGGED)
    for step in range(config.steps):
        x = population.rows(step, config.batch_size) if fixed is None else fixed
        drop = population.dropping(generator("dropout", population.inputs[0].seed, step))
        found = networks(x, drop)
        loss = population.loss(found, x)
        if step % every == 0:
            yield Trained(step, _plain(networks), loss.detach())
        adam.zero_grad()
        (loss + population.penalty(found)).sum().backward()
        rate = config.rate(step)
        adam.param_groups[0]["lr"] = rate
        with torch.no_grad():
            for name, p in parameters.items():
                p.mul_(1 - rate * kept[name])
        adam.step()
    trained = _plain(networks)
    yield Trained(config.steps, trained, measure(trained, population, config))


def _plain(networks: Networks) -> Networks:
    return networks.with_parameters({name: p.detach() for name, p in networks.parameters.items()})


@torch.no_grad()
def measure(
    networks: Networks, population: Population, config: TrainingConfig, split: Split = "train", n_rows: int = 0
) -> Float[Tensor, " n_instances"]:
    """The loss without dropout: on `n_rows` rows of a split, or without any on what the last step was trained on."""
    if not n_rows:
        few = config.n_samples is not None
        x = population.rows(0 if few else config.steps - 1, config.n_samples or config.batch_size)
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
    """The fraction of variance unexplained, ``sum (y - task(x))^2 / sum (task(x) - mean)^2`` over rows and outputs,
    unweighted; NaN for classes."""
    if population.task.loss == "cross_entropy":
        return torch.full((networks.n_instances,), torch.nan)
    error = torch.zeros(networks.n_instances)
    sums, squares, n = torch.zeros(()), torch.zeros(()), 0
    for x in _pieces(population, split, n_rows):
        wanted = population.task.target(x)
        error += (networks(x).output - wanted).square().sum((1, 2))
        sums, squares, n = sums + wanted.double().sum(1), squares + wanted.double().square().sum(1), n + x.shape[1]
    variance = (squares - sums.square() / n).sum(-1)
    return (error / variance).float()


def _pieces(population: Population, split: Split, n_rows: int) -> Iterator[Tensor]:
    """At least `n_rows` rows of a split, `_PIECE` at a time."""
    for step in range(-(-n_rows // _PIECE)):
        yield population.rows(step, _PIECE, split)
