"""Analyses of the weights alone: neighbouring decoder rows, and direct effects of latents on the logits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.dictionary import Dictionary
from sae.model.hooked import Model
from sae.numerics.matching import unit

_ROWS_AT_ONCE, _COSINES_AT_ONCE = 512, 2**14
# Hook points whose activations are the residual stream or are added to it, by TransformerLens' legacy and Bridge names.
STREAM = r"(.*\.)?hook_(embed|pos_embed|resid_pre|resid_mid|resid_post|attn_out|mlp_out|mixer_out)"
BRIDGE = (
    r"(pos_)?embed\.hook_out|project_in\.hook_out|blocks\.\d+\.(hook_in|hook_out|(attn|mlp|mixer)\.hook_out)"
    r"|ln_final\.hook_in"
)


class Neighbours(NamedTuple):
    """For each latent, the latents with the largest and the smallest cosine between decoder rows."""

    nearest: Int[Tensor, "n_latents n"]
    """The latents with the largest cosines."""
    nearest_cosine: Float[Tensor, "n_latents n"]
    """Their cosines, descending."""
    farthest: Int[Tensor, "n_latents n"]
    """The latents with the smallest cosines."""
    farthest_cosine: Float[Tensor, "n_latents n"]
    """Their cosines, ascending."""


def neighbours(d: Dictionary, n: int) -> Neighbours:
    """The `n` nearest and the `n` farthest latents of each latent, by signed cosine."""
    rows = unit(d.W_dec.float())
    n = min(n, len(rows) - 1)
    blocks: list[tuple[Tensor, ...]] = []
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        cosine = rows[begin : begin + _ROWS_AT_ONCE] @ rows.T
        i = torch.arange(len(cosine), device=cosine.device)
        cosine[i, begin + i] = -2.0
        near = cosine.topk(n, dim=1)
        cosine[i, begin + i] = 2.0
        far = cosine.topk(n, dim=1, largest=False)
        blocks.append((near.indices, near.values, far.indices, far.values))
    return Neighbours(*(torch.cat(part).cpu() for part in zip(*blocks, strict=True)))


def encoder_cosine(d: Dictionary) -> Float[Tensor, " n_latents"]:
    """The cosine between each latent's encoder column and decoder row."""
    pieces = zip(d.W_enc.split(_COSINES_AT_ONCE, 1), d.W_dec.split(_COSINES_AT_ONCE), strict=True)
    return torch.cat([(unit(enc.T.float()) * unit(dec.float())).sum(1) for enc, dec in pieces]).cpu()


class Logits(NamedTuple):
    """The tokens with the largest direct effects of each latent's decoder row, the largest first."""

    promoted: Int[Tensor, "n_shown n"]
    """The tokens whose logits rise most."""
    promotion: Float[Tensor, "n_shown n"]
    """The effects on their logits, for a code of 1."""
    suppressed: Int[Tensor, "n_shown n"]
    """The tokens whose logits fall most."""
    suppression: Float[Tensor, "n_shown n"]
    """The effects on their logits, for a code of 1."""

    @classmethod
    def of(cls, effect: Float[Tensor, "n_shown d_vocab"], n: int) -> Logits:
        """The `n` largest and the `n` smallest effects of each row."""
        n = min(n, effect.shape[1])
        up, down = effect.topk(n, dim=1), effect.topk(n, dim=1, largest=False)
        return cls(up.indices, up.values, down.indices, down.values)


def in_stream(hook: str) -> bool:
    """Whether the activation at a hook point is the residual stream, or is added to it unchanged."""
    return re.fullmatch(f"{STREAM}|{BRIDGE}", hook) is not None


def logits(W_dec: Float[Tensor, "n_shown d_in"], model: Model, n: int) -> Logits:
    """The tokens with the largest effects of each row, according to :func:`effects_by_weights`."""
    blocks = [Logits.of(effect, n) for effect in effects_by_weights(W_dec, model)]
    return Logits(*(torch.cat(part).cpu() for part in zip(*blocks, strict=True)))


def effects_by_weights(W_dec: Float[Tensor, "n_shown d_in"], model: Model) -> Iterator[Float[Tensor, "rows d_vocab"]]:
    """``W_dec diag(g) W_U``, minus its mean over the vocabulary, to which a softmax is invariant, in blocks of rows.

    g is the gain of the final norm; if the norm centres, the rows are centred first. The norm's division, which differs
    from token to token, and the effects through later layers are left out.
    """
    model.check_logits()
    bridge: Any = model.bridge
    with torch.no_grad():
        dtype = bridge.unembed.original_component.weight.dtype
        gain, centred = _final_norm(bridge, W_dec.shape[1], model.device, dtype)
        for rows in W_dec.split(_ROWS_AT_ONCE):
            rows = rows.to(model.device, torch.float32)
            rows = (rows - rows.mean(1, keepdim=True) if centred else rows) * gain
            zero = bridge.unembed(torch.zeros_like(rows[None, :1]).to(dtype)).float()
            effect = (bridge.unembed(rows[None].to(dtype)).float() - zero)[0]
            yield effect - effect.mean(1, keepdim=True)


def _final_norm(bridge: Any, d: int, device: str, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """The gain of the final norm, and whether it centres; ones and False for a model without a final norm.

    Measured from the norm's outputs for a vector of mean 0 and mean square 1 and for a vector of ones, since the
    weights have different names in different models, and some models add 1 to them.
    """
    norm = getattr(bridge, "ln_final", None)
    if norm is None:
        return torch.ones(d, device=device), False
    probe = torch.ones(d, device=device)
    probe[1::2] = -1.0
    if d % 2:
        probe[-3:] = torch.tensor([1.0, 1.0, -2.0], device=device)
        probe /= probe.square().mean().sqrt()
    inputs = torch.stack([probe, torch.ones_like(probe), torch.zeros_like(probe)])[None].to(dtype)
    with_probe, with_ones, shift = norm(inputs)[0].float()
    gain = (with_probe - shift) / probe
    return gain, bool((with_ones - shift).abs().max() < 0.1 * gain.abs().max())
