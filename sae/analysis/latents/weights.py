"""What can be read off the weights alone: neighbours among the decoder rows, and what a latent does to the logits."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.dictionary import Dictionary
from sae.model.hooked import Model
from sae.numerics.matching import unit

_ROWS_AT_ONCE = 512
STREAM = r"(.*\.)?hook_(embed|pos_embed|resid_pre|resid_mid|resid_post|attn_out|mlp_out)"
BRIDGE = r"(pos_)?embed\.hook_out|blocks\.\d+\.(hook_in|hook_out|attn\.hook_out|mlp\.hook_out)|ln_final\.hook_in"


class Neighbours(NamedTuple):
    """For each latent, others by the cosine of their decoder rows; NaN for a row without length."""

    nearest: Int[Tensor, "n_latents n"]
    nearest_cosine: Float[Tensor, "n_latents n"]
    farthest: Int[Tensor, "n_latents n"]
    farthest_cosine: Float[Tensor, "n_latents n"]


def neighbours(d: Dictionary, n: int) -> Neighbours:
    """The `n` nearest latents of each, and the `n` that point away most."""
    rows = unit(d.W_dec.float())
    n = min(n, len(rows) - 1)
    found: list[tuple[Tensor, ...]] = []
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        cosine = rows[begin : begin + _ROWS_AT_ONCE] @ rows.T
        own = torch.arange(len(cosine), device=cosine.device)
        cosine[own, begin + own] = -2.0
        near = cosine.topk(n, dim=1)
        cosine[own, begin + own] = 2.0
        far = cosine.topk(n, dim=1, largest=False)
        found.append((near.indices, near.values, far.indices, far.values))
    return Neighbours(*(torch.cat(part).cpu() for part in zip(*found, strict=True)))


def encoder_cosine(d: Dictionary) -> Float[Tensor, " n_latents"]:
    """How nearly each latent reads the direction that it writes."""
    return (unit(d.W_enc.T.float()) * unit(d.W_dec.float())).sum(1).cpu()


class Logits(NamedTuple):
    """The tokens that each latent makes likelier, and less likely, by what it writes; the largest effect first."""

    promoted: Int[Tensor, "n_shown n"]
    promotion: Float[Tensor, "n_shown n"]
    suppressed: Int[Tensor, "n_shown n"]
    suppression: Float[Tensor, "n_shown n"]


def in_stream(hook: str) -> bool:
    """Whether what passes a hook point is the residual stream, or is added to it as it is."""
    return re.fullmatch(f"{STREAM}|{BRIDGE}", hook) is not None


def logits(W_dec: Float[Tensor, "n_shown d_in"], model: Model, n: int) -> Logits:
    """``W_dec diag(g) W_U``, less its mean over the vocabulary, which no softmax sees.

    g is the gain of the final norm, whose centring, where it has any, is done to the rows first. What the norm divides
    by differs from token to token and is left out, and so is what later layers make of the direction.
    """
    bridge: Any = model.bridge
    found: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        dtype = bridge.unembed.original_component.weight.dtype
        gain, centred = _final_norm(bridge, W_dec.shape[1], model.device, dtype)
        for rows in W_dec.split(_ROWS_AT_ONCE):
            rows = rows.to(model.device, torch.float32)
            rows = (rows - rows.mean(1, keepdim=True) if centred else rows) * gain
            zero = bridge.unembed(torch.zeros_like(rows[None, :1]).to(dtype)).float()
            effect = (bridge.unembed(rows[None].to(dtype)).float() - zero)[0]
            effect = effect - effect.mean(1, keepdim=True)
            n = min(n, effect.shape[1])
            up, down = effect.topk(n, dim=1), effect.topk(n, dim=1, largest=False)
            found.append((up.indices, up.values, down.indices, down.values))
    return Logits(*(torch.cat(part).cpu() for part in zip(*found, strict=True)))


def _final_norm(bridge: Any, d: int, device: str, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """The gain of the final norm, and whether it centres; of a model without one, 1 and False.

    Read off what the norm does to a vector of mean 0 and mean square 1, and to one of ones: weights go by different
    names in different models, and some add 1 to them.
    """
    norm = getattr(bridge, "ln_final", None)
    if norm is None:
        return torch.ones(d, device=device), False
    probe = torch.ones(d, device=device)
    probe[1::2] = -1.0
    if d % 2:
        probe[-3:] = torch.tensor([1.0, 1.0, -2.0], device=device)
        probe /= probe.square().mean().sqrt()
    given = torch.stack([probe, torch.ones_like(probe), torch.zeros_like(probe)])[None].to(dtype)
    with_probe, with_ones, shift = norm(given)[0].float()
    gain = (with_probe - shift) / probe
    return gain, bool((with_ones - shift).abs().max() < 0.1 * gain.abs().max())
