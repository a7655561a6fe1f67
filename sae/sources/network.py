"""Activations of a hidden layer of toy networks trained on known features, with the features that it represents.

    h = a(x W + b),   y = o(h W_out + b_out),   trained to compute a task of x

Many instances are trained at once (:mod:`sae.toys.networks`); the activations come from one of them. The true features
depend on the layer:

*A linear hidden layer* (a bottleneck) is ``h = sum_i x_i W_i``: the rows W_i are exactly the features' directions, and
``x_i ||W_i||`` their coefficients. The network does not represent a feature whose row is shorter than `REPRESENTED`.
Features whose rows nearly agree (cosine above `MERGED`) cannot be told apart in h, and only the longest counts.

*After a nonlinearity* no directions add up to h. The truth is then the response to each feature alone,
``f_i = h(e_i) - h(0)`` (``Truth.kind`` is ``responses``), with the fraction of variance that their sum misses.

A signed feature counts as two, one for each sign. Elhage et al. 2022, 'Toy Models of Superposition'.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from sae.numerics.atomic_write import write_tensors
from sae.numerics.matching import MERGED, unit
from sae.numerics.memory import check_memory
from sae.registry import UserError
from sae.source import Batch, Progress, Source, SourceConfig, Split, Truth
from sae.toys.base import check_number_of_features
from sae.toys.features.law import AnyActivity, Law
from sae.toys.features.series import PerFeature
from sae.toys.features.values import AnyValues, Uniform, above_zero
from sae.toys.networks.instances import points
from sae.toys.networks.model import Networks, embedding
from sae.toys.networks.settings import NetworkConfig, TrainingConfig
from sae.toys.networks.tasks import FeatureTask, output_names, task
from sae.toys.networks.training import Inputs, Population, measure, train_networks, unexplained

REPRESENTED = 0.5
"""The least length at which a feature counts as represented; shorter ones are partly represented, below .1 not at
all."""
HELD_OUT_ROWS = 2**15
"""The number of validation samples on whose loss the best instance is chosen, and of test samples of the reported
loss."""
LABELLED_ROWS = 4096
"""The number of labelled samples of each split."""


class Config(SourceConfig):
    """Settings of a source of a toy network's hidden activations."""

    kind: Literal["network"] = "network"
    FILE: ClassVar[str] = "networks.safetensors"
    """The name of the file that holds the trained networks."""
    n_features: int = Field(gt=0)
    """The number of features in the input."""
    activity: AnyActivity
    """Which features are active together."""
    values: AnyValues = Uniform()
    """The distribution of the magnitudes of active features."""
    signed: bool = False
    """Whether every active feature has a random sign."""
    unit: bool = False
    """Whether inputs are scaled to norm one."""
    importance: PerFeature | None = None
    """The weight of each output in the loss; default: 1."""
    task: str = "identity"
    """What the networks compute, one of :mod:`sae.toys.networks.tasks`."""
    network: NetworkConfig
    """The layers of the networks."""
    training: TrainingConfig = TrainingConfig()
    """How the networks are trained."""
    instances: int = Field(16, gt=0)
    """The number of networks, with different seeds, at each point of `vary`."""
    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """A grid of values of settings that do not change any shape, for example
    ``{"activity.probability" = [1, 0.1, 0.01]}``."""
    instance: int | Literal["best"] = "best"
    """The network whose activations are used; ``best`` has the lowest loss on the validation split."""
    point: int = Field(0, ge=0)
    """The point of `vary` whose networks are used, from 0."""
    layer: int = -1
    """The hidden layer whose activations are used; -1 is the last."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        check_number_of_features(self.n_features)  # first, because the checks below draw every feature
        self.law()
        n_outputs = self.computes.n_outputs(self.n_features)
        if self.importance is not None:
            above_zero(self.importance, n_outputs, self.seed, "importance")
        if self.network.tied and n_outputs != self.n_features:
            raise UserError(
                f"network.tied = true: task {self.task!r} has {n_outputs} outputs for {self.n_features} features; set "
                "network.tied = false"
            )
        if self.network.residual and n_outputs != self.n_features:
            raise UserError(
                f"network.residual = true: task {self.task!r} has {n_outputs} outputs for {self.n_features} features; "
                "set network.residual = false"
            )
        if not -len(self.network.hidden) <= self.layer < len(self.network.hidden):
            n_layers = len(self.network.hidden)
            raise UserError(
                f"layer = {self.layer}: the network has {n_layers} hidden layers; give {-n_layers} to {n_layers - 1}"
            )
        if self.instance != "best" and not 0 <= self.instance < self.instances:
            raise UserError(
                f"instance = {self.instance}: there are {self.instances} instances; give 0 to {self.instances - 1}"
            )
        if self.point >= (n_points := len(points(self, self.vary))):
            raise UserError(f"point = {self.point}: vary has {n_points} points; give 0 to {n_points - 1}")
        return self

    @property
    def computes(self) -> FeatureTask:
        """The task that the networks compute."""
        return task(self.task, self.n_features)

    @property
    def depth(self) -> int:
        """The number of the hidden layer whose activations are used, from 1."""
        return self.layer % len(self.network.hidden) + 1

    @property
    def planned_width(self) -> int:
        return self.network.hidden[self.layer]

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"truth", "codes"} | ({"labels"} if self.computes.is_binary else set()))

    def law(self) -> Law:
        """The distribution of the features."""
        return Law.from_settings(self.activity, self.values, self.n_features, self.seed)

    def inputs(self) -> Inputs:
        """The inputs of the networks."""
        return Inputs(self.law(), self.seed, self.signed, self.unit)

    def population(self) -> Population:
        """The inputs and loss weights of all instances: the instances of the first point, then those of the next."""
        at = points(self, self.vary)
        kinds = [json.dumps([c.activity.model_dump(), c.values.model_dump()]) for c in at]
        names = list(dict.fromkeys(kinds))
        n_outputs = self.computes.n_outputs(self.n_features)
        importance = [
            torch.ones(n_outputs) if c.importance is None else above_zero(c.importance, n_outputs, c.seed, "importance")
            for c in at
        ]

        def per_instance(values: list[float]) -> Float[Tensor, " n_instances"]:
            return torch.tensor(values).repeat_interleave(self.instances)

        return Population(
            self.computes,
            [at[kinds.index(name)].inputs() for name in names],
            torch.tensor([names.index(kind) for kind in kinds]).repeat_interleave(self.instances),
            torch.stack(importance).repeat_interleave(self.instances, 0),
            per_instance([c.network.dropout for c in at]),
            per_instance([c.network.hidden_l1 for c in at]),
            per_instance([c.training.weight_decay for c in at]),
        )

    def untrained(self) -> Networks:
        """The networks at initialisation; an instance has the same initial values at every point."""
        at = points(self, self.vary)
        seeds = [self.seed * 1_000_003 + i for i in range(self.instances)]
        n_outputs = self.computes.n_outputs(self.n_features)
        parts = [Networks.initialise(c.network, self.n_features, n_outputs, seeds, self.seed) for c in at]
        return parts[0].with_parameters({n: torch.cat([p.parameters[n] for p in parts]) for n in parts[0].parameters})

    def check_sizes(self) -> None:
        """Raises `UserError` where this machine has too little memory to train the networks."""
        hidden, batch = list(self.network.hidden), self.training.batch_size
        widest, networks = max(*hidden, self.n_features), self.instances * len(points(self, self.vary))
        # The networks with both moments of Adam, and the hidden layers and inputs of a batch.
        check_memory(
            f"source: n_features = {self.n_features}, hidden = {hidden}, instances = {self.instances}",
            3 * 4 * self.n_features * max(hidden) * networks,
        )
        check_memory(f"source.training.batch_size = {batch}", 4 * batch * widest * networks)

    def tensors(self, progress: Progress = lambda done, total, unit: None) -> dict[str, Tensor]:
        """Trains the networks.

        Returns their parameters, the test `loss` and fraction of variance `unexplained`, the validation loss
        `choose_loss`, and the `history` ``[n_logged, n_instances]`` of the training loss at the steps `history_step`.
        """
        self.check_sizes()
        population, history = self.population(), list[tuple[int, Tensor]]()
        networks = self.untrained()
        for state in train_networks(networks, population, self.training):
            networks = state.networks
            history.append((state.step, state.loss.clone()))
            progress(state.step, self.training.steps, "steps")
        measured = {
            "choose_loss": measure(networks, population, self.training, "choose", HELD_OUT_ROWS),
            "loss": measure(networks, population, self.training, "test", HELD_OUT_ROWS),
            "unexplained": unexplained(networks, population),
            "history": torch.stack([loss for _, loss in history]),
            "history_step": torch.tensor([step for step, _ in history]),
        }
        return {f"parameter.{name}": p.contiguous() for name, p in networks.parameters.items()} | measured

    def assemble(self, tensors: Mapping[str, Tensor]) -> Hidden:
        """The source, from the tensors of :meth:`tensors`."""
        return self.mark(Hidden(self, tensors))

    def build(self) -> Hidden:
        """Trains the networks and returns the source, in memory."""
        return self.assemble(self.tensors())

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        write_tensors(directory / self.FILE, self.tensors(progress))

    def open(self, directory: Path, device: str) -> Hidden:
        from safetensors.torch import load_file

        # Cloned, because the alignment of a tensor in a file affects the last bits of a product.
        return self.assemble({name: t.clone() for name, t in load_file(directory / self.FILE).items()})


class Hidden(Source):
    """Activations of the hidden layer of one of the networks; `networks` holds all of them."""

    def __init__(self, config: Config, tensors: Mapping[str, Tensor]) -> None:
        self.config, self.tensors = config, tensors
        parameters = {n.removeprefix("parameter."): t for n, t in tensors.items() if n.startswith("parameter.")}
        self.networks = Networks(config.network, parameters, embedding(config.network, config.n_features, config.seed))
        self.points = points(config, config.vary)
        self.settings = self.points[config.point]
        self.index = self.best(config.point)
        self.network = self.networks.instance(self.index)
        self.inputs = self.settings.inputs()
        self.d_in = config.network.hidden[config.layer]
        self.silent: Float[Tensor, " d_in"] = self._run(torch.zeros(1, config.n_features))[0]
        self.rows: Float[Tensor, "n_directions d_in"] = self._rows()
        self.truth = self._truth()

    def at(self, point: int) -> slice:
        """The indices of the instances of a point of `vary` among all instances."""
        return slice(point * self.config.instances, (point + 1) * self.config.instances)

    def best(self, point: int) -> int:
        """The index of the instance of a point that has the lowest validation loss.

        At the point whose activations are used, it is the instance that the settings name.
        """
        at, instance = self.at(point), self.config.instance
        if point == self.config.point and instance != "best":
            return at.start + instance
        return at.start + int(self.tensors["choose_loss"][at].argmin())

    @torch.no_grad()
    def _run(self, x: Float[Tensor, "batch n_features"]) -> Float[Tensor, "batch d_in"]:
        return self.network(x[None], depth=self.config.depth).output[0]

    def _rows(self) -> Float[Tensor, "n_directions d_in"]:
        """The response of the layer to each feature alone: features of positive sign, then of negative sign."""
        eye = torch.eye(self.config.n_features)
        alone = torch.cat([eye, -eye]) if self.config.signed else eye
        return self._run(alone) - self.silent

    def codes_of(self, x: Float[Tensor, "batch n_features"]) -> Float[Tensor, "batch n_directions"]:
        """The coefficients of the unit directions; features to which the layer does not respond keep their values."""
        x = torch.cat([x.clamp_min(0), (-x).clamp_min(0)], dim=1) if self.config.signed else x
        length = self.rows.norm(dim=1)
        return x * length.where(length > 0, 1.0)

    def _truth(self) -> Truth:
        length = self.rows.norm(dim=1)
        share = self.inputs.law.probability(self.config.seed)
        importance = self.settings.importance
        n = self.config.n_features
        weights = None if importance is None else above_zero(importance, n, self.config.seed, "importance")
        sides = 2 if self.config.signed else 1
        offset = self.silent if bool(self.silent.any()) else None
        return Truth(
            unit(self.rows),
            (length > REPRESENTED) & longest_of_merged(self.rows),
            (share / sides).repeat(sides),
            None if weights is None else weights.repeat(sides),
            offset=offset,
            kind="exact" if self.config.network.is_linear else "responses",
        )

    @cached_property
    def missed(self) -> float:
        """The fraction of variance that the true directions and codes do not explain,
        ``mean ||h - sum_i c_i f_i - offset||^2 / mean ||h - mean h||^2``; 0 if features are exact, or no two share a
        neuron."""
        batch = self.batch(0, LABELLED_ROWS, "test")
        assert batch.codes is not None and self.truth is not None
        error = batch.acts - batch.codes @ self.truth.directions - self.silent
        return float(error.square().sum() / (batch.acts - batch.acts.mean(0)).square().sum())

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        x = self.inputs.rows(step, size, split)
        return Batch(self._run(x), self.codes_of(x))

    def labelled(self) -> tuple[Batch, Batch] | None:
        """Samples labelled with the outputs of the task, as (choose, test); None if they are not binary."""
        if not self.config.computes.is_binary:
            return None
        return self._labelled("choose"), self._labelled("test")

    def _labelled(self, split: Split) -> Batch:
        x = self.inputs.rows(0, LABELLED_ROWS, split)
        outputs = self.config.computes.target(x).long()
        names = output_names(self.config.task, self.config.n_features)
        return Batch(self._run(x), self.codes_of(x), dict(zip(names, outputs.T, strict=True)))


def longest_of_merged(rows: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    """Whether each row is the longest of those that nearly agree with it in direction (cosine above `MERGED`)."""
    directions = unit(rows)
    order: Int[Tensor, " n"] = rows.norm(dim=1).argsort(descending=True, stable=True)
    kept = torch.zeros(len(rows), dtype=torch.bool)
    for i in order.tolist():
        kept[i] = not bool((directions[kept] @ directions[i] > MERGED).any())
    return kept
