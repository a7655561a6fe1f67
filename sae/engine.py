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

from sae import sparse
from sae.dense import Dense, Terms
from sae.kernels import Adam, Kernels, Rounded
from sae.kernels.backend import kernels_for
from sae.kernels.graph import Replay
from sae.kernels.reference import adam_
from sae.spans import NO_SPANS, Spans
from sae.stack import Architecture, Stack

Precision = Literal["float32", "screen", "bfloat16"]
LOOK = 10
"""The path is chosen anew after the first step and every so many steps."""
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
    ) -> None:
        self.stack, self.architecture, self.decoder_bias, self.spans = stack, architecture, decoder_bias, spans
        self.is_sparse, self.precision = is_sparse, precision
        self.m, self.v = (Stack(**{name: pair[i] for name, pair in moments.items()}) for i in (0, 1))
        self.kernels = kernels_for(stack.W_dec) if kernels is None else kernels
        n_members, n_latents, d_in = stack.W_dec.shape
        codes = batch * n_latents
        self.at_once = 1 if codes >= LARGE.get(stack.W_dec.device.type, codes + 1) else n_members
        self._dense = Dense(self.at_once, n_latents, d_in, batch, stack.W_dec)
        self._residual = stack.W_dec.new_empty(0)
        self._rounded: Rounded | None = None
        self._stale = torch.ones(n_members, dtype=torch.bool)
        # Spans that wait for the device would do so in the midst of a capture.
        self._replays = stack.W_dec.is_cuda and n_members * codes <= REPLAYED and spans is NO_SPANS
        self._captured: dict[tuple[int, int], Replay[tuple[Terms, Tensor]]] = {}

    def step(
        self, x: Float[Tensor, "batch d_in"], t: int, adam: Adam, coefficient: Tensor, count: bool = True
    ) -> Terms:
        """The `t`-th step, counted from 1, on one batch for all members; `l0` may be left out unless `count`."""
        terms, look = Terms.empty(self.stack), t == 1 or t % LOOK == 0
        for is_sparse, first, last in self._runs():
            own, weight = terms.part(first, last), coefficient[first:last]
            if is_sparse:
                of_b_dec = self._sparse_step(first, last, x, adam, weight, own)
            else:
                of_b_dec = self._dense_step(first, last, x, adam, weight, own, count or look)
            if self.decoder_bias:
                with self.spans("optimizer"):
                    p, m, v = (part.b_dec[first:last] for part in (self.stack, self.m, self.v))
                    adam_(p, m, v, of_b_dec, adam)
        if look:
            self._choose_paths(terms.l0)
        return terms

    def errors(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "n_members batch"]:
        """The squared error of every row, member by member."""
        found, offset = x.new_empty(self.stack.n_members, len(x)), self.stack.offset()
        for i in range(self.stack.n_members):
            for row in range(0, len(x), self._dense.rows):
                some, own = slice(row, row + self._dense.rows), slice(i, i + 1)
                _, residual = self._dense.forward(self.stack.part(i, i + 1), self.architecture, x[some], offset[own])
                found[i, some] = residual[0].square().sum(-1)
        return found

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

    def _sparse_step(self, first: int, last: int, x: Tensor, adam: Adam, coefficient: Tensor, terms: Terms) -> Tensor:
        if len(self._residual) < last - first:
            self._residual = x.new_empty(last - first, *x.shape)
        return sparse.descend(
            self.kernels,
            self.stack.part(first, last),
            self.m.part(first, last),
            self.v.part(first, last),
            self.architecture,
            x,
            coefficient,
            adam,
            self._residual[: last - first],
            terms,
            self._rounded_part(first, last),
            self.spans,
        )

    def _dense_step(
        self, first: int, last: int, x: Tensor, adam: Adam, coefficient: Tensor, terms: Terms, count: bool
    ) -> Tensor:
        self._stale[first:last] = True
        if not self._replays:
            return self._descend(first, last, x, adam, coefficient, terms, count)

        def work(x: Tensor, coefficient: Tensor, step_size: Tensor, root: Tensor) -> tuple[Terms, Tensor]:
            own, held = Terms.empty(self.stack.part(first, last)), adam._replace(step_size=step_size, root=root)
            return own, self._descend(first, last, x, held, coefficient, own)

        replay = self._captured.setdefault((first, last), Replay(work))
        own, of_b_dec = replay(x, coefficient, adam.step_size, adam.root)
        for to, new in zip(vars(terms).values(), vars(own).values(), strict=True):
            to.copy_(new)
        return of_b_dec

    def _descend(
        self, first: int, last: int, x: Tensor, adam: Adam, coefficient: Tensor, terms: Terms, count: bool = True
    ) -> Tensor:
        some = self.stack.part(first, last)
        gradient, of_b_dec = self._dense.gradients(some, self.architecture, x, coefficient, terms, count, self.spans)
        with self.spans("optimizer"):
            p, m, v = (part.part(first, last).latents() for part in (self.stack, self.m, self.v))
            self.kernels.descend(p, m, v, gradient, adam, self.architecture.unit_rows, None)
        return of_b_dec

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
        is_sparse = density < bound
        if not torch.equal(is_sparse, self.is_sparse):
            self._captured.clear()
        self.is_sparse.copy_(is_sparse)
