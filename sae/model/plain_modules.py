"""Forward passes through Hugging Face's own modules, for activations that need few hook points.

TransformerLens' Bridge wraps every module, so that all it computes passes a hook point; attention is computed step by
step. Where only a few hook points are recorded, the modules that the others wrap give the same activations to rounding,
in less time: attention by the fused kernel of torch (``sdpa``), without a matrix of scores in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""The largest difference of results that counts as rounding, relative to their norm."""
COMPARED_TOKENS = 9
"""The length of the rows on which they are compared."""


class _Wrapped(NamedTuple):
    """A module of the Bridge in the place of the one that it wraps."""

    parent: Any
    name: str
    bridge: Any


@dataclass(frozen=True, eq=False)
class PlainModules:
    """The modules of a Bridge, which can be exchanged for the ones that they wrap."""

    bridge: Any
    """The TransformerLens Bridge."""
    _unneeded: dict[tuple[str, ...], list[_Wrapped]] = field(default_factory=dict[tuple[str, ...], list[_Wrapped]])

    @cached_property
    def _wrapped(self) -> list[_Wrapped]:
        from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

        return [
            _Wrapped(parent, name, child)
            for parent in self.bridge.original_model.modules()
            for name, child in parent.named_children()
            if isinstance(child, GeneralizedComponent) and child.original_component is not None
        ]

    @cached_property
    def _attention(self) -> set[int]:
        """The ids of all modules inside attention."""
        from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

        found = [each.bridge for each in self._wrapped if isinstance(each.bridge, AttentionBridge)]
        return {id(module) for attention in found for module in attention.modules()}

    def is_inside_attention(self, hook: str) -> bool:
        """Whether a hook point is part of an attention module."""
        return id(self.bridge.hook_dict.get(hook)) in self._attention

    @contextmanager
    def used(self, hooks: Sequence[str]) -> Generator[None]:
        """Context in which no hook points are reached but `hooks`, and perhaps some of the modules around them."""
        config = self.bridge.original_model.config
        before, config._attn_implementation = config._attn_implementation, "sdpa"
        exchanged = self._without(tuple(hooks))
        # Not by setattr, which takes a hundred times longer: this happens around every forward pass.
        for parent, name, bridge in exchanged:
            parent._modules[name] = bridge.original_component
        try:
            yield
        finally:
            config._attn_implementation = before
            for parent, name, bridge in exchanged:
                parent._modules[name] = bridge

    def agrees(self, compute: Callable[[Int[Tensor, "rows n_tokens"]], Tensor], d_vocab: int) -> bool:
        """Whether the modules give the results of the Bridge to rounding.

        `compute` gives what depends on all of them, such as logits. An architecture whose attention the fused kernel
        does not have, for example one that caps its scores, fails, and so does one without attention.
        """
        if not self._attention:
            return False
        tokens = torch.randint(d_vocab, (2, COMPARED_TOKENS), generator=torch.Generator().manual_seed(0))
        expected = compute(tokens)
        try:
            with self.used([]):
                found = compute(tokens)
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ImportError):
            return False  # the architecture needs what only the modules of the Bridge do
        difference = (found - expected).float().norm(dim=-1)
        return bool((difference <= ROUNDING.get(expected.dtype, 0.0) * expected.float().norm(dim=-1)).all())

    def _without(self, hooks: tuple[str, ...]) -> list[_Wrapped]:
        """The modules of the Bridge that hold none of the hook points."""
        if hooks not in self._unneeded:
            needed = {id(self.bridge.hook_dict[hook]) for hook in hooks}
            self._unneeded[hooks] = [
                each for each in self._wrapped if not any(id(module) in needed for module in each.bridge.modules())
            ]
        return self._unneeded[hooks]
