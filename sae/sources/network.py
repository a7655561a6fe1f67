"""Toy networks trained on known features: activations of a hidden layer, and what it really represents.

    h = a(x W + b),   y = o(h W_out + b_out),   trained to compute a task of x

Many instances are trained at once (:mod:`sae.toys.networks`); activations come from one of them. What is true of them:

*A linear hidden layer* (a bottleneck) is ``h = sum_i x_i W_i``: the rows W_i are the features' directions, exactly, and
``x_i ||W_i||`` their coefficients. A row shorter than `REPRESENTED` is a feature that the network does not represent;
rows that nearly agree (cosine above `MERGED`) are one feature to whoever sees h alone, and only the longest counts.

*Behind a nonlinearity* there are no directions that add up. What is given instead, and said to be so (``Truth.kind`` is
``responses``), are the answers to one feature alone, ``f_i = h(e_i) - h(0)``, with the share of h that they miss.

A feature with a sign is two, one for each direction. Elhage et al. 2022, 'Toy Models of Superposition'.
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

from sae.numerics.matching import MERGED, unit
from sae.registry import UserError
from sae.source import Batch, Progress, Source, SourceConfig, Split, Truth
from sae.toys.features.law import AnyActivity, Law
from sae.toys.features.series import PerFeature
from sae.toys.features.values import AnyValues, Uniform, above_zero
from sae.toys.networks.instances import points
from sae.toys.networks.model import Networks, embedding
from sae.toys.networks.settings import NetworkConfig, TrainingConfig
from sae.toys.networks.tasks import FeatureTask, output_names, task
from sae.toys.networks.training import Inputs, Population, measure, train_networks, unexplained

REPRESENTED = 0.5
"""The length from which a feature counts as represented; shorter ones are partly so, below .1 not at all."""
HELD_OUT_ROWS = 2**15
"""Rows by whose loss the best instance is chosen; the loss that is told is that of as many others."""
LABELLED_ROWS = 4096


class Config(SourceConfig):
    """Settings. `instances` networks are trained at each point of `vary`, a grid of values for settings that leave the
    shape alone (``vary = {"activity.probability" = [1, 0.1, 0.01]}``). Activations are those of hidden layer `layer`
    (the last is -1) of `instance` (``best``: the lowest loss on held-out rows) at point `point`. With `signed` every
    active feature has a random sign; `unit` scales rows to length one. `task` is one of
    :mod:`sae.toys.networks.tasks`."""

    kind: Literal["network"] = "network"
    FILE: ClassVar[str] = "networks.safetensors"
    n_features: int = Field(gt=0)
    activity: AnyActivity
    values: AnyValues = Uniform()
    signed: bool = False
    unit: bool = False
    importance: PerFeature | None = None
    task: str = "identity"
    network: NetworkConfig
    training: TrainingConfig = TrainingConfig()
    instances: int = Field(16, gt=0)
    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    instance: int | Literal["best"] = "best"
    point: int = Field(0, ge=0)
    layer: int = -1

    @model_validator(mode="after")
    def _possible(self) -> Config:
        self.law()
        n_outputs = self.computes.n_outputs(self.n_features)
        if self.importance is not None:
            above_zero(self.importance, n_outputs, self.seed, "importance")
        if self.network.tied and n_outputs != self.n_features:
            raise UserError(
                f"task = {self.task!r} has {n_outputs} outputs for {self.n_features} features; set tied = false"
            )
        if self.network.residual and n_outputs != self.n_features:
            raise UserError(f"network.residual: task = {self.task!r} has another width than the stream")
        if not -len(self.network.hidden) <= self.layer < len(self.network.hidden):
            raise UserError(f"layer = {self.layer}: the network has {len(self.network.hidden)} hidden layers")
        if self.instance != "best" and not 0 <= self.instance < self.instances:
            raise UserError(f"instance = {self.instance}: there are {self.instances}; give 0 to {self.instances - 1}")
        if self.point >= (n_points := len(points(self, self.vary))):
            raise UserError(f"point = {self.point}: vary has {n_points} points, counted from 0")
        return self

    @property
    def computes(self) -> FeatureTask:
        return task(self.task, self.n_features)

    @property
    def depth(self) -> int:
        """The number of the hidden layer that is read, from 1."""
        return self.layer % len(self.network.hidden) + 1

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"truth", "codes"} | ({"labels"} if self.computes.is_binary else set()))

    def law(self) -> Law:
        return Law.drawn(self.activity, self.values, self.n_features, self.seed)

    def inputs(self) -> Inputs:
        return Inputs(self.law(), self.seed, self.signed, self.unit)

    def population(self) -> Population:
        """What the instances of all points are trained on, `instances` of each point in turn."""
        at = points(self, self.vary)
        kinds = [json.dumps([c.activity.model_dump(), c.values.model_dump()]) for c in at]
        names = list(dict.fromkeys(kinds))
        n_outputs = self.computes.n_outputs(self.n_features)
        importance = [
            torch.ones(n_outputs) if c.importance is None else above_zero(c.importance, n_outputs, c.seed, "importance")
            for c in at
        ]

        def of_each(values: list[float]) -> Float[Tensor, " n_instances"]:
            return torch.tensor(values).repeat_interleave(self.instances)

        return Population(
            self.computes,
            [at[kinds.index(name)].inputs() for name in names],
            torch.tensor([names.index(kind) for kind in kinds]).repeat_interleave(self.instances),
            torch.stack(importance).repeat_interleave(self.instances, 0),
            of_each([c.network.dropout for c in at]),
            of_each([c.network.hidden_l1 for c in at]),
            of_each([c.training.weight_decay for c in at]),
        )

    def begin(self) -> Networks:
        """The networks before training; an instance begins alike at every point."""
        at = points(self, self.vary)
        seeds = [self.seed * 1_000_003 + i for i in range(self.instances)]
        n_outputs = self.computes.n_outputs(self.n_features)
        parts = [Networks.initialise(c.network, self.n_features, n_outputs, seeds, self.seed) for c in at]
        return parts[0].with_parameters({n: torch.cat([p.parameters[n] for p in parts]) for n in parts[0].parameters})

    def tensors(self, progress: Progress = lambda done, total, unit: None) -> dict[str, Tensor]:
        """The trained networks: their parameters, `loss` and `unexplained` on test rows, `choose_loss`, and `history`
        ``[n_logged, n_instances]`` of the loss of training batches with the `history_step` of each."""
        population, history = self.population(), list[tuple[int, Tensor]]()
        networks = self.begin()
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
        """The source made of those tensors."""
        return Hidden(self, tensors)

    def build(self) -> Hidden:
        """The source, in memory: trains the networks."""
        return self.assemble(self.tensors())

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        from safetensors.torch import save_file

        directory.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors(progress), directory / self.FILE)

    def open(self, directory: Path, device: str) -> Hidden:
        from safetensors.torch import load_file

        # Cloned, because a tensor's place in a file changes its alignment and so the last bits of a product.
        return self.assemble({name: t.clone() for name, t in load_file(directory / self.FILE).items()})


class Hidden(Source):
    """Rows of the hidden layer of one of the networks; `networks` are all of them."""

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
        """Where the instances of a point of `vary` stand among all."""
        return slice(point * self.config.instances, (point + 1) * self.config.instances)

    def best(self, point: int) -> int:
        """The instance of a point with the lowest loss on held-out rows; at the point that is read, the one that is."""
        at, wanted = self.at(point), self.config.instance
        if point == self.config.point and wanted != "best":
            return at.start + wanted
        return at.start + int(self.tensors["choose_loss"][at].argmin())

    @torch.no_grad()
    def _run(self, x: Float[Tensor, "batch n_features"]) -> Float[Tensor, "batch d_in"]:
        return self.network(x[None], depth=self.config.depth).output[0]

    def _rows(self) -> Float[Tensor, "n_directions d_in"]:
        """What each feature alone writes into the layer: those of positive sign, then those of negative."""
        eye = torch.eye(self.config.n_features)
        alone = torch.cat([eye, -eye]) if self.config.signed else eye
        return self._run(alone) - self.silent

    def codes_of(self, x: Float[Tensor, "batch n_features"]) -> Float[Tensor, "batch n_directions"]:
        """The coefficients of unit directions; a feature that the layer does not see at all keeps its own numbers."""
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
        """``mean ||h - sum_i c_i f_i - offset||^2 / mean ||h - mean h||^2``: what directions do not tell of
        activations; 0 where features are exact, or no two share a neuron."""
        batch = self.batch(0, LABELLED_ROWS, "test")
        assert batch.codes is not None and self.truth is not None
        error = batch.acts - batch.codes @ self.truth.directions - self.silent
        return float(error.square().sum() / (batch.acts - batch.acts.mean(0)).square().sum())

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        x = self.inputs.rows(step, size, split)
        return Batch(self._run(x), self.codes_of(x))

    def labelled(self) -> tuple[Batch, Batch] | None:
        """Rows labelled with the outputs of a task whose outputs hold or not."""
        if not self.config.computes.is_binary:
            return None
        return self._labelled("choose"), self._labelled("test")

    def _labelled(self, split: Split) -> Batch:
        x = self.inputs.rows(0, LABELLED_ROWS, split)
        outputs = self.config.computes.target(x).long()
        names = output_names(self.config.task, self.config.n_features)
        return Batch(self._run(x), self.codes_of(x), dict(zip(names, outputs.T, strict=True)))


def longest_of_merged(rows: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    """Which rows are the longest of those that point nearly their way (cosine above `MERGED`)."""
    directions = unit(rows)
    order: Int[Tensor, " n"] = rows.norm(dim=1).argsort(descending=True, stable=True)
    kept = torch.zeros(len(rows), dtype=torch.bool)
    for i in order.tolist():
        kept[i] = not bool((directions[kept] @ directions[i] > MERGED).any())
    return kept
