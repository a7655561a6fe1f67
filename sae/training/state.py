"""Where training stands: settings, parameters and whatever else the coming steps depend on.

Members are dictionaries of one shape and architecture, each with settings and a seed of its own.
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
from sae.source import Source
from sae.training.config import TrainConfig
from sae.training.input_scaling import InputScaling, InputStatistics
from sae.training.stack import Stack

Member = tuple[DictionaryConfig, int]
"""A dictionary's settings and its seed."""


@dataclass
class State:
    """Where training stands after `step` steps; yielded by :func:`sae.training.loop.train`."""

    step: int
    config: TrainConfig
    members: Sequence[Member]
    stack: Stack
    moments: Mapping[str, list[Tensor]]
    average: Mapping[str, Tensor]
    factor: Float[Tensor, " n_members"]
    integral: Float[Tensor, " n_members"]
    smooth_l0: Float[Tensor, " n_members"]
    steps_since_fired: Int[Tensor, "n_members n_latents"]
    is_sparse: Bool[Tensor, " n_members"]
    scaling: InputScaling
    logged_values: dict[str, Tensor | float]
    n_rows: int | None = None
    """How many different training rows the source has, None where they are drawn without end."""

    @classmethod
    def initial(
        cls, members: Sequence[Member], source: Source, config: TrainConfig, device: str, beginning: InputStatistics
    ) -> State:
        """The state before the first step."""
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
        if config.keep_near:
            stack.initial_W_dec = stack.W_dec.clone()
        initial_values = first.architecture(0.0).initial_values
        stack.latent_parameters = {name: torch.full_like(stack.b_enc, value) for name, value in initial_values.items()}
        zeros = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in stack.parameters().items()}
        silent = torch.zeros(stack.n_members, first.n_latents, dtype=torch.int32, device=device)
        dense = torch.zeros(stack.n_members, dtype=torch.bool)
        factor, integral, smooth = (
            torch.ones_like(stack.batch_threshold),
            torch.zeros_like(stack.batch_threshold),
            torch.zeros_like(stack.batch_threshold),
        )
        average = {name: p.clone() for name, p in stack.parameters().items()} if config.average else {}
        held = average, factor, integral, smooth, silent, dense
        return cls(0, config, members, stack, zeros, *held, beginning.scaling, {}, source.n_rows["train"])

    @classmethod
    def restored(
        cls,
        members: Sequence[Member],
        source: Source,
        config: TrainConfig,
        device: str,
        saved: Mapping[str, Tensor],
    ) -> State:
        """The state that a checkpoint was made of."""
        tensor = {name: value.to(device).clone() for name, value in saved.items()}

        def of(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensor.items() if name.startswith(prefix)}

        stack = Stack.of(of("parameter."))
        moments = {name: [tensor[f"moment{i}.{name}"] for i in (0, 1)] for name in stack.parameters()}
        held = (
            tensor["factor"],
            tensor["integral"],
            tensor["smooth_l0"],
            tensor["silent_for"],
            saved["is_sparse"].clone(),
        )
        step, units = int(saved["step"]), InputScaling.of(of("units."))
        return cls(step, config, members, stack, moments, of("average."), *held, units, {}, source.n_rows["train"])

    @property
    def dead(self) -> Bool[Tensor, "n_members n_latents"]:
        """The latents that were silent for too long."""
        return self.steps_since_fired >= self.config.dead_after

    def records(self) -> list[dict[str, float | int]]:
        """The figures of the last step, one mapping a member."""
        return [
            {
                "step": self.step,
                "samples": self.step * self.config.batch_size,
                **{k: float(v[i]) if isinstance(v, Tensor) else v for k, v in self.logged_values.items()},
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
            "silent_for": self.steps_since_fired.clone(),
            "is_sparse": self.is_sparse.clone(),
            "step": torch.tensor(self.step),
            **{f"average.{k}": v.clone() for k, v in self.average.items()},
            **{f"units.{k}": v for k, v in self.scaling.tensors().items()},
        }

    def result(self) -> Stack:
        """The parameters that dictionaries are made of, as views: their average, where one is kept."""
        return Stack.of({**self.stack.tensors(), **self.average})

    def dictionaries(self) -> list[Dictionary]:
        """The dictionaries as they are now, in raw units, on the CPU, with what was spent, and the factor that their
        training multiplied rows by, on their cards."""
        stack, told = self.result(), self.fit_cost.card_entry() | {"input_scale": self.scaling.card_value}
        return [
            config.architecture()
            .build(*self.scaling.fold({k: v.cpu() for k, v in stack.member(i).items()}))
            .with_card(**told)
            for i, (config, _) in enumerate(self.members)
        ]

    @property
    def fit_cost(self) -> FitCost:
        """What each member has cost: five products ``d_in * n_latents`` a sample, as a dense step has them (the codes,
        the reconstruction, and the gradients of codes, decoder and encoder), whatever of them the sparse path leaves
        out; a pursuit, whose gradient touches few latents, has one for each of its k steps. The rows that units were
        taken from are those of the first steps, and not counted again."""
        how = self.members[0][0].architecture().selection
        products = how.k if isinstance(how, Pursuit) else 5
        samples = self.step * self.config.batch_size
        return FitCost.training(samples, products * self.stack.W_dec[0].numel() * samples, self.n_rows)


def select_members(checkpoint: Mapping[str, Tensor], members: Sequence[int]) -> dict[str, Tensor]:
    """The checkpoint of some members of a stack, as if they had been trained without the others."""
    keep = list(members)
    shared = ("step", "units.")
    return {name: t if name.startswith(shared) else t[keep] for name, t in checkpoint.items()}
