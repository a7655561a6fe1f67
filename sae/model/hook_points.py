"""Which hook points hold one vector per token, and at which of them an edit changes what the model computes."""

from __future__ import annotations

import re
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from sae.model.checkpoint import listed
from sae.registry import UserError

_NO_WAY_ON = re.compile(r"(hook_resid_mid|ln\d\.hook_in|rotary_emb\.hook_in)$")


def spliceable(hook: str) -> bool:
    """Whether an edit at the hook point changes the residual stream.

    The Bridge places ``hook_resid_mid`` at the input of the second norm: an edit there reaches the MLP, but not the
    residual stream. The same holds for the inputs of the norms. Rotary embeddings use no values of their input.
    """
    return _NO_WAY_ON.search(hook) is None


def check_spliceable(hook: str) -> None:
    """Raises `UserError` if an edit at the hook point would not change the residual stream."""
    if not spliceable(hook):
        raise UserError(
            f"hook point {hook!r}: an edit there would not reach the residual stream; use a block's hook_resid_post"
        )


def check_of_text(hook: str, name: str, is_encoder_decoder: bool, missing_head: tuple[str, ...]) -> None:
    """Raises `UserError` for a hook point at which the activation at a position is not computed from the token there,
    or from weights that the model's checkpoint lacks."""
    if is_encoder_decoder and re.match(r"decoder|(hook_)?unembed", hook):
        raise UserError(
            f"hook point {hook!r}: the decoder of {name} reads the text one position later than the encoder; "
            "choose a hook point of the encoder"
        )
    if missing_head and re.match(r"(hook_)?unembed|mlm_head", hook):
        raise UserError(
            f"hook point {hook!r}: the checkpoint of {name} lacks {listed(missing_head)}; choose a hook point before it"
        )


def check_computed(bridge: Any, hook: str) -> None:
    """Raises `UserError` for a hook point that TransformerLens has switched off, and for the neurons of a mixture of
    experts, whose names it gives to the input and the output of the whole MLP."""
    points = bridge.hook_dict
    try:
        with bridge.hooks(fwd_hooks=[(hook, _look)]):
            pass
    except ValueError:
        raise UserError(
            f"hook point {hook!r}: it is switched off in TransformerLens, so that no forward pass computes it; choose "
            "another hook point"
        ) from None
    if re.search(r"\.mlp\.hook_(pre|post)$", hook) and re.search(r"\.mlp\.hook_(in|out)$", points[hook].name):
        raise UserError(
            f"hook point {hook!r}: the neurons of a mixture of experts have no hook point; use {points[hook].name!r}, "
            "the whole MLP's, or another hook point"
        )


def is_per_token(acts: Any, tokens: Int[Tensor, "rows n_tokens"]) -> bool:
    """Whether activations of a forward pass on `tokens` are one vector of numbers per token."""
    is_vectors = isinstance(acts, Tensor) and acts.is_floating_point() and acts.dim() in (3, 4)
    return is_vectors and acts.shape[:2] == tokens.shape


def per_token(hook: str, acts: Any, tokens: Int[Tensor, "rows n_tokens"]) -> Float[Tensor, "rows n_tokens d_in"]:
    """Activations of a forward pass on `tokens`, heads concatenated. Raises `UserError` if they are not one vector of
    numbers per token: attention patterns, tables of positions that all rows share, tokens sorted by experts."""
    if is_per_token(acts, tokens):
        return acts.flatten(2)
    if isinstance(acts, Tensor) and acts.is_floating_point():
        found = f"its shape for {len(tokens)} rows of {tokens.shape[1]} tokens is {list(acts.shape)}"
    else:
        found = f"it holds values of type {acts.dtype if isinstance(acts, Tensor) else type(acts).__name__}"
    raise UserError(f"hook point {hook!r}: {found}, not one vector per token; choose another hook point")


def target_too_early(hook: str, target: str) -> str:
    """The message for a target that a forward pass reaches before its hook point."""
    return f"target {target!r} comes before hook {hook!r} in a forward pass; choose a target after the hook"


def _look(acts: Tensor, hook: Any) -> None:
    """Changes nothing."""
