"""The state of training: settings, parameters and everything else that later steps depend on.

Members are dictionaries of one shape and architecture, each with its own settings and seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.architecture import DictionaryConfig, Pursuit
from sae.dictionary import Dictionary
from sae.numerics.fit_cost import FitCost
from sae.registry import UserError
from sae.source import Source
from sae.training.config import TrainConfig
from sae.training.input_scaling import InputScaling, InputStatistics
from sae.training.stack import Stack

Member = tuple[DictionaryConfig, int]
"""A dictionary's settings and its seed."""


@dataclass
class State:
    """The state of training after `step` steps; yielded by :func:`sae.training.loop.train`."""

    step: int
    """The number of steps taken."""
    config: TrainConfig
    """The settings of training."""
    members: Sequence[Member]
    """The settings and seed of each member."""
    stack: Stack
    """The parameters."""
    moments: Mapping[str, list[Tensor]]
    """Adam's first and second moments, by parameter."""
    average: Mapping[str, Tensor]
    """The moving average of the parameters; empty without one."""
    factor: Float[Tensor, " n_members"]
    """The factor on the penalty's weight that keeps the penalty's size while it is annealed."""
    integral: Float[Tensor, " n_members"]
    """The controller's integral, see :mod:`sae.training.l0_controller`."""
    smooth_l0: Float[Tensor, " n_members"]
    """The controller's moving average of the mean number of active latents."""
    steps_since_fired: Int[Tensor, "n_members n_latents"]
    """The number of steps since each latent was last active."""
    is_sparse: Bool[Tensor, " n_members"]
    """Whether each member is on the sparse path."""
    scaling: InputScaling
    """The scaling of the activations."""
    logged_values: dict[str, Tensor | float]
    """The values that the last step logged."""
    n_rows: int | None = None
    """The number of different training samples of the source; None where they are generated without end."""

    @classmethod
    def initial(
        cls, members: Sequence[Member], source: Source, config: TrainConfig, device: str, statistics: InputStatistics
    ) -> State:
        """The state before the first step."""
        first, seeds = members[0][0], [seed for _, seed in members]
        if source.has_targets and isinstance(first.architecture().selection, Pursuit):
            raise UserError(
                'kind = "matching_pursuit": works for autoencoders only, and this source has targets; use another kind'
            )
        centred = config.centre != "none"
        centre, target = (
            part if centred else torch.zeros_like(part) for part in (statistics.centre, statistics.target_centre)
        )
        b_dec = target if first.decoder_bias else torch.zeros_like(target)
        stack = Stack.initialise(seeds, first.n_latents, b_dec, device, config.start, statistics.rows)
        stack.W_enc *= config.encoder_norm
        if source.has_targets:
            stack.centre = centre.to(device).repeat(len(seeds), 1)
        if config.keep_near:
            stack.initial_W_dec = stack.W_dec.clone()
        initial_values = first.architecture(0.0).initial_values
        stack.latent_parameters = {name: torch.full_like(stack.b_enc, value) for name, value in initial_values.items()}
        parameters, per_member = stack.parameters(), stack.batch_threshold
        return cls(
            step=0,
            config=config,
            members=members,
            stack=stack,
            moments={name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in parameters.items()},
            average={name: p.clone() for name, p in parameters.items()} if config.average else {},
            factor=torch.ones_like(per_member),
            integral=torch.zeros_like(per_member),
            smooth_l0=torch.zeros_like(per_member),
            steps_since_fired=torch.zeros(stack.n_members, first.n_latents, dtype=torch.int32, device=device),
            is_sparse=torch.zeros(stack.n_members, dtype=torch.bool),
            scaling=statistics.scaling,
            logged_values={},
            n_rows=source.n_rows["train"],
        )

    @classmethod
    def restored(
        cls,
        members: Sequence[Member],
        source: Source,
        config: TrainConfig,
        device: str,
        saved: Mapping[str, Tensor],
    ) -> State:
        """The state of a checkpoint."""
        tensor = {name: value.to(device).clone() for name, value in saved.items()}

        def of(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensor.items() if name.startswith(prefix)}

        stack = Stack.of(of("parameter."))
        return cls(
            step=int(saved["step"]),
            config=config,
            members=members,
            stack=stack,
            moments={name: [tensor[f"moment{i}.{name}"] for i in (0, 1)] for name in stack.parameters()},
            average=of("average."),
            factor=tensor["factor"],
            integral=tensor["integral"],
            smooth_l0=tensor["smooth_l0"],
            steps_since_fired=tensor["silent_for"],
            is_sparse=saved["is_sparse"].clone(),
            scaling=InputScaling.of(of("units.")),
            logged_values={},
            n_rows=source.n_rows["train"],
        )

    @property
    def dead(self) -> Bool[Tensor, "n_members n_latents"]:
        """The latents that have not fired for `dead_after` steps."""
        return self.steps_since_fired >= self.config.dead_after

    def records(self) -> list[dict[str, float | int]]:
        """The logged values of the last step, one mapping per member."""
        return [
            {
                "step": self.step,
                "samples": self.step * self.config.batch_size,
                **{k: float(v[i]) if isinstance(v, Tensor) else v for k, v in self.logged_values.items()},
            }
            for i in range(len(self.members))
        ]

    def checkpoint(self) -> dict[str, Tensor]:
        """Everything that later steps depend on; tensors of members have the member axis first."""
        tensors = {f"parameter.{k}": v.detach().clone() for k, v in self.stack.tensors().items()}
        for name, pair in self.moments.items():
            tensors |= {f"moment{i}.{name}": moment.clone() for i, moment in enumerate(pair)}
        return tensors | {
            "factor": self.factor.clone(),
            "integral": self.integral.clone(),
            "smooth_l0": self.smooth_l0.clone(),
            "silent_for": self.steps_since_fired.clone(),
            "is_sparse": self.is_sparse.clone(),
            "step": torch.tensor(self.step),
            **{f"average.{k}": v.clone() for k, v in self.average.items()},
            **{f"units.{k}": v for k, v in self.scaling.tensors().items()},
        }

    def result(self) -> Stack:
        """The parameters of the result, as views: their moving average, where there is one."""
        return Stack.of({**self.stack.tensors(), **self.average})

    def dictionaries(self) -> list[Dictionary]:
        """The dictionaries at this step, in raw units, on the CPU, with the training cost and the input scale on their
        cards."""
        stack, entries = self.result(), self.fit_cost.card_entry() | {"input_scale": self.scaling.card_value}
        return [
            config.architecture()
            .build(*self.scaling.fold({k: v.cpu() for k, v in stack.member(i).items()}))
            .with_card(**entries)
            for i, (config, _) in enumerate(self.members)
        ]

    @property
    def fit_cost(self) -> FitCost:
        """The training cost of each member.

        Every sample costs five products of ``d_in * n_latents``, as in a dense step (the codes, the reconstruction, and
        the gradients of codes, decoder and encoder), also on the sparse path, which computes less. Matching pursuit,
        whose gradient touches few latents, costs one product for each of its k steps. The samples from which the input
        scale is measured are those of the first steps and are not counted twice.
        """
        selection = self.members[0][0].architecture().selection
        products = selection.k if isinstance(selection, Pursuit) else 5
        samples = self.step * self.config.batch_size
        return FitCost.training(samples, products * self.stack.W_dec[0].numel() * samples, self.n_rows)


def select_members(checkpoint: Mapping[str, Tensor], members: Sequence[int]) -> dict[str, Tensor]:
    """The checkpoint of these members of a stack, as if they had been trained without the others."""
    keep = list(members)
    shared = ("step", "units.")
    return {name: t if name.startswith(shared) else t[keep] for name, t in checkpoint.items()}
