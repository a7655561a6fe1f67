"""The rows of text in which latents of several dictionaries are most active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.analysis.graphs.local_model import read_positions
from sae.analysis.intervention.splicing import Places, ends
from sae.model.hooked import Model
from sae.model.token_rows import TokenRows


@dataclass(frozen=True, eq=False)
class TopRows:
    """The rows in which some latents of one place are most active, one position each."""

    tokens: Int[Tensor, "n_latents n_top n_tokens"]
    """The tokens of each row."""
    codes: Float[Tensor, "n_latents n_top n_tokens"]
    """The latent's code at every position; its maximum is what rows are ranked by."""


@torch.no_grad()
def top_rows(
    model: Model | Any,
    places: Places,
    latents: Mapping[str, Sequence[int]],
    text: TokenRows,
    n_top: int = 4,
    rows_at_once: int = 16,
) -> dict[str, TopRows]:
    """The `n_top` rows of a text with the largest code of each of some latents, by place; memory does not grow with the
    text."""
    wrapped, best = Model.of(model), dict[str, TopRows]()
    names = [name for name in places if latents.get(name)]
    hooks = list(dict.fromkeys(ends(name)[0] for name in names))
    for start in range(0, len(text), rows_at_once):
        batch = text[start : start + rows_at_once]
        acts = wrapped.activations_at(batch.tokens, batch.attended, hooks) if hooks else []
        read = read_positions(wrapped, {name: places[name] for name in names}, batch.tokens.to(wrapped.device))
        for name in names:
            x, d = dict(zip(hooks, acts, strict=True))[ends(name)[0]], places[name]
            z = d.encode(x.to(d.device, d.dtype))[..., list(latents[name])] * read[name][..., None].to(d.device)
            found = TopRows(batch.tokens.expand(z.shape[2], -1, -1).cpu(), z.permute(2, 0, 1).float().cpu())
            best[name] = _best(found if name not in best else _both(best[name], found), n_top)
    return best


def _both(a: TopRows, b: TopRows) -> TopRows:
    return TopRows(torch.cat([a.tokens, b.tokens], 1), torch.cat([a.codes, b.codes], 1))


def _best(rows: TopRows, n: int) -> TopRows:
    order = rows.codes.amax(-1).topk(min(n, rows.codes.shape[1]), dim=1).indices[..., None]
    index = order.expand(-1, -1, rows.codes.shape[-1])
    return TopRows(rows.tokens.gather(1, index), rows.codes.gather(1, index))
