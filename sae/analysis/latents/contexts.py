"""Context windows of examples: the tokens around each example, and the latent's activation at each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae.activations.corpus import PADDING
from sae.analysis.latents.examples import LatentExamples
from sae.analysis.latents.reading import HeldOutVectors, Index, Keep, Piece
from sae.dictionary import Dictionary

N_FEATURES = 6
"""The most true features that are recorded for an example."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of positions around examples, one row for each example."""

    before: int
    """The number of positions before the example."""
    token: Int[Tensor, "examples width"]
    """The tokens; :data:`~sae.activations.corpus.PADDING` beyond the ends of a row, or if the source has no tokens."""
    value: Float[Tensor, "examples width"]
    """The latent's activations; NaN where the dictionary is not applied."""
    feature: Int[Tensor, "examples n"] | None
    """The most active true features at the example's position, the largest first; None if they are not known."""
    coefficient: Float[Tensor, "examples n"] | None
    """Their coefficients."""

    @property
    def at_example(self) -> Float[Tensor, " examples"]:
        """The activation at the example's position."""
        return self.value[:, self.before]

    def __getitem__(self, index: Tensor) -> Windows:
        feature = None if self.feature is None else self.feature[index]
        coefficient = None if self.coefficient is None else self.coefficient[index]
        return Windows(self.before, self.token[index], self.value[index], feature, coefficient)


def windows(
    reading: HeldOutVectors,
    d: Dictionary,
    shown: Int[Tensor, " n_shown"],
    examples: LatentExamples,
    before: int,
    after: int,
) -> Windows:
    """The windows of examples, from a second pass over only those vectors that lie in some window."""
    if reading.context == 1:
        before = after = 0
    span = torch.arange(-before, after + 1)
    value = torch.full((len(examples), len(span)), torch.nan)
    feature = coefficient = None
    place = (examples.row * reading.context + examples.position).numpy()
    by_row = examples.row.argsort(stable=True)
    sorted_rows = examples.row[by_row].contiguous()
    for piece in reading.pieces(_near(np.unique(place), reading.context, before, after)):
        with torch.no_grad():
            z = d.encode(piece.acts)
        here = _of_rows(piece, sorted_rows, by_row)
        value[here] = _values(piece, z, examples[here], shown, span, reading.context)
        if piece.codes is not None:
            n = min(N_FEATURES, piece.codes.shape[1])
            feature = feature if feature is not None else torch.zeros(len(examples), n, dtype=torch.int64)
            coefficient = coefficient if coefficient is not None else torch.zeros(len(examples), n)
            best = piece.codes[_find(piece, examples[here], reading.context)].float().topk(n, dim=1)
            feature[here], coefficient[here] = best.indices.cpu(), best.values.cpu()
    return Windows(before, _tokens(reading, examples, span), value, feature, coefficient)


def _near(place: Index, context: int, before: int, after: int) -> Keep:
    """A filter for the positions that lie in the window of some place."""

    def keep(row: Index, position: Index) -> NDArray[np.bool_]:
        low = np.searchsorted(place, row * context + np.maximum(position - after, 0))
        high = np.searchsorted(place, row * context + np.minimum(position + before, context - 1), side="right")
        return high > low

    return keep


def _of_rows(piece: Piece, sorted_rows: Tensor, by_row: Tensor) -> Int[Tensor, " examples_in_piece"]:
    """The examples in the rows of a piece."""
    rows = piece.row.unique()
    low, high = (torch.searchsorted(sorted_rows, rows, right=right) for right in (False, True))
    size = high - low
    start = low.repeat_interleave(size)
    within = torch.arange(int(size.sum())) - (size.cumsum(0) - size).repeat_interleave(size)
    return by_row[start + within]


def _find(piece: Piece, examples: LatentExamples, context: int) -> Int[Tensor, " examples"]:
    """The numbers of the examples' vectors in the piece."""
    place, order = (piece.row * context + piece.position).sort()
    return order[torch.searchsorted(place, examples.row * context + examples.position)]


def _values(
    piece: Piece, z: Tensor, examples: LatentExamples, shown: Tensor, span: Int[Tensor, " width"], context: int
) -> Float[Tensor, "examples width"]:
    place, order = (piece.row * context + piece.position).sort()
    position = examples.position[:, None] + span
    target = examples.row[:, None] * context + position
    at = torch.searchsorted(place, target).clamp(max=len(place) - 1)
    exists = (place[at] == target) & (position >= 0) & (position < context)
    latent = shown[examples.latent][:, None].expand_as(at)
    value = z[order[at].to(z.device), latent.to(z.device)].float().cpu()
    return value.masked_fill(~exists, torch.nan)


def _tokens(
    reading: HeldOutVectors, examples: LatentExamples, span: Int[Tensor, " width"]
) -> Int[Tensor, "examples width"]:
    rows, which = examples.row.unique(return_inverse=True)
    position = examples.position[:, None] + span
    outside = (position < 0) | (position >= reading.context)
    at = position.clamp(0, reading.context - 1)
    token = torch.full(at.shape, PADDING, dtype=torch.int32)
    order = which.argsort(stable=True)
    # In blocks of rows, since examples may come from every row of the source.
    for begin in range(0, len(rows), 1024):
        text = reading.text(rows[begin : begin + 1024])
        if text is None:
            return token
        here = order[(which[order] >= begin) & (which[order] < begin + 1024)]
        tokens = text.tokens.masked_fill(~text.attended, PADDING).int()
        token[here] = tokens[which[here] - begin].gather(1, at[here])
    return token.masked_fill(outside, PADDING)
