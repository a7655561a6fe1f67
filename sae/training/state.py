"""The state of training: settings, parameters and everything else that later steps depend on.

Members are dictionaries of one shape and architecture, each with its own settings and seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.architecture import Architecture, DictionaryConfig, Pursuit
from sae.dictionary import Dictionary
from sae.numerics.fit_cost import FitCost
from sae.registry import UserError
from sae.source import Source
from sae.training.config import TrainConfig
from sae.training.division import Division
from sae.training.input_scaling import InputScaling, InputStatistics
from sae.training.shrinkage_step import PRODUCTS
from sae.training.stack import Stack

Member = tuple[DictionaryConfig, int]
"""A dictionary's settings and its seed."""


@dataclass
class State:
    """The state of training after `step` steps; yielded by :func:`sae.training.loop.train`.

    Where a stack is divided over processes, each has the state of its own members and latents: the axes below are
    those.
    """

    step: int
    """The number of steps taken."""
    config: TrainConfig
    """The settings of training."""
    members: Sequence[Member]
    """The settings and seed of each member of the whole stack."""
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
    division: Division
    """The members and latents of the stack that are here."""
    frequency: Float[Tensor, "n_members n_latents"] | None = None
    """The moving average of the latents' firing frequencies, where they are sorted by it."""
    n_rows: int | None = None
    """The number of different training samples of the source; None where they are generated without end."""

    @classmethod
    def initial(
        cls,
        members: Sequence[Member],
        source: Source,
        config: TrainConfig,
        device: str,
        statistics: InputStatistics,
        division: Division,
    ) -> State:
        """The state before the first step."""
        first, seeds = members[0][0], [members[i][1] for i in division.members]
        architecture = first.architecture(0.0)
        _check_fits(architecture, source, config)
        centred = config.centre != "none"
        centre, target = (
            part if centred else torch.zeros_like(part) for part in (statistics.centre, statistics.target_centre)
        )
        b_dec = target if first.decoder_bias else torch.zeros_like(target)
        latents = None if division.group.size == 1 else division.latents
        stack = Stack.initialise(seeds, first.n_latents, b_dec, device, config.start, statistics.rows, latents)
        stack.W_enc *= config.encoder_norm
        if config.aligned:
            stack.align_()
        if source.has_targets:
            stack.centre = centre.to(device).repeat(len(seeds), 1)
        if architecture.shrinkage_step:
            stack.first_threshold = torch.zeros_like(stack.batch_threshold)
        if config.keep_near:
            stack.initial_W_dec = stack.W_dec.clone()
        initial_values = architecture.initial_values
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
            steps_since_fired=torch.zeros_like(stack.b_enc, dtype=torch.int32),
            is_sparse=torch.zeros(stack.n_members, dtype=torch.bool),
            scaling=statistics.scaling,
            logged_values={},
            division=division,
            frequency=torch.zeros_like(stack.b_enc) if architecture.by_frequency else None,
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
        division: Division,
    ) -> State:
        """The state of a checkpoint, which has the members and latents of the division."""
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
            division=division,
            frequency=tensor.get("frequency"),
            n_rows=source.n_rows["train"],
        )

    @property
    def own_members(self) -> list[Member]:
        """The settings and seed of the members that are here."""
        return [self.members[i] for i in self.division.members]

    @property
    def dead(self) -> Bool[Tensor, "n_members n_latents"]:
        """The latents that have not fired for `dead_after` steps."""
        return self.steps_since_fired >= self.config.dead_after

    def records(self) -> list[dict[str, float | int]]:
        """The logged values of the last step, one mapping per member of the whole stack."""
        n, samples = len(self.members), self.step * self.config.batch_size
        by_member = {name: value for name, value in self.logged_values.items() if isinstance(value, Tensor)}
        table = self.division.of_all_members(torch.stack(list(by_member.values()), 1)).T.tolist() if by_member else []
        tensors = dict(zip(by_member, table, strict=True))
        columns: dict[str, list[float]] = {
            name: [value] * n if not isinstance(value, Tensor) else tensors[name]
            for name, value in self.logged_values.items()
        }
        return [
            {"step": self.step, "samples": samples, **{name: column[i] for name, column in columns.items()}}
            for i in range(n)
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
            **({} if self.frequency is None else {"frequency": self.frequency.clone()}),
            "step": torch.tensor(self.step),
            **{f"average.{k}": v.clone() for k, v in self.average.items()},
            **{f"units.{k}": v for k, v in self.scaling.tensors().items()},
        }

    def result(self) -> Stack:
        """The parameters of the result, as views: their moving average, where there is one."""
        return Stack.of({**self.stack.tensors(), **self.average})

    def dictionaries(self) -> list[Dictionary]:
        """The dictionaries at this step, in raw units, on the CPU, with the training cost and the input scale on their
        cards. Where a stack is divided over processes, all must ask, and only the first gets them."""
        return [dictionary for dictionary in self.iterate_dictionaries() if dictionary is not None]

    def iterate_dictionaries(self) -> Iterator[Dictionary | None]:
        """:meth:`dictionaries` one at a time, so that only one is in memory; None for each on all processes but the
        first."""
        stack, entries = self.result(), self.fit_cost.card_entry() | {"input_scale": self.scaling.card_value}
        own = {member: i for i, member in enumerate(self.division.members)}
        for member, (config, _) in enumerate(self.members):
            alone = self._assembled(member, stack, own.get(member))
            if alone is None:
                yield None
                continue
            yield config.architecture().build(*self.scaling.fold(alone.member(0))).with_card(**entries)

    def _assembled(self, member: int, stack: Stack, at: int | None) -> Stack | None:
        """The stack of one member with all its latents, on the CPU; `at` is its place in `stack`. None on all processes
        but the first, which take part in putting it together."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in stack.tensors().items():
            here = None if at is None else tensor[at].cpu()
            whole = self.division.assemble(here, member, name not in Stack.WITHOUT_LATENTS)
            if whole is not None:
                tensors[name] = whole[None]
        return Stack.of(tensors) if tensors else None

    @property
    def fit_cost(self) -> FitCost:
        """The training cost of each member.

        Every sample costs five products of ``d_in * n_latents``, as in a dense step (the codes, the reconstruction, and
        the gradients of codes, decoder and encoder), also on the sparse path, which computes less. Matching pursuit,
        whose gradient touches few latents, costs one product for each of its k steps; a step of iterative shrinkage in
        the encoder adds six products. The samples from which the input scale is measured are those of the first steps
        and are not counted twice.
        """
        architecture = self.members[0][0].architecture()
        selection, steps = architecture.selection, bool(architecture.shrinkage_step)
        products = selection.k if isinstance(selection, Pursuit) else PRODUCTS if steps else 5
        samples, weights = self.step * self.config.batch_size, self.division.n_latents * self.stack.W_dec.shape[-1]
        return FitCost.training(samples, products * weights * samples, self.n_rows)


def _check_fits(architecture: Architecture, source: Source, config: TrainConfig) -> None:
    """Raises `UserError` where the architecture cannot be trained on the source, or with these settings."""
    pursues, takes_step = isinstance(architecture.selection, Pursuit), bool(architecture.shrinkage_step)
    if source.has_targets and (pursues or takes_step):
        kind = "matching_pursuit" if pursues else "unrolled"
        raise UserError(f'kind = "{kind}": works for autoencoders only, and this source has targets; use another kind')
    if pursues and config.aligned:
        raise UserError(
            "train.aligned = true: matching pursuit has no encoder of its own; train it without, or another kind"
        )
    if takes_step and config.input_scale == "whiten":
        raise UserError(
            'train.input_scale = "whiten": kind = "unrolled" would take its step in whitened units, and a dictionary '
            'takes it in raw ones; use "sqrt_d"'
        )


def select_members(
    checkpoint: Mapping[str, Tensor], members: Sequence[int], latents: Int[Tensor, " n"] | None = None
) -> dict[str, Tensor]:
    """The checkpoint of these members of a stack, as if they had been trained without the others; with `latents`, only
    of these latents of each."""
    keep = list(members)
    of_members = {name: t if name.startswith(SHARED) else t[keep] for name, t in checkpoint.items()}
    if latents is None:
        return of_members
    return {name: t[:, latents] if has_latents(name) else t for name, t in of_members.items()}


SHARED = ("step", "units.")
"""How the names of tensors in a checkpoint begin that all members share."""


def has_latents(name: str) -> bool:
    """Whether a tensor of a checkpoint has an axis of latents, after that of members."""
    kind, _, parameter = name.partition(".")
    is_parameter = kind in ("parameter", "moment0", "moment1", "average")
    return parameter not in Stack.WITHOUT_LATENTS if is_parameter else name in ("silent_for", "frequency")
