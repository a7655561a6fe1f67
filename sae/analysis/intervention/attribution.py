"""Attribution of a scalar function of the logits to the latents of spliced dictionaries.

    gradient:    z_j dm/dz_j                                      (one backward pass for all dictionaries)
    integrated:  z_j mean over a in (0, 1) of dm/dz_j at a z     (Sundararajan, Taly and Yan 2017; from zero)

The derivative is that of the model itself, with every dictionary's error added back: ``gradient`` is to first order the
drop of m when z_j is ablated, and ``integrated``, summed over a place's latents, is the drop of m when all of them are
ablated together. Both follow Marks et al. 2024, except that the paper stops gradients through later errors and here
they pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.intervention.sparse_codes import SparseCodes
from sae.analysis.intervention.splicing import Places, Spliced, splice
from sae.dictionary import Dictionary
from sae.model.hooked import Model
from sae.registry import UserError

Number = Callable[[Float[Tensor, "rows n_tokens d_vocab"]], Float[Tensor, ""]]
"""The attributed quantity: a differentiable function of the logits with a single value."""


@dataclass(frozen=True)
class Attribution:
    """Contributions of the latents of one place at every position."""

    codes: SparseCodes
    """The codes."""
    effect: SparseCodes
    """The contribution of each code."""
    error: Float[Tensor, "rows n_tokens"]
    """The first-order contribution of what the latents do not write, ``(x - decode(z)) . dm/dx``; a transcoder's skip
    connection is part of it."""


def attribute(
    model: Model | Any,
    places: Places,
    tokens: Int[Tensor, "rows n_tokens"],
    number: Number,
    method: Literal["gradient", "integrated"] = "gradient",
    steps: int = 16,
    attended: Bool[Tensor, "rows n_tokens"] | None = None,
    **splice_options: Any,
) -> dict[str, Attribution]:
    """The contribution of every latent of every place to ``number(logits)``; `splice_options` go to :func:`splice`.

    `attended` marks the positions of padded rows that hold a token; None: all.
    ``integrated`` takes `steps` forward and backward passes for each place, with the other places left unchanged.
    Raises `UserError` for an unknown method, if `number` does not return one differentiable value, or if the model's
    checkpoint lacks its output head.
    """
    if method not in ("gradient", "integrated"):
        raise UserError(f"method = {method!r}: unknown method; choose 'gradient' or 'integrated'")
    if isinstance(model, Model):
        model.check_head()
    whole = _Probe(attended)
    with torch.enable_grad(), splice(model, places, instead=whole, **splice_options) as spliced:
        whole.run(spliced, tokens, number)
    out = dict[str, Attribution]()
    for place, codes in whole.codes.items():
        slope = whole.slopes[place]
        if method == "integrated":
            slope, probe = torch.zeros_like(slope), _Probe(attended)
            with torch.enable_grad(), splice(model, {place: places[place]}, instead=probe, **splice_options) as spliced:
                for i in range(steps):
                    probe.at = (i + 0.5) / steps
                    probe.run(spliced, tokens, number)
                    slope += probe.slopes[place] / steps
        at = torch.zeros(codes.read.shape, dtype=torch.long, device=slope.device)
        at[codes.read] = torch.arange(len(slope), device=slope.device)
        value = codes.value * slope[at[codes.row, codes.position], codes.latent]
        error = torch.zeros(codes.read.shape, device=slope.device)
        error[codes.read] = whole.errors[place]
        out[place] = Attribution(codes, replace(codes, value=value), error)
    return out


@dataclass
class _Probe:
    """Forward and backward passes with every place's codes multiplied by `at`."""

    attended: Tensor | None
    at: float = 1.0
    leaves: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    unexplained: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    written: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    codes: dict[str, SparseCodes] = field(default_factory=dict[str, SparseCodes])
    slopes: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """dm/dz at the kept positions of each place, ``[positions, n_latents]``."""
    errors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def run(self, spliced: Spliced, tokens: Tensor, number: Number) -> None:
        mask = {} if self.attended is None else {"attention_mask": self.attended.to(tokens.device, torch.long)}
        value = number(spliced.bridge(tokens, return_type="logits", **mask))
        if value.numel() != 1 or not value.requires_grad:
            raise UserError(
                f"number: returned shape {list(value.shape)}; return one differentiable value of the logits"
            )
        inputs = [*self.leaves.values(), *self.written.values()]
        slopes = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
        n = len(self.leaves)
        self.codes = dict(spliced.codes)
        self.slopes = dict(zip(self.leaves, slopes[:n], strict=True))
        self.errors = {
            place: (slope * error).sum(-1)
            for (place, error), slope in zip(self.unexplained.items(), slopes[n:], strict=True)
        }

    def __call__(self, place: str, d: Dictionary, z: Tensor, acts: Tensor) -> Tensor:
        """Activations that depend on the codes only through a leaf tensor, and are unchanged if `at` is 1."""
        z = z.detach()
        x_hat = d.decode(z).detach()
        self.leaves[place] = (self.at * z).requires_grad_()
        self.unexplained[place] = (acts - x_hat).detach()
        self.written[place] = acts + (d.decode(self.leaves[place]) - x_hat)
        return self.written[place]
