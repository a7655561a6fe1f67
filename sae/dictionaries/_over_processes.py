"""A dictionary whose latents are divided over processes, for widths that one device does not hold.

The first process uses it like any other: it passes samples to the others, each encodes them for its latents on its own
device, and the active codes come back. Decoding sends the active codes out, and the sum of what the processes decode is
the reconstruction. Everything else (norms and rows of the decoder, cosines) is read from the weights in the first
process's memory. The other processes answer in :func:`answer` and run nothing else, so that any metric can be computed.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionaries.topk import TopK
from sae.dictionary import Dictionary
from sae.numerics.processes import ALONE, Processes
from sae.numerics.thresholding import largest

_PAIRS = 1 << 16
"""The number of active codes whose decoder rows are gathered at a time."""


def is_divisible(cls: type[Dictionary]) -> bool:
    """Whether parts of the latents can encode for themselves: kinds with independent latents, and TopK, whose
    candidates are compared afterwards."""
    return cls.independent_latents or cls is TopK


def own_latents(n_latents: int, processes: Processes) -> range:
    """The latents of this process."""
    rank, size = processes.rank, processes.size
    return range(n_latents * rank // size, n_latents * (rank + 1) // size)


@dataclass(frozen=True, eq=False)
class OverProcesses(Dictionary):
    """The dictionary as the first process uses it; the weights are those of the whole, in its memory."""

    whole: Dictionary = field(kw_only=True)
    """The dictionary itself."""
    part: Dictionary = field(kw_only=True)
    """The part of this process, on its device."""
    processes: Processes = field(default=ALONE, kw_only=True)
    """The processes that have the latents."""

    @property
    def kind(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.whole.kind

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        rows = x.reshape(-1, x.shape[-1])
        self.whole.centred(rows[:1])  # refuses another width before anything is sent
        _tell(self.processes, do="encode", rows=len(rows))
        codes = _encoded(self.part, rows, self.n_latents, self.processes).to(x.device)
        codes = largest(codes, self.whole.k) if isinstance(self.whole, TopK) else codes
        return codes.view(*x.shape[:-1], -1)

    def decode(self, z: Float[Tensor, "*batch n_latents"]) -> Float[Tensor, "*batch d_out"]:
        codes = z.reshape(-1, self.n_latents)
        where = codes.nonzero()
        values = codes[where[:, 0], where[:, 1]]
        _tell(self.processes, do="decode", rows=len(codes), pairs=len(values))
        decoded = _decoded(self.part, where, values, len(codes), self.n_latents, self.processes)
        return (decoded.to(z.device) + self.b_dec).view(*z.shape[:-1], -1)

    def multiply_adds(self) -> int:
        return self.whole.multiply_adds()

    def settings(self) -> dict[str, Any]:
        return self.whole.settings()


@contextmanager
def over_processes(whole: Dictionary, part: Dictionary, processes: Processes) -> Generator[Dictionary]:
    """The dictionary divided over the processes, of which the first has this `part`; the others have to :func:`answer`
    for as long as the context lasts."""
    shared = {name: getattr(whole, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    try:
        yield OverProcesses(**shared, card=whole.card, whole=whole, part=part, processes=processes)
    finally:
        _tell(processes, do="end")


def answer(part: Dictionary, n_latents: int, processes: Processes) -> None:
    """Encodes and decodes with the latents of this process whatever the first process asks for, until it has ended."""
    like = part.W_dec
    while (asked := json.loads(processes.tell("")))["do"] != "end":
        if asked["do"] == "encode":
            _encoded(part, torch.empty(asked["rows"], part.d_in, dtype=like.dtype), n_latents, processes)
        else:
            where = torch.empty(asked["pairs"], 2, dtype=torch.int64)
            values = torch.empty(asked["pairs"], dtype=like.dtype)
            _decoded(part, where, values, asked["rows"], n_latents, processes)


def _tell(processes: Processes, **what: Any) -> None:
    processes.tell(json.dumps(what))


def _encoded(part: Dictionary, x: Tensor, n_latents: int, processes: Processes) -> Tensor:
    """The codes of all latents, or the candidates for them, on the first process; `x` is that of the first process."""
    x = processes.from_first(x.to(part.device, part.dtype))
    with torch.no_grad():
        own = part.encode(x)
    where = own.nonzero()
    values = own[where[:, 0], where[:, 1]]
    where[:, 1] += own_latents(n_latents, processes).start
    every_where, every_value = (torch.cat(processes.gather_rows(each)) for each in (where, values))
    if not processes.is_first:
        return own
    codes = own.new_zeros(len(x), n_latents)
    codes[every_where[:, 0], every_where[:, 1]] = every_value
    return codes


def _decoded(
    part: Dictionary, where: Tensor, values: Tensor, rows: int, n_latents: int, processes: Processes
) -> Tensor:
    """The sum of what the processes decode, without the bias; codes are those of the first process."""
    where, values = (processes.from_first(each.to(part.device)) for each in (where, values.to(part.dtype)))
    own = own_latents(n_latents, processes)
    here = (where[:, 1] >= own.start) & (where[:, 1] < own.stop)
    row, latent, value = where[here, 0], where[here, 1] - own.start, values[here]
    decoded = part.W_dec.new_zeros(rows, part.d_out)
    for pairs in (slice(i, i + _PAIRS) for i in range(0, len(value), _PAIRS)):
        decoded.index_add_(0, row[pairs], value[pairs, None] * part.W_dec[latent[pairs]])
    processes.sum_(decoded)
    return decoded
