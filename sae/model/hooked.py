"""The noun `Model`: a transformer to read activations from and to splice dictionaries into.

It wraps TransformerLens' Bridge, which runs the Hugging Face model as it is: no folding, no centring of weights. A
dictionary trained on such activations does not fit those of TransformerLens' folded weights, nor the reverse.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.model.legacy import boot_older, is_older, tokenizer_of
from sae.model.token_rows import TokenRows
from sae.registry import MissingFileError, UserError, unknown

Dtype = Literal["float32", "bfloat16", "float16"]
HookEdit = Callable[[Tensor], Tensor]
"""What is put in the place of activations: ``[positions, d_in] -> [positions, d_in]``."""

PROCESSING = "none: the Hugging Face weights as they are, without folding or centring"


class _Reached(Exception):
    """Raised inside a forward pass once the hook has what it wants; the layers above are never run."""


@dataclass(frozen=True, eq=False)
class Model:
    """A booted transformer. `bridge` is TransformerLens' own object, for whatever is not offered here."""

    name: str
    bridge: Any
    device: str

    @classmethod
    def boot(cls, name: str, device: str = "cpu", dtype: Dtype = "float32", revision: str | None = None) -> Model:
        """The model of a hub id or a local Hugging Face folder, ready to run.

        Raises ``FileNotFoundError`` or ``ValueError`` with one line where it is not there or cannot be read.
        """
        from safetensors import SafetensorError
        from transformer_lens.model_bridge import TransformerBridge

        _check_folder(name)
        try:
            with _quiet():
                of = getattr(torch, dtype)
                bridge: Any = (
                    boot_older(name, device, of, revision)
                    if is_older(name)
                    else TransformerBridge.boot_transformers(name, device=device, dtype=of, revision=revision)
                )
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(_one_line(name, error)) from None
        bridge.eval()
        # Rows are read whole and once: keys and values of earlier tokens need not be kept for later ones.
        if (config := getattr(bridge.original_model, "config", None)) is not None:
            config.use_cache = False
        return cls(name, bridge, device)

    @property
    def d_model(self) -> int:
        return self.bridge.cfg.d_model

    @property
    def n_layers(self) -> int:
        return self.bridge.cfg.n_layers

    @property
    def n_ctx(self) -> int:
        """The longest context. A rotary model runs on beyond it without a word, so it is checked by us."""
        return self.bridge.cfg.n_ctx

    @property
    def revision(self) -> str | None:
        """The hub's commit of the weights; None for a local folder."""
        return getattr(getattr(self.bridge.original_model, "config", None), "_commit_hash", None)

    @cached_property
    def hooks(self) -> list[str]:
        """The names of all hook points, canonical ones and TransformerLens' older aliases."""
        return list(self.bridge.hook_dict)

    def check_hook(self, hook: str) -> None:
        """A ``ValueError`` with the nearest real names where the model has no such hook point."""
        if hook not in self.hooks:
            raise UserError(unknown(hook, self.hooks, f"hook point of {self.name}"))

    def check_context(self, context: int) -> None:
        """A ``ValueError`` where rows would be longer than what the model was made for."""
        if context > self.n_ctx:
            raise UserError(f"context = {context} is beyond the {self.n_ctx} tokens of {self.name}; lower it")

    def width(self, hook: str) -> int:
        """The width `d_in` of a hook point; a ``ValueError`` where it does not hold one vector per token."""
        self.check_hook(hook)
        # Two lengths, since a number of heads may happen to equal one of them.
        short, long = (
            self._read(one, one.bool(), hook)[hook].shape for one in (torch.ones(1, n).long() for n in (3, 5))
        )
        if not (len(long) in (3, 4) and short[:2] == (1, 3) and long == (1, 5, *short[2:])):
            raise UserError(f"{hook!r} has shape {list(long)} for 1 row of 5 tokens, not one vector per token")
        return long[2:].numel()

    def check_target(self, hook: str, target: str) -> None:
        """A ``ValueError`` where no dictionary can map `hook` to `target`: another width, or a target that the
        model passes before it reaches the hook."""
        widths = [self.width(name) for name in (hook, target)]
        if widths[0] != widths[1]:
            raise UserError(
                f"{hook!r} has width {widths[0]} and {target!r} {widths[1]}; a dictionary reads and writes one width"
            )
        one = torch.ones(1, 3).long()
        if next(iter(self._read(one, one.bool(), hook, target))) != hook:
            raise UserError(_too_early(hook, target))

    def activations(
        self, tokens: Int[Tensor, "rows n_tokens"], attended: Bool[Tensor, "rows n_tokens"], hook: str
    ) -> Float[Tensor, "rows n_tokens d_in"]:
        """What passes the hook point, heads joined; values at padding mean nothing. The layers above are not run."""
        return self.activations_at(tokens, attended, [hook])[0]

    def activations_at(
        self, tokens: Int[Tensor, "rows n_tokens"], attended: Bool[Tensor, "rows n_tokens"], hooks: Sequence[str]
    ) -> list[Float[Tensor, "rows n_tokens _"]]:
        """The same at several hook points, in one forward pass."""
        found = self._read(tokens, attended, *hooks)
        return [found[hook].flatten(2) for hook in hooks]

    def logits(
        self, rows: TokenRows, hook: str | None = None, edit: HookEdit | None = None, target: str | None = None
    ) -> Float[Tensor, "rows n_tokens d_vocab"]:
        """The model's logits, with ``edit(acts)`` in place of the activations at the kept positions; or, where
        `target` is given, in place of those at the target, which comes later in the same forward pass.

        Excluded positions pass unchanged: a dictionary that has never seen BOS is not asked to carry it.
        """
        if hook is None or edit is None:
            return self._run(rows.tokens, rows.attended, [])
        start, place = hook, target or hook
        kept, read = rows.kept.to(self.device), list[Tensor]()

        def keep(acts: Tensor, hook: Any) -> None:
            read.append(acts.flatten(2)[kept].float())

        def splice(acts: Tensor, hook: Any) -> Tensor:
            if not read:
                raise UserError(_too_early(start, place))
            flat = acts.flatten(2).clone()
            flat[kept] = edit(read.pop()).to(flat)
            return flat.view(acts.shape)

        check_spliceable(place)
        return self._run(rows.tokens, rows.attended, [(start, keep), (place, splice)])

    def losses(
        self, rows: TokenRows, hook: str | None = None, edit: HookEdit | None = None, target: str | None = None
    ) -> tuple[Float[Tensor, " predictions"], Float[Tensor, "predictions d_vocab"]]:
        """Cross-entropy in nats of each prediction that counts, and the log-probabilities it was read from.

        Which count, and what they are held against, :attr:`TokenRows.counted` and :attr:`TokenRows.targets` say.
        """
        counted = rows.counted.to(self.device)
        with torch.no_grad():
            logits = self.logits(rows, hook, edit, target)[:, : counted.shape[1]]
            log_probs = logits[counted].float().log_softmax(-1)
            targets = rows.targets.to(self.device)[counted]
            return -log_probs.gather(-1, targets[:, None]).squeeze(-1), log_probs

    def _read(self, tokens: Tensor, attended: Tensor, *hooks: str) -> dict[str, Tensor]:
        """The hooks' activations in the order in which they are reached, by leaving the forward pass at the last of
        them: it works alike inside blocks and behind the last one, where TransformerLens' own ``stop_at_layer``
        would go on to the logits."""
        found: dict[str, Tensor] = {}

        def keeping(name: str) -> Callable[..., None]:
            def keep(acts: Tensor, hook: Any) -> None:
                found[name] = acts.clone()
                if len(found) == len(hooks):
                    raise _Reached

            return keep

        with suppress(_Reached):
            self._run(tokens, attended, [(hook, keeping(hook)) for hook in hooks])
        for hook in hooks:
            if hook not in found:
                raise UserError(f"hook {hook!r} of {self.name} is never reached in a forward pass; choose another")
        return found

    def _run(self, tokens: Tensor, attended: Tensor, hooks: Sequence[tuple[str, Callable[..., Any]]]) -> Tensor:
        # Not inference_mode: its tensors could not be used in anything that is differentiated afterwards.
        with torch.no_grad(), warnings.catch_warnings():
            # Edits at a normalisation's inside are rebuilt by the Bridge to rounding; it says so on every pass.
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            return self.bridge.run_with_hooks(
                tokens.to(self.device),
                attention_mask=attended.to(self.device, torch.long),
                fwd_hooks=list(hooks),
                return_type="logits",
            )


@dataclass(frozen=True, eq=False)
class Site:
    """A hook point of a model, with held-out text to measure there. The model is booted when first asked for.

    A dictionary reads the activations at `hook`, and what it gives back stands in for those at `target`.
    """

    hook: str
    text: TokenRows
    boot: Callable[[], Model]
    target: str | None = None
    """Another hook point, behind `hook`; None for `hook` itself."""

    @cached_property
    def model(self) -> Model:
        return self.boot()


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a model as published; the Bridge's own copy has special tokens added to it."""
    from transformers import AutoTokenizer

    _check_folder(name)
    try:
        return AutoTokenizer.from_pretrained(tokenizer_of(name) if is_older(name) else name, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(_one_line(name, error, "tokenizer")) from None


def spliceable(hook: str) -> bool:
    """Whether an edit at the hook point changes what it stands for.

    The Bridge reads ``hook_resid_mid`` at the input of the second norm: an edit there reaches the MLP, while
    the residual stream goes past it unedited. The inputs of the norms themselves are the same.
    """
    return re.search(r"(hook_resid_mid|ln\d\.hook_in)$", hook) is None


def check_spliceable(hook: str) -> None:
    """A ``ValueError`` where an edit at the hook point would be none of the residual stream."""
    if not spliceable(hook):
        raise UserError(f"an edit at {hook!r} would not reach the residual stream; use a block's hook_resid_post")


def is_path(name: str) -> bool:
    """Whether a name means a place on this disk and not a hub id (which is ``repo`` or ``owner/repo``)."""
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~")) or name.count("/") > 1


def _check_folder(name: str) -> None:
    if is_path(name) and not (Path(name) / "config.json").is_file():
        raise MissingFileError(
            f"model: {name} is not a folder with a config.json; give a Hugging Face folder or hub id"
        )


def _too_early(hook: str, target: str) -> str:
    return f"target {target!r} comes before hook {hook!r} in a forward pass; a dictionary cannot write back in time"


def _one_line(name: str, error: Exception, part: str = "model") -> str:
    reason = " ".join(str(error).split())
    return f"model: the {part} of {name!r} cannot be loaded: {reason[:300]}"


@contextmanager
def _quiet() -> Generator[None]:
    """Holds back transformers' own loading bars: the library does not print."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
