"""A transformer whose activations can be recorded and replaced at hook points.

`Model` wraps TransformerLens' Bridge, which runs the Hugging Face weights without folding or centring them. A
dictionary trained on these activations does not fit the activations of TransformerLens' folded weights, nor the
reverse.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.model.checkpoint import listed
from sae.model.hook_names import context_limit, unknown_hook
from sae.model.hook_points import (
    check_computed,
    check_of_text,
    check_spliceable,
    is_per_token,
    per_token,
    target_too_early,
)
from sae.model.loading import load_bridge
from sae.model.next_token import N_TOKENS, sees_later_tokens, unlike_a_causal_model
from sae.model.placement import device_for_models
from sae.model.plain_modules import PlainModules
from sae.model.token_rows import TokenRows
from sae.registry import UserError

Dtype = Literal["float32", "bfloat16", "float16"]
HookEdit = Callable[[Tensor], Tensor]
"""Replaces activations: ``[positions, d_in] -> [positions, d_in]``."""

PROCESSING = "none: the Hugging Face weights as they are, without folding or centring"


class _StopForward(Exception):
    """Raised in a forward pass once the last hook has its activations, so that later layers are not run."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded transformer."""

    name: str
    """The hub id or local folder that it was loaded from."""
    bridge: Any
    """The TransformerLens Bridge, for what this class does not offer."""
    device: str
    """The device that its input goes to, for example ``cpu`` or ``cuda``."""
    missing_head: tuple[str, ...] = ()
    """The weights of the output head that its checkpoint lacks; they are NaN, and activations before them are right."""
    work_device: str | None = None
    """The device of the work that it is loaded for, to which activations are brought; None: where they are."""

    @classmethod
    def of(cls, given: Any) -> Model:
        """`given` itself, or a TransformerLens Bridge as a model on the device where it is."""
        return given if isinstance(given, Model) else cls("the model", given, str(given.cfg.device))

    @classmethod
    def boot(cls, name: str, device: str = "cpu", dtype: Dtype = "float32", revision: str | None = None) -> Model:
        """Loads a model from a hub id, a local Hugging Face folder or ``random:SHAPE`` (`sae.model.random_models`),
        ready to run on `device`, or where :func:`~sae.model.placement.run_models_on` says.

        Raises `MissingFileError` if a local folder has no ``config.json``, and `UserError` if the model cannot be
        loaded, or if its checkpoint lacks weights. Warns of a package that its processor needs, and installs none.
        """
        bridge, head = load_bridge(name, device_for_models(device), getattr(torch, dtype), revision)
        bridge.eval()
        # Every row is run once and whole, so a cache of keys and values would never be used.
        if (config := getattr(bridge.original_model, "config", None)) is not None:
            config.use_cache = False
        model = cls(name, bridge, str(next(bridge.original_model.parameters()).device), head, device)
        # Now rather than at the first use, when hooks of the user may be on the bridge.
        _ = model.no_logits
        return model

    @property
    def acts_device(self) -> str:
        """The device of recorded activations, and of what an edit gets."""
        return self.work_device or self.device

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        return self.bridge.cfg.d_model

    @property
    def n_layers(self) -> int:
        """The number of blocks."""
        return self.bridge.cfg.n_layers

    @property
    def n_ctx(self) -> int | None:
        """The longest context in tokens; None if the model has no limit or its config names none. Rotary models accept
        longer ones silently, see :meth:`check_context`."""
        as_dict = getattr(getattr(self.bridge.original_model, "config", None), "to_dict", None)
        # Where a Hugging Face config names no limit, the Bridge's is a constant.
        return self.bridge.cfg.n_ctx if as_dict is None else context_limit(as_dict())

    @property
    def d_vocab(self) -> int:
        """The number of token ids."""
        return self.bridge.cfg.d_vocab

    @property
    def revision(self) -> str | None:
        """The hub commit of the weights; None for a local folder."""
        return getattr(getattr(self.bridge.original_model, "config", None), "_commit_hash", None)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether it reads a row of tokens with an encoder and writes another with a decoder."""
        return bool(getattr(getattr(self.bridge.original_model, "config", None), "is_encoder_decoder", False))

    @cached_property
    def _plain(self) -> PlainModules:
        return PlainModules(self.bridge)

    @cached_property
    def _fuses(self) -> bool:
        return self._plain.agrees(lambda x: self._run(x, torch.ones_like(x, dtype=torch.bool), []), self.d_vocab)

    def can_fuse(self, hook: str) -> bool:
        """Whether fused attention gives the activations at a hook point: it is not inside attention, and a comparison
        on a few tokens shows no difference but rounding."""
        return not self._plain.is_inside_attention(hook) and self._fuses

    @cached_property
    def no_logits(self) -> str | None:
        """Why its logits are no predictions of each token from those before it; None if they are.

        Decided from its class and its checkpoint, then tested: another token must not change logits before it.
        """
        if self.missing_head:
            return f"its checkpoint lacks {listed(self.missing_head)}"
        reason = unlike_a_causal_model([type(self.bridge.original_model).__name__], self.is_encoder_decoder)
        if reason is not None:
            return reason

        cfg = self.bridge.cfg
        if getattr(cfg, "is_audio_model", False) or getattr(cfg, "is_visual_model", False):
            return "it does not read text"

        def logits(tokens: Tensor) -> Tensor:
            return self._run(tokens, torch.ones_like(tokens, dtype=torch.bool), [])

        leaks = sees_later_tokens(logits, self.n_ctx or N_TOKENS, cfg.d_vocab)
        return "its logits depend on later tokens, so it is not a causal language model" if leaks else None

    def check_head(self) -> None:
        """Raises `UserError` if the checkpoint lacks weights of the output head."""
        if self.missing_head:
            raise UserError(
                f"model = {self.name!r}: its checkpoint lacks {listed(self.missing_head)}, so it has no logits; use "
                "its activations alone, or a checkpoint with the output head"
            )

    def check_logits(self) -> None:
        """Raises `UserError` if the logits are no predictions of each token from those before it."""
        if self.no_logits is not None:
            raise UserError(
                f"model = {self.name!r}: its logits do not predict the next token, because {self.no_logits}; use its "
                "activations alone, or a causal language model with all its weights"
            )

    @cached_property
    def hooks(self) -> list[str]:
        """The names of all hook points, with TransformerLens' older aliases."""
        return list(self.bridge.hook_dict)

    def check_hook(self, hook: str) -> None:
        """Raises `UserError`, with the most similar names, if the model has no such hook point, and for one at which
        the activation at a position is not computed from the token there and the checkpoint's weights."""
        if hook not in self.hooks:
            raise UserError(unknown_hook(hook, self.hooks, self.name))
        check_of_text(hook, self.name, self.is_encoder_decoder, self.missing_head)
        check_computed(self.bridge, hook)

    def check_context(self, context: int) -> None:
        """Raises `UserError` if rows of `context` tokens are longer than the model's context."""
        if self.n_ctx is not None and context > self.n_ctx:
            raise UserError(f"context = {context}: {self.name} takes at most {self.n_ctx} tokens; lower it")

    def width(self, hook: str) -> int:
        """The width `d_in` of a hook point. Raises `UserError` if it does not hold one vector per token."""
        return math.prod(self.shape(hook))

    def shape(self, hook: str) -> tuple[int, ...]:
        """The shape of the activation at one token: ``(d_in,)``, or ``(n_heads, d_head)``.

        Raises `UserError` if the hook point does not hold one vector per token.
        """
        self.check_hook(hook)
        shapes = set[tuple[int, ...]]()
        # Two sizes, since a number of heads may happen to equal one of them.
        for tokens in (torch.ones(2, 3).long(), torch.ones(3, 5).long()):
            acts = self._record(tokens, tokens.bool(), hook)[hook]
            per_token(hook, acts, tokens)
            shapes.add(tuple(acts.shape[2:]))
        if len(shapes) > 1:
            raise UserError(
                f"hook point {hook!r}: its width depends on the number of tokens, so it is not one vector per token; "
                "choose another hook point"
            )
        return shapes.pop()

    def check_target(self, hook: str, target: str) -> None:
        """Raises `UserError` if no dictionary can map `hook` to `target`: the widths differ, or the target comes
        before the hook in the forward pass."""
        widths = [self.width(name) for name in (hook, target)]
        if widths[0] != widths[1]:
            raise UserError(
                f"hook {hook!r} has width {widths[0]} and target {target!r} has width {widths[1]}; choose two hook "
                "points of the same width"
            )
        one = torch.ones(1, 3).long()
        if next(iter(self._record(one, one.bool(), hook, target))) != hook:
            raise UserError(target_too_early(hook, target))

    def activations(
        self, tokens: Int[Tensor, "rows n_tokens"], attended: Bool[Tensor, "rows n_tokens"], hook: str
    ) -> Float[Tensor, "rows n_tokens d_in"]:
        """The activations at a hook point, heads concatenated. Values at padding are undefined; later layers are not
        run."""
        return self.activations_at(tokens, attended, [hook])[0]

    def activations_at(
        self,
        tokens: Int[Tensor, "rows n_tokens"],
        attended: Bool[Tensor, "rows n_tokens"],
        hooks: Sequence[str],
        fused: bool = False,
    ) -> list[Float[Tensor, "rows n_tokens _"]]:
        """The activations at several hook points, from one forward pass.

        With `fused`, those that do not depend on it (see :meth:`can_fuse`) come from a pass with fused attention, and
        others from a second pass. Raises `UserError` for a hook point that does not hold one vector per token.
        """
        outside = [hook for hook in hooks if fused and self.can_fuse(hook)]
        inside, recorded = [hook for hook in hooks if hook not in outside], dict[str, Any]()
        if outside:
            with self._plain.used(outside):
                recorded |= self._record(tokens, attended, *outside)
        if inside:
            recorded |= self._record(tokens, attended, *inside)
        return [self._brought(per_token(hook, recorded[hook], tokens)) for hook in hooks]

    def vectors(
        self, tokens: Int[Tensor, "rows n_tokens"], attended: Bool[Tensor, "rows n_tokens"], hooks: Sequence[str]
    ) -> dict[str, Float[Tensor, "rows n_tokens _"]]:
        """The activations at those of the hook points that a forward pass reaches, and that hold one vector per
        token."""
        found = self._reached(tokens, attended, *hooks)
        kept = {name: per_token(name, acts, tokens) for name, acts in found.items() if is_per_token(acts, tokens)}
        return {name: self._brought(acts) for name, acts in kept.items()}

    def _brought(self, acts: Tensor) -> Tensor:
        return acts if self.work_device is None else acts.to(self.work_device)

    def logits(
        self, rows: TokenRows, hook: str | None = None, edit: HookEdit | None = None, target: str | None = None
    ) -> Float[Tensor, "rows n_tokens d_vocab"]:
        """The model's logits, with the activations at the kept positions replaced by ``edit(acts)``.

        The edit takes the activations at `hook` and replaces those at `target`, a hook point later in the same forward
        pass (None: `hook` itself). Other positions stay unchanged: a dictionary that was not trained on BOS does not
        have to reconstruct it. Raises `UserError` if the target comes before the hook, or cannot be replaced, and see
        :meth:`check_logits`.
        """
        self.check_logits()
        if hook is None or edit is None:
            return self._run(rows.tokens, rows.attended, [])
        source, destination = hook, target or hook
        recorded = list[Tensor]()

        def record(acts: Tensor, hook: Any) -> None:
            kept = per_token(source, acts, rows.tokens)[rows.kept.to(acts.device)]
            recorded.append(self._brought(kept.float()))

        def splice(acts: Tensor, hook: Any) -> Tensor:
            if not recorded:
                raise UserError(target_too_early(source, destination))
            flat = per_token(destination, acts, rows.tokens).clone()
            flat[rows.kept.to(flat.device)] = edit(recorded.pop()).to(flat)
            return flat.view(acts.shape)

        check_spliceable(destination)
        return self._run(rows.tokens, rows.attended, [(source, record), (destination, splice)])

    def losses(
        self, rows: TokenRows, hook: str | None = None, edit: HookEdit | None = None, target: str | None = None
    ) -> tuple[Float[Tensor, " predictions"], Float[Tensor, "predictions d_vocab"]]:
        """The cross-entropy in nats of each counted prediction, and the log-probabilities of the predictions.

        :attr:`TokenRows.counted` marks the predictions, :attr:`TokenRows.targets` holds the tokens to predict. `hook`,
        `edit` and `target` are those of :meth:`logits`.
        """
        counted = rows.counted.to(self.acts_device)
        with torch.no_grad():
            logits = self._brought(self.logits(rows, hook, edit, target)[:, : counted.shape[1]])
            log_probs = logits[counted].float().log_softmax(-1)
            targets = rows.targets.to(counted.device)[counted]
            return -log_probs.gather(-1, targets[:, None]).squeeze(-1), log_probs

    def _record(self, tokens: Tensor, attended: Tensor, *hooks: str) -> dict[str, Any]:
        """The activations at the hook points, in the order of the forward pass. Raises `UserError` if it misses one."""
        recorded = self._reached(tokens, attended, *hooks)
        for hook in hooks:
            if hook not in recorded:
                raise UserError(f"hook point {hook!r}: no forward pass of {self.name} reaches it; choose another")
        return recorded

    def _reached(self, tokens: Tensor, attended: Tensor, *hooks: str) -> dict[str, Any]:
        """The activations at the hook points, in the order of the forward pass, which is stopped at the last of them.

        This stops anywhere in the model; TransformerLens' ``stop_at_layer`` computes the logits if the hook is behind
        the last block.
        """
        recorded: dict[str, Any] = {}

        def recorder(name: str) -> Callable[..., None]:
            def record(acts: Any, hook: Any) -> None:
                recorded[name] = acts.clone() if isinstance(acts, Tensor) else acts
                if len(recorded) == len(hooks):
                    raise _StopForward

            return record

        with suppress(_StopForward):
            self._run(tokens, attended, [(hook, recorder(hook)) for hook in hooks])
        return recorded

    def _run(self, tokens: Tensor, attended: Tensor, hooks: Sequence[tuple[str, Callable[..., Any]]]) -> Tensor:
        # Not inference_mode: tensors made under it cannot be used in autograd afterwards.
        with torch.no_grad(), warnings.catch_warnings():
            # The Bridge recomputes edits inside a normalisation up to rounding, and warns of it in every pass.
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            return self.bridge.run_with_hooks(
                tokens.to(self.device),
                attention_mask=attended.to(self.device, torch.long),
                fwd_hooks=list(hooks),
                return_type="logits",
            )
