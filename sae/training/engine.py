"""One training step of a stack: every member on the dense or the sparse path, whichever its codes call for.

A fresh L1 dictionary is dense, a trained one sparse. The path of a member follows from its own mean number of
active latents, with hysteresis, so that a member comes out the same whatever else is in its stack. Neighbours on
the same path are taken together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.architecture import Architecture, LargestOfBatch, Pursuit
from sae.numerics.profiler import NO_SPANS, Spans
from sae.training import pursuit_step as pursuit
from sae.training import sparse_step as sparse
from sae.training.dense_step import DenseStep
from sae.training.gradients import Gradient, Terms
from sae.training.kernels import Adam, Kernels, Rounded
from sae.training.kernels.backend import kernels_for
from sae.training.kernels.graph import Replay
from sae.training.kernels.reference import adam_
from sae.training.stack import Stack

Precision = Literal["float32", "screen", "bfloat16"]
CHOOSE_PATH_EVERY = 10
"""The path is chosen anew after the first step and every so many steps."""
THRESHOLD_RATE = 0.03
"""The share of a batch's bar in the one that is followed."""
LARGE = {"cpu": 1 << 18}
"""From so many codes on, members are taken one at a time on the dense path, each while it is in the cache."""

REPLAYED = 1 << 25
"""Up to so many codes a GPU is done with a dense step before it is asked for all of it: it is captured and replayed."""


class Engine:
    """Trains `stack` in place, with its `moments` and the paths `is_sparse` of its members."""

    def __init__(
        self,
        stack: Stack,
        moments: Mapping[str, list[Tensor]],
        is_sparse: Bool[Tensor, " n_members"],
        architecture: Architecture,
        batch: int,
        decoder_bias: bool = True,
        precision: Precision = "float32",
        spans: Spans = NO_SPANS,
        kernels: Kernels | None = None,
        target_l0: Float[Tensor, " n_members"] | None = None,
        keep_near: float = 0.0,
    ) -> None:
        self.stack, self.architecture, self.decoder_bias, self.spans = stack, architecture, decoder_bias, spans
        self.is_sparse, self.precision, self.keep_near = is_sparse, precision, keep_near
        self.target_l0 = torch.full_like(stack.batch_threshold, torch.nan) if target_l0 is None else target_l0
        self.m, self.v = (Stack.of({name: pair[i] for name, pair in moments.items()}) for i in (0, 1))
        self.kernels = kernels_for(stack.W_dec) if kernels is None else kernels
        n_members, n_latents, d_in = stack.W_dec.shape
        codes = batch * n_latents
        is_large = codes >= LARGE.get(stack.W_dec.device.type, codes + 1)
        self.at_once = 1 if is_large else n_members
        # On the sparse path, members with levels or with dead latents that learn are taken one by one: while they are
        # small, together on the dense path is faster.
        by_one = len(architecture.levels) > 1 or architecture.dead_latent_loss is not None
        pursues = isinstance(architecture.selection, Pursuit)
        self._may_be_sparse = not pursues and (is_large or not by_one)
        self._dense = DenseStep(self.at_once, n_latents, d_in, batch, stack.W_dec)
        self._residual = stack.W_dec.new_empty(0)
        self._rounded: Rounded | None = None
        self._stale = torch.ones(n_members, dtype=torch.bool)
        # Spans that wait for the device would do so in the midst of a capture.
        self._replays = stack.W_dec.is_cuda and n_members * codes <= REPLAYED and spans is NO_SPANS
        self._captured: dict[tuple[int, int], Replay[tuple[Terms, Gradient]]] = {}

    def step(
        self,
        x: Float[Tensor, "batch d_in"],
        t: int,
        adam: Adam,
        coefficient: Tensor,
        count: bool = True,
        y: Float[Tensor, "batch d_in"] | None = None,
        dead: Bool[Tensor, "n_members n_latents"] | None = None,
        steady: Adam | None = None,
    ) -> Terms:
        """The `t`-th step, counted from 1, on one batch for all members; unless `count`, `l0` and the penalty may be
        left out.

        `y` is what is to be reconstructed where it is not `x`; `dead` are the latents that may be revived; `steady` is
        the step of own numbers whose rate does not decay.
        """
        terms, look = Terms.empty(self.stack), t == 1 or t % CHOOSE_PATH_EVERY == 0
        y = x if y is None else y
        if self.architecture.dead_latent_loss is None or dead is None or not bool(dead.any()):
            dead = None
        for is_sparse, first, last in self._runs():
            own, weight = terms.part(first, last), coefficient[first:last]
            of_dead = None if dead is None else dead[first:last]
            if is_sparse:
                rest = self._sparse_step(first, last, x, y, adam, weight, own, of_dead)
            else:
                rest = self._dense_step(first, last, x, y, adam, weight, own, of_dead, count or look)
            with self.spans("optimizer"):
                self._settle(first, last, rest, adam, (steady or adam) if self.architecture.constant_rate else adam)
        if isinstance(self.architecture.selection, LargestOfBatch):
            met, bar = terms.batch_threshold > 0, self.stack.batch_threshold
            bar.copy_(
                torch.where(
                    met,
                    torch.where(bar > 0, bar.lerp(terms.batch_threshold, THRESHOLD_RATE), terms.batch_threshold),
                    bar,
                )
            )
        if look:
            self._choose_paths(terms.l0)
        return terms

    def errors(
        self, x: Float[Tensor, "batch d_in"], y: Float[Tensor, "batch d_in"] | None = None
    ) -> Float[Tensor, "n_members batch"]:
        """The squared error of every row, member by member."""
        found, y = x.new_empty(self.stack.n_members, len(x)), x if y is None else y
        for i in range(self.stack.n_members):
            if isinstance(self.architecture.selection, Pursuit):
                found[i] = pursuit.pursuit_errors(self.stack.part(i, i + 1), self.architecture.selection, x)
                continue
            for row in range(0, len(x), self._dense.rows):
                some = slice(row, row + self._dense.rows)
                found[i, some] = self._dense.errors(self.stack.part(i, i + 1), self.architecture, x[some], y[some])[0]
        return found

    def anneal(self, architecture: Architecture, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, " n_members"]:
        """Goes on with another state of the same architecture. How much larger the penalty of `x` was before: 1
        where it is the selection that is annealed, which has no penalty beside."""
        ratio = torch.ones_like(self.stack.batch_threshold)
        if architecture == self.architecture:
            return ratio
        if architecture.selection == self.architecture.selection:
            costs = [
                torch.cat([self._dense.cost(self.stack.part(i, i + 1), one, x) for i in range(self.stack.n_members)])
                for one in (self.architecture, architecture)
            ]
            ratio = torch.where(costs[1] > 0, costs[0] / costs[1], ratio)
        self.architecture = architecture
        self._captured.clear()
        return ratio

    def refresh(self) -> None:
        """To be called when somebody else has changed parameters."""
        self._stale.fill_(True)

    def _runs(self) -> Iterator[tuple[bool, int, int]]:
        """Neighbours on the same path: ``(is_sparse, first, last)``."""
        first = 0
        for is_sparse, run in groupby(self.is_sparse.tolist()):
            last = first + len(list(run))
            at_once = last - first if is_sparse else self.at_once
            for begin in range(first, last, at_once):
                yield is_sparse, begin, min(begin + at_once, last)
            first = last

    def _sparse_step(
        self,
        first: int,
        last: int,
        x: Tensor,
        y: Tensor,
        adam: Adam,
        coefficient: Tensor,
        terms: Terms,
        dead: Tensor | None,
    ) -> sparse.RemainingGradient:
        if len(self._residual) < last - first:
            self._residual = x.new_empty(last - first, *x.shape)
        members = sparse.Members(
            self.kernels,
            self.stack.part(first, last),
            self.m.part(first, last),
            self.v.part(first, last),
            self.architecture,
            coefficient,
            self.target_l0[first:last],
            self._residual[: last - first],
            terms,
            self._rounded_part(first, last),
            dead,
            self.spans,
        )
        return sparse.sparse_descend(members, x, y, adam)

    def _dense_step(
        self,
        first: int,
        last: int,
        x: Tensor,
        y: Tensor,
        adam: Adam,
        coefficient: Tensor,
        terms: Terms,
        dead: Tensor | None,
        count: bool,
    ) -> Gradient:
        self._stale[first:last] = True
        # What waits for the device, as a search for a bar or for what is dead does, cannot be captured.
        plain = dead is None and not isinstance(self.architecture.selection, LargestOfBatch | Pursuit)
        if not self._replays or not plain:
            return self._descend(first, last, x, y, adam, coefficient, terms, dead, count)

        def work(x: Tensor, y: Tensor, coefficient: Tensor, step_size: Tensor, root: Tensor) -> tuple[Terms, Gradient]:
            own, held = Terms.empty(self.stack.part(first, last)), adam._replace(step_size=step_size, root=root)
            return own, self._descend(first, last, x, y, held, coefficient, own)

        replay = self._captured.setdefault((first, last), Replay(work))
        own, gradient = replay(x, y, coefficient, adam.step_size, adam.root)
        for to, new in zip(vars(terms).values(), vars(own).values(), strict=True):
            to.copy_(new)
        return gradient

    def _descend(
        self,
        first: int,
        last: int,
        x: Tensor,
        y: Tensor,
        adam: Adam,
        coefficient: Tensor,
        terms: Terms,
        dead: Tensor | None = None,
        count: bool = True,
    ) -> Gradient:
        some = self.stack.part(first, last)
        if isinstance(self.architecture.selection, Pursuit):
            gradient = pursuit.pursuit_gradients(some, self.architecture.selection, x, y, terms)
        else:
            gradient = self._dense.gradients(
                some, self.architecture, x, y, coefficient, self.target_l0[first:last], terms, dead, count, self.spans
            )
        with self.spans("optimizer"):
            p, m, v = (part.part(first, last).latents() for part in (self.stack, self.m, self.v))
            self.kernels.descend(p, m, v, gradient.latents, adam, self.architecture.unit_rows, None)
        return gradient

    def _settle(
        self, first: int, last: int, rest: sparse.RemainingGradient | Gradient, adam: Adam, of_own: Adam
    ) -> None:
        """The step of what is left when the latents' rows and biases have made theirs."""
        some, m, v = (part.part(first, last) for part in (self.stack, self.m, self.v))
        if self.decoder_bias:
            adam_(some.b_dec, m.b_dec, v.b_dec, rest.b_dec, adam)
        for name, numbers in some.latent_parameters.items():
            adam_(numbers, m.latent_parameters[name], v.latent_parameters[name], rest.latent_parameters[name], of_own)
        self.architecture.constrain_(some.per_latent())
        some.keep_near_(self.keep_near)

    def _rounded_part(self, first: int, last: int) -> Rounded | None:
        """The rounded encoders of some members, brought up to date."""
        if self.precision == "float32":
            return None
        n_latents, p = self.stack.W_dec.shape[1], self.stack.latents()
        if self._rounded is None:
            self._rounded = Rounded.of(p.W_enc, exact=self.precision == "screen")
            self._stale.fill_(False)
        for i in self._stale[first:last].nonzero()[:, 0].tolist():
            own = slice((first + i) * n_latents, (first + i + 1) * n_latents)
            self._rounded.part(own.start, own.stop).refresh_(p.W_enc[own])
        self._stale[first:last] = False
        return self._rounded.part(first * n_latents, last * n_latents)

    def _choose_paths(self, l0: Tensor) -> None:
        density = (l0 / self.stack.W_dec.shape[1]).to(self.is_sparse.device)
        bound = torch.where(self.is_sparse, self.kernels.dense_above, self.kernels.sparse_below)
        is_sparse = (density < bound) & self._may_be_sparse
        if not torch.equal(is_sparse, self.is_sparse):
            self._captured.clear()
        self.is_sparse.copy_(is_sparse)
