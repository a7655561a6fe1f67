"""A small language model in plain torch, for training: pre-norm blocks of attention and, unless it has none, an MLP.

    x = W_E[t] + W_pos                                            (learned positions; rotary ones turn q and k instead)
    x <- x + attention(LN(x)),  then  x <- x + MLP(LN(x))         in every layer
    logits = LN(x) W_U
    MLP(y) = W_out a(W_in y + b_in) + b_out                       gelu, relu
    MLP(y) = W_out LN(s * softmax(s)) + b_out,  s = W_in y + b_in   solu (Elhage et al. 2022, 'Softmax Linear Units')
    MLP(y) = W_out (silu(W_gate y) * W_in y)                      swiglu (Shazeer 2020, 'GLU variants')

Parameters have TransformerLens' names, so that the trained weights are those of its native model as they are
(:mod:`sae.model.native`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from sae.registry import Settings, UserError

ROTARY_BASE = 10_000.0
INITIAL = 0.8
"""Initial weights have the standard deviation ``INITIAL / sqrt(inputs)``."""


class Dropout(NamedTuple):
    """What training sets to 0: functions that do so with some of the values, and scale up the others."""

    neurons: Callable[[Tensor], Tensor]
    """For the neurons of an MLP."""
    stream: Callable[[Tensor], Tensor]
    """For the embeddings and for what layers write to the residual stream."""


def _whole(x: Tensor) -> Tensor:
    return x


WHOLE = Dropout(_whole, _whole)
"""Nothing is set to 0."""


class LanguageModelConfig(Settings):
    """Size and form of a small language model."""

    n_layers: int = Field(default=1, ge=1, le=4)
    """Number of layers."""
    d_model: int = Field(default=128, gt=0)
    """Width of the residual stream."""
    n_heads: int = Field(default=8, gt=0)
    """Heads per layer, each of width ``d_model / n_heads``."""
    mlp_ratio: float = Field(default=4.0, ge=0, le=100)
    """Neurons of an MLP as a multiple of `d_model`; 0 for a model of attention only."""
    activation: Literal["gelu", "relu", "swiglu", "solu"] = "gelu"
    """The neurons' activation function; ``swiglu`` is gated, ``solu`` is followed by a LayerNorm."""
    positions: Literal["learned", "rotary"] = "learned"
    """``learned`` embeddings are added to those of tokens; ``rotary`` positions turn queries and keys."""
    n_ctx: int = Field(default=128, ge=2)
    """The longest row of tokens, BOS included. The model is trained on rows of this length."""

    @model_validator(mode="after")
    def _fits(self) -> LanguageModelConfig:
        if self.d_model % self.n_heads:
            raise UserError(
                f"n_heads = {self.n_heads}: does not divide d_model = {self.d_model}; choose a divisor of it"
            )
        if self.positions == "rotary" and self.d_head % 2:
            raise UserError(
                f"n_heads = {self.n_heads}: heads of odd width {self.d_head} cannot have rotary positions; change it"
            )
        if self.mlp_ratio and not self.d_mlp:
            raise UserError(f"mlp_ratio = {self.mlp_ratio:g}: gives no neuron; raise it, or set 0 for attention only")
        return self

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return self.d_model // self.n_heads

    @property
    def d_mlp(self) -> int:
        """Neurons of a layer."""
        return round(self.mlp_ratio * self.d_model)

    def n_parameters(self, d_vocab: int) -> int:
        """Number of parameters, embeddings included."""
        with torch.device("meta"):
            return sum(p.numel() for p in LanguageNetwork(self, d_vocab).parameters())

    def native(self, d_vocab: int) -> dict[str, Any]:
        """The settings of TransformerLens' native model of this form, see :mod:`sae.model.native`."""
        kinds = {"gelu": "gelu", "relu": "relu", "swiglu": "silu", "solu": "solu_ln"}
        return {
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "n_heads": self.n_heads,
            "d_head": self.d_head,
            "d_mlp": self.d_mlp or 4 * self.d_model,  # of a model of attention only it is not used
            "act_fn": kinds[self.activation],
            "gated_mlp": self.activation == "swiglu",
            "attn_only": not self.d_mlp,
            "n_ctx": self.n_ctx,
            "d_vocab": d_vocab,
            "normalization_type": "LN",
            "positional_embedding_type": "standard" if self.positions == "learned" else "rotary",
            "rotary_base": int(ROTARY_BASE),
        }


class LanguageNetwork(nn.Module):
    """The model; weights are drawn by :meth:`draw`."""

    def __init__(self, config: LanguageModelConfig, d_vocab: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(d_vocab, config.d_model)
        learned = config.positions == "learned"
        self.pos_embed = nn.Embedding(config.n_ctx, config.d_model) if learned else None
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.n_layers))
        self.ln_final = nn.LayerNorm(config.d_model)
        self.unembed = nn.Linear(config.d_model, d_vocab, bias=False)

    @torch.no_grad()
    def draw(self, random: torch.Generator) -> LanguageNetwork:
        """Draws the initial weights; what writes to the residual stream starts smaller in deeper models."""
        depth = math.sqrt(2 * len(self.blocks))
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = INITIAL / math.sqrt(parameter.shape[1])
                std /= depth if name.endswith(("attn.o.weight", "mlp.out.weight")) else 1.0
                parameter.copy_(std * torch.randn(parameter.shape, generator=random))
            else:
                parameter.fill_(float(".ln" in f".{name}" and name.endswith("weight")))
        return self

    def forward(
        self, tokens: Int[Tensor, "rows n_tokens"], drop: Dropout = WHOLE
    ) -> Float[Tensor, "rows n_tokens d_vocab"]:
        """The logits."""
        x = self.embed(tokens)
        if self.pos_embed is not None:
            x = x + self.pos_embed.weight[: tokens.shape[1]]
        x = drop.stream(x)
        for block in self.blocks:
            x = block(x, drop)
        return self.unembed(self.ln_final(x))


class _Block(nn.Module):
    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.ln1, self.attn = nn.LayerNorm(config.d_model), _Attention(config)
        if config.d_mlp:
            self.ln2, self.mlp = nn.LayerNorm(config.d_model), _Mlp(config)
        self.has_mlp = config.d_mlp > 0

    def forward(self, x: Float[Tensor, "rows n_tokens d_model"], drop: Dropout) -> Tensor:
        x = x + drop.stream(self.attn(self.ln1(x)))
        return x + drop.stream(self.mlp(self.ln2(x), drop)) if self.has_mlp else x


class _Attention(nn.Module):
    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        d = config.d_model
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.n_heads, self.rotary = config.n_heads, config.positions == "rotary"

    def forward(self, x: Float[Tensor, "rows n_tokens d_model"]) -> Float[Tensor, "rows n_tokens d_model"]:
        q, k, v = (part(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        if self.rotary:
            q, k = turned(q), turned(k)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(z.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        d, d_mlp, gated = config.d_model, config.d_mlp, config.activation == "swiglu"
        self.add_module("in", nn.Linear(d, d_mlp, bias=not gated))  # `in` is a word of Python
        self.gate = nn.Linear(d, d_mlp, bias=False) if gated else None
        self.out = nn.Linear(d_mlp, d, bias=not gated)
        self.ln = nn.LayerNorm(d_mlp) if config.activation == "solu" else None
        self.activation = config.activation

    def forward(self, y: Float[Tensor, "rows n_tokens d_model"], drop: Dropout) -> Tensor:
        neurons = self._modules["in"](y)  # pyright: ignore[reportOptionalCall]
        if self.gate is not None:
            neurons = F.silu(self.gate(y)) * neurons
        elif self.ln is not None:
            neurons = self.ln(neurons * neurons.softmax(-1))
        else:
            neurons = F.gelu(neurons) if self.activation == "gelu" else F.relu(neurons)
        return self.out(drop.neurons(neurons))


def turned(x: Float[Tensor, "rows n_heads n_tokens d_head"]) -> Float[Tensor, "rows n_heads n_tokens d_head"]:
    """Rotary positions: the pair of dimensions (2i, 2i + 1) at position t is turned by ``t ROTARY_BASE^(-2i /
    d_head)`` (Su et al. 2021, 'RoFormer')."""
    n_tokens, d_head = x.shape[-2:]
    speeds = ROTARY_BASE ** (-torch.arange(0, d_head, 2, device=x.device).float() / d_head)
    angles = torch.outer(torch.arange(n_tokens, device=x.device).float(), speeds)
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
