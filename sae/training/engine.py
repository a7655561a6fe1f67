"""One training step of a stack, with every member on the dense or the sparse path.

A dictionary with an L1 penalty is dense at first and sparse once trained. The path of a member depends only on its own
mean number of active latents, with hysteresis, so that a member trains the same in any stack. Consecutive members on
the same path are processed together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.architecture import Architecture, LargestOfBatch, Pursuit
from sae.numerics.profiler import NO_SPANS, Spans
from sae.registry import UserError
from sae.training import pursuit_step as pursuit
from sae.training import sparse_step as sparse
from sae.training.dense_step import DenseStep
from sae.training.division import Division
from sae.training.gradients import Gradient, StepInputs, Terms
from sae.training.kernels import Adam, Kernels, Rounded, TrainedLatents
from sae.training.kernels.backend import kernels_for
from sae.training.kernels.graph import Replay
from sae.training.kernels.reference import adam_
from sae.training.stack import Stack

Precision = Literal["float32", "screen", "bfloat16"]
"""How the encoder's product is computed once codes are sparse."""
AnyPrecision = Literal["float32", "screen", "bfloat16", "auto"]
"""What a config may say: one of them, or that it is to be chosen before training."""
CHOOSE_PATH_EVERY = 10
"""The number of steps between choices of the path; it is chosen after the first step too."""
THRESHOLD_RATE = 0.03
"""The share of a batch's threshold in the moving average."""
LARGE = {"cpu": 1 << 18}
"""The number of codes of a member from which the dense path processes members one at a time, so that each stays in the
cache."""
WORTHWHILE = {"cpu": 1 << 18, "cuda": 1 << 24}
"""The number of codes of a member from which the sparse path is worthwhile where it processes members one by one. That
of a GPU is an estimate: below it, a dense step takes no longer than to launch the kernels of a sparse one."""

REPLAYED = 1 << 25
"""The number of codes up to which a dense step on a GPU is captured and replayed, because computing it takes less time
than launching it."""


class Engine:
    """Trains `stack` in place, and with it the `moments` of Adam and the paths `is_sparse` of its members.

    `target_l0` is for penalties that depend on it, `keep_near` the cosine of :meth:`Stack.keep_near_`. Where
    latents are divided over processes, the stack has those of the `division`.
    """

    def __init__(
        self,
        stack: Stack,
        moments: Mapping[str, list[Tensor]],
        is_sparse: Bool[Tensor, " n_members"],
        architecture: Architecture,
        batch: int,
        *,
        decoder_bias: bool = True,
        precision: AnyPrecision = "float32",
        spans: Spans = NO_SPANS,
        kernels: Kernels | None = None,
        target_l0: Float[Tensor, " n_members"] | None = None,
        keep_near: float = 0.0,
        aligned: bool = False,
        division: Division | None = None,
    ) -> None:
        self.stack, self.architecture, self.decoder_bias, self.spans = stack, architecture, decoder_bias, spans
        if precision not in get_args(Precision):
            raise UserError(f"precision = {precision!r}: training needs the precision that was chosen; see sae.fit")
        self.is_sparse, self.precision, self.keep_near = is_sparse, precision, keep_near
        self.aligned = aligned
        self.target_l0 = torch.full_like(stack.batch_threshold, torch.nan) if target_l0 is None else target_l0
        self.m, self.v = (Stack.of({name: pair[i] for name, pair in moments.items()}) for i in (0, 1))
        self.kernels = kernels_for(stack.W_dec) if kernels is None else kernels
        n_members, n_own, d_in = stack.W_dec.shape
        division = division or Division.whole(n_members, n_own)
        self.group, self.n_latents = division.group, division.n_latents
        # By all latents, so that the path does not depend on the number of processes.
        codes = batch * self.n_latents
        is_large = codes >= LARGE.get(stack.W_dec.device.type, codes + 1)
        self.at_once = 1 if is_large else n_members
        # On the sparse path, members with levels or with an auxiliary loss are processed one by one: while they are
        # small, the dense path is faster.
        one_by_one = len(architecture.levels) > 1 or architecture.dead_latent_loss is not None
        pursues = isinstance(architecture.selection, Pursuit)
        is_worthwhile = codes >= WORTHWHILE.get(stack.W_dec.device.type, codes + 1)
        dense_only = pursues or bool(architecture.shrinkage_step)
        self._may_be_sparse = not dense_only and (is_worthwhile or not one_by_one)
        self._dense = DenseStep(self.at_once, n_own, d_in, batch, stack.W_dec, self.group, division.most)
        self._residual = stack.W_dec.new_empty(0)
        self._rounded: Rounded | None = None
        self._stale = torch.ones(n_members, dtype=torch.bool)
        # A profiler waits for the device, which is not allowed during a capture; exchanges with others are not
        # captured.
        is_small, alone = n_members * codes <= REPLAYED, self.group.size == 1
        self._replays = stack.W_dec.is_cuda and is_small and alone and spans is NO_SPANS
        self._captured: dict[tuple[int, int], Replay[tuple[Terms, Gradient]]] = {}

    def step(
        self,
        x: Float[Tensor, "batch d_in"],
        t: int,
        adam: Adam,
        coefficient: Tensor,
        *,
        count: bool = True,
        y: Float[Tensor, "batch d_in"] | None = None,
        dead: Bool[Tensor, "n_members n_latents"] | None = None,
        constant_rate: Adam | None = None,
    ) -> Terms:
        """The `t`-th step, counted from 1, on one batch for all members.

        `y` is the target of the reconstruction, `x` by default; `dead` are the latents that an auxiliary loss trains;
        `constant_rate` is the step of per-latent parameters whose learning rate does not decay. Unless `count`, the
        terms `l0` and `penalty` may be zero.
        """
        terms, chooses_paths = Terms.empty(self.stack), t == 1 or t % CHOOSE_PATH_EVERY == 0
        if self.architecture.dead_latent_loss is None or dead is None or not self.group.any(dead.any()):
            dead = None
        inputs = StepInputs(
            x=x,
            y=x if y is None else y,
            adam=adam,
            coefficient=coefficient,
            target_l0=self.target_l0,
            terms=terms,
            dead=dead,
            count=count or chooses_paths,
        )
        for is_sparse, first, last in self._runs():
            step = self._sparse_step if is_sparse else self._dense_step
            rest = step(first, last, inputs.part(first, last))
            with self.spans("optimizer"):
                rate = constant_rate if self.architecture.constant_rate else None
                self._descend_rest(first, last, rest, adam, rate or adam)
        if isinstance(self.architecture.selection, LargestOfBatch):
            follow_(self.stack.batch_threshold, terms.batch_threshold)
            if self.stack.first_threshold is not None:
                follow_(self.stack.first_threshold, terms.first_threshold)
        if chooses_paths:
            self._choose_paths(terms.l0)
        return terms

    def errors(
        self, x: Float[Tensor, "batch d_in"], y: Float[Tensor, "batch d_in"] | None = None
    ) -> Float[Tensor, "n_members batch"]:
        """The squared error of every sample, for every member."""
        errors, y = x.new_empty(self.stack.n_members, len(x)), x if y is None else y
        for i in range(self.stack.n_members):
            member = self.stack.part(i, i + 1)
            if isinstance(self.architecture.selection, Pursuit):
                errors[i] = pursuit.pursuit_errors(member, self.architecture.selection, x)
                continue
            for row in range(0, len(x), self._dense.rows):
                block = slice(row, row + self._dense.rows)
                errors[i, block] = self._dense.errors(member, self.architecture, x[block], y[block])[0]
        return errors

    def anneal(self, architecture: Architecture, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, " n_members"]:
        """Continues with an annealed `architecture`. Returns the ratio of the old to the new penalty on `x`, which is 1
        where the selection is annealed."""
        ratio = torch.ones_like(self.stack.batch_threshold)
        if architecture == self.architecture:
            return ratio
        if architecture.selection == self.architecture.selection:
            costs = [
                torch.cat([self._dense.cost(self.stack.part(i, i + 1), state, x) for i in range(self.stack.n_members)])
                for state in (self.architecture, architecture)
            ]
            ratio = torch.where(costs[1] > 0, costs[0] / costs[1], ratio)
        self.architecture = architecture
        self._captured.clear()
        return ratio

    def refresh(self) -> None:
        """Must be called after parameters have been changed from outside."""
        self._stale.fill_(True)

    def _runs(self) -> Iterator[tuple[bool, int, int]]:
        """Runs of consecutive members on the same path: ``(is_sparse, first, last)``."""
        first = 0
        for is_sparse, run in groupby(self.is_sparse.tolist()):
            last = first + len(list(run))
            at_once = last - first if is_sparse else self.at_once
            for start in range(first, last, at_once):
                yield is_sparse, start, min(start + at_once, last)
            first = last

    def _sparse_step(self, first: int, last: int, inputs: StepInputs) -> sparse.RemainingGradient:
        if len(self._residual) < last - first:
            self._residual = inputs.x.new_empty(last - first, *inputs.x.shape)
        members = sparse.Members(
            kernels=self.kernels,
            stack=self.stack.part(first, last),
            m=self.m.part(first, last),
            v=self.v.part(first, last),
            architecture=self.architecture,
            residual=self._residual[: last - first],
            rounded=self._rounded_part(first, last),
            spans=self.spans,
            group=self.group,
        )
        return sparse.sparse_descend(members, inputs)

    def _dense_step(self, first: int, last: int, inputs: StepInputs) -> Gradient:
        self._stale[first:last] = True
        # Steps that wait for the device, to search for a threshold or for dead latents, cannot be captured.
        waits = inputs.dead is not None or isinstance(self.architecture.selection, LargestOfBatch | Pursuit)
        if not self._replays or waits:
            return self._descend(first, last, inputs)

        def work(x: Tensor, y: Tensor, coefficient: Tensor, step_size: Tensor, root: Tensor) -> tuple[Terms, Gradient]:
            adam = inputs.adam._replace(step_size=step_size, root=root)
            terms = Terms.empty(self.stack.part(first, last))
            captured = replace(inputs, x=x, y=y, coefficient=coefficient, adam=adam, terms=terms, count=True)
            return terms, self._descend(first, last, captured)

        replay = self._captured.setdefault((first, last), Replay(work))
        terms, gradient = replay(inputs.x, inputs.y, inputs.coefficient, inputs.adam.step_size, inputs.adam.root)
        for to, new in zip(vars(inputs.terms).values(), vars(terms).values(), strict=True):
            to.copy_(new)
        return gradient

    def _descend(self, first: int, last: int, inputs: StepInputs) -> Gradient:
        stack, architecture = self.stack.part(first, last), self.architecture
        if isinstance(architecture.selection, Pursuit):
            gradient = pursuit.pursuit_gradients(stack, architecture.selection, inputs.x, inputs.y, inputs.terms)
        else:
            gradient = self._dense.gradients(stack, architecture, inputs, self.spans)
        with self.spans("optimizer"):
            p, m, v = (part.part(first, last).latents() for part in (self.stack, self.m, self.v))
            self.kernels.descend(TrainedLatents(p, m, v, architecture.unit_rows), gradient.latents, inputs.adam)
        return gradient

    def _descend_rest(
        self, first: int, last: int, rest: sparse.RemainingGradient | Gradient, adam: Adam, for_parameters: Adam
    ) -> None:
        """The step of the decoder bias and, by `for_parameters`, of the architecture's per-latent parameters."""
        stack, m, v = (part.part(first, last) for part in (self.stack, self.m, self.v))
        if self.decoder_bias:
            adam_(stack.b_dec, m.b_dec, v.b_dec, rest.b_dec, adam)
        for name, values in stack.latent_parameters.items():
            moments = m.latent_parameters[name], v.latent_parameters[name]
            adam_(values, *moments, rest.latent_parameters[name], for_parameters)
        self.architecture.constrain_(stack.per_latent())
        stack.keep_near_(self.keep_near)
        if self.aligned:
            stack.align_()
            self._stale[first:last] = True

    def _rounded_part(self, first: int, last: int) -> Rounded | None:
        """The rounded encoders of the members `first` to `last`, up to date."""
        if self.precision == "float32":
            return None
        n_latents, p = self.stack.W_dec.shape[1], self.stack.latents()
        if self._rounded is None:
            self._rounded = Rounded.of(p.W_enc, exact=self.precision == "screen")
            self._stale.fill_(False)
        for i in self._stale[first:last].nonzero()[:, 0].tolist():
            start, stop = (first + i) * n_latents, (first + i + 1) * n_latents
            self._rounded.part(start, stop).refresh_(p.W_enc[start:stop])
        self._stale[first:last] = False
        return self._rounded.part(first * n_latents, last * n_latents)

    def _choose_paths(self, l0: Tensor) -> None:
        density = (l0 / self.n_latents).to(self.is_sparse.device)
        bound = torch.where(self.is_sparse, self.kernels.dense_above, self.kernels.sparse_below)
        is_sparse = (density < bound) & self._may_be_sparse
        if not torch.equal(is_sparse, self.is_sparse):
            self._captured.clear()
        self.is_sparse.copy_(is_sparse)


def follow_(average: Float[Tensor, " n_members"], of_batch: Float[Tensor, " n_members"]) -> None:
    """Moves the moving average of a threshold, in place; a batch without a threshold (zero) is ignored."""
    new = torch.where(average > 0, average.lerp(of_batch, THRESHOLD_RATE), of_batch)
    average.copy_(torch.where(of_batch > 0, new, average))
