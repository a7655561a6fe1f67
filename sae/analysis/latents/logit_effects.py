"""Direct effects of latents on the logits, checked against the model and measured where the weights do not give them.

    E_j = mean over positions of  d logits / d z_j,    minus its mean over the vocabulary

with the outputs of all attention and MLP layers held fixed, so that only what follows the hook point on the way to the
logits counts: norms, projections and the unembedding. The derivative is a central finite difference along the decoder
row. It differs from ``W_dec diag(g) W_U`` where a norm follows the hook point (the post-norms of Gemma 2 and 3 and of
OLMo 2, the layers of an encoder) or the embedding has a width of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.analysis.latents.ablation import LOGITS_AT_ONCE
from sae.analysis.latents.weights import Logits, effects_by_weights
from sae.model.hooked import Model
from sae.model.token_rows import TokenRows
from sae.numerics.seeds import generator
from sae.source import Progress

AGREE = 0.9
"""The mean correlation over positions from which effects are shown."""
_N_DIRECTIONS = 8
_ROWS, _TOKENS = 4, 16
_WRITES = re.compile(r"blocks\.\d+\.(attn|mlp|mixer)\.(out\.)?hook_out")
_STEP = {torch.float32: 0.01}
_COARSE_STEP = 0.1


def logit_effects(
    W_dec: Float[Tensor, "n_shown d_in"], model: Model, hook: str, text: TokenRows, n: int, progress: Progress
) -> Logits | str:
    """The `n` largest direct effects of each row at a hook point, see :func:`direct_effects`; the reason if there are
    none to show."""
    found = direct_effects(model, hook, W_dec.shape[1], text)
    if isinstance(found, str):
        return found
    parts: list[Logits] = []
    for effect in found(W_dec):
        parts.append(Logits.of(effect, n))
        progress(sum(len(part.promoted) for part in parts), len(W_dec), "effects on the logits")
    return Logits(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


DirectEffects = Callable[[Float[Tensor, "n d_in"]], Iterator[Float[Tensor, "rows d_vocab"]]]
"""The effects of directions at a hook point on the logits, minus their mean over the vocabulary, in blocks of rows."""


def direct_effects(model: Model, hook: str, d_in: int, text: TokenRows) -> DirectEffects | str:
    """How directions at a hook point are read through the unembedding; the reason if they cannot be.

    Random directions show whether the weights alone give the effects, see
    :func:`sae.analysis.latents.weights.effects_by_weights`: their mean correlation with the derivatives at positions of
    the text is at least :data:`AGREE`. Otherwise the effects are the mean derivatives, if these agree with those of
    single positions as well.
    """
    path = _DirectPath(model, hook, text[:_ROWS])
    if not bool(path.rows.kept.any()):
        return "the held-out text has no position to measure them at"
    directions = torch.randn(_N_DIRECTIONS, d_in, generator=generator("explore", "directions"))
    true = torch.cat([path(row[None]) for row in directions])
    if not bool(true.any()):
        return f"a change at {hook} does not reach the logits past the layers that follow it"
    fits = d_in == model.bridge.W_U.shape[0]
    if fits and _agreement(torch.cat([*effects_by_weights(directions, model)]), true) >= AGREE:
        return lambda rows: effects_by_weights(rows, model)
    if not _agreement(true.mean(1), true) >= AGREE:
        return f"what follows {hook} is not linear, so that the effects differ from token to token"
    return lambda rows: (path(part.cpu().float()).mean(1) for part in rows.split(path.at_once))


def _agreement(effect: Float[Tensor, "rows d_vocab"], true: Float[Tensor, "rows positions d_vocab"]) -> float:
    """The mean correlation of effects with those at every position; NaN if one of them is constant."""
    cosine = torch.nn.functional.cosine_similarity(effect[:, None].to(true), true, dim=-1)
    return float(cosine.mean())


@dataclass(eq=False)
class _DirectPath:
    """The way from a hook point to the logits, with the outputs of the attention and MLP layers held fixed."""

    model: Model
    hook: str
    text: TokenRows
    fixed: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __post_init__(self) -> None:
        tokens, attended, kept = (x[:, :_TOKENS] for x in (self.text.tokens, self.text.attended, self.text.kept))
        self.rows = TokenRows(tokens, attended, kept if bool(kept.any()) else attended)
        bridge: Any = self.model.bridge
        # An output that contains the hook point's is what changes.
        own = re.match(r"blocks\.\d+\.\w+\.", bridge.hook_dict[self.hook].name)
        names = [name for name in self.model.hooks if _WRITES.fullmatch(name) and not (own and name.startswith(own[0]))]
        with bridge.hooks(fwd_hooks=[(name, self._keep(name)) for name in names]):
            d_vocab = self.model.logits(self.rows).shape[-1]
        acts = self.model.activations(tokens, attended, self.hook)[self.rows.kept.to(self.model.acts_device)].float()
        step = _STEP.get(next(bridge.original_model.parameters()).dtype, _COARSE_STEP)
        self.step = step * float(acts.norm(dim=-1).mean())
        self.at_once = max(1, LOGITS_AT_ONCE // (tokens.numel() * d_vocab))

    def _keep(self, name: str) -> Callable[..., None]:
        def keep(acts: Any, hook: Any) -> None:
            if isinstance(acts, Tensor):
                self.fixed[name] = acts.clone()

        return keep

    def __call__(self, directions: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows positions d_vocab"]:
        """The derivative of the logits along each direction at each kept position, minus its mean over the
        vocabulary."""
        n, length = len(directions), directions.norm(dim=1, keepdim=True)
        move = (directions / length.clamp_min(1e-30) * self.step).to(self.model.device)
        many = TokenRows(*(x.repeat(n, 1) for x in (self.rows.tokens, self.rows.attended, self.rows.kept)))
        kept = many.kept.to(self.model.device)

        def fix(name: str) -> Callable[..., Tensor]:
            def put(acts: Tensor, hook: Any) -> Tensor:
                return self.fixed[name].repeat(n, *[1] * (acts.dim() - 1))

            return put

        def at(sign: int) -> Tensor:
            def edit(x: Tensor) -> Tensor:
                return (x.view(n, -1, x.shape[1]) + sign * move[:, None]).view_as(x)

            return self.model.logits(many, self.hook, edit)[kept].float()

        with self.model.bridge.hooks(fwd_hooks=[(name, fix(name)) for name in self.fixed]):
            slope = (at(1) - at(-1)).unflatten(0, (n, -1))
        slope = slope * (length.to(slope) / (2 * self.step))[:, :, None]
        return slope - slope.mean(-1, keepdim=True)
