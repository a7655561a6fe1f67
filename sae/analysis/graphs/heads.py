"""Dictionaries of the outputs z of a layer's heads whose latents each belong to one head.

A dictionary of ``attn.hook_z`` reads all heads, next to each other. The neuron basis there (`sae.baselines.neurons`) is
an exact identity whose latents belong to one head each: with it, a head's whole output at a position is a set of
latents, which makes a graph of heads exactly computable. :func:`joined_over_heads` makes one of a trained dictionary
for each head.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.registry import UserError


def joined_over_heads(dictionaries: Sequence[Relu]) -> Relu:
    """One dictionary of the concatenated activations of several, whose latents read and write one part each."""
    if not dictionaries:
        raise UserError("dictionaries: there is none; give one for each head")
    W_enc, W_dec = (torch.block_diag(*(getattr(d, name) for d in dictionaries)) for name in ("W_enc", "W_dec"))
    b_enc, b_dec = (torch.cat([getattr(d, name) for d in dictionaries]) for name in ("b_enc", "b_dec"))
    return Relu(W_enc, W_dec, b_enc, b_dec)


def head_of_latents(d: Dictionary, n_heads: int) -> Int[Tensor, " n_latents"]:
    """The head of which each latent writes most, by the norm of its decoder row there."""
    if d.d_out % n_heads:
        raise UserError(f"n_heads = {n_heads}: does not divide the {d.d_out} dimensions that the dictionary writes")
    return d.W_dec.unflatten(1, (n_heads, -1)).norm(dim=2).argmax(1).cpu()


def latents_of_heads(
    heads: Mapping[str, Collection[tuple[int, int]]],
    of_latents: Mapping[str, Int[Tensor, " n_latents"]],
    n_tokens: int,
) -> dict[str, Bool[Tensor, "n_tokens n_latents"]]:
    """All latents of some heads at some positions, by place: `heads` are pairs (head, position)."""
    masks = {name: torch.zeros(n_tokens, len(of), dtype=torch.bool) for name, of in of_latents.items()}
    for name, pairs in heads.items():
        for head, position in pairs:
            masks[name][position] |= of_latents[name] == head
    return masks
