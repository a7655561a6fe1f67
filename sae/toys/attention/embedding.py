"""The known features of activations before attention: ``x = W_E[t] + W_pos[p]``, one token and one position per sample.

Activations determine a one-of-K group only up to a constant. With m the mean of a group's rows, weighted by how often
each occurs,

    f_i = (W_i - m) / |W_i - m|,    c_i = |W_i - m| where i occurs,    offset = sum of the groups' m

so that ``x = codes @ directions + offset`` holds exactly and the offset is the mean of x. An element that never occurs,
or always does, is not represented.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.numerics.matching import unit
from sae.source import Truth

GROUPS = {
    r"hook_embed|embed\.hook_out": ("token",),
    r"hook_pos_embed|pos_embed\.hook_out": ("position",),
    r"blocks\.0\.(hook_in|hook_resid_pre|ln1\.hook_(in|out)|attn\.hook_in|attn\.[qkv]\.hook_in)": ("token", "position"),
}
"""The embeddings that a hook point carries, by a pattern of its name."""


def groups_at(hook: str) -> tuple[str, ...]:
    """The groups of features at a hook point before attention; empty at later ones."""
    return next((groups for pattern, groups in GROUPS.items() if re.fullmatch(pattern, hook)), ())


class Embedding:
    """The features of all groups as one table, tokens first.

    Args:
        tables: Embedding rows ``[K, d_in]`` of each group.
        shares: Share of samples in which each element of a group occurs.
        device: Device of the directions and codes.
    """

    def __init__(
        self, tables: Mapping[str, Float[Tensor, "_ d_in"]], shares: Mapping[str, Float[Tensor, " _"]], device: str
    ) -> None:
        tables = {name: table.detach().cpu() for name, table in tables.items()}
        self.groups = tuple(tables)
        means = {name: shares[name] @ table for name, table in tables.items()}
        centred = [tables[g] - means[g] for g in self.groups]
        share = torch.cat([shares[g] for g in self.groups])
        rows = torch.cat(centred) * ((share > 0) & (share < 1))[:, None]
        size = rows.norm(dim=1)
        self.sizes = [part.to(device) for part in size.split([len(c) for c in centred])]
        offset = torch.stack([means[g] for g in self.groups]).sum(0)
        self.truth = Truth(unit(rows).to(device), (size > 0).to(device), share.to(device), offset=offset.to(device))

    def codes(self, token: Int[Tensor, " batch"], position: Int[Tensor, " batch"]) -> Float[Tensor, "batch n_features"]:
        """The codes of samples with these tokens at these positions."""
        index = {"token": token, "position": position}
        parts = (
            torch.nn.functional.one_hot(index[group], len(size)) * size
            for group, size in zip(self.groups, self.sizes, strict=True)
        )
        return torch.cat(list(parts), dim=1)
