"""The model of an attention toy: embedding, positions, attention layers and unembedding only.

    x = W_E[t] + W_pos
    z_h = softmax(q_h k_h^T / sqrt(d_head) + causal mask) v_h,    q_h = x W_Q,h + b_Q,h and likewise k_h, v_h
    x <- x + sum_h z_h W_O,h + b_O                               in every layer
    logits = x W_U + b_U

There is no normalisation and no MLP. Training uses plain torch and computes the last layer's queries only at positions
with answers. Analyses use TransformerLens' Bridge as for any other model: :func:`bridged` copies the weights into
``boot_native``, whose logits agree to rounding. ``boot_native`` has no b_U, which :func:`bridged` adds, and initialises
output projections with smaller values.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from sae.model.hooked import Model
from sae.registry import Settings, UserError
from sae.toys.attention.task import TokenTask

NARROW = 4
"""Largest head width at which products are summed elementwise, since batched matrix products are slower there."""


class AttentionModelConfig(Settings):
    """Settings of the model of an attention toy."""

    n_layers: int = Field(1, gt=0)
    """Number of attention layers."""
    n_heads: int = Field(gt=0)
    """Heads per layer."""
    d_head: int = Field(gt=0)
    """Width of a head."""
    d_model: int | None = Field(None, gt=0)
    """Width of the residual stream; with ``one_hot`` embeddings it follows from the task and must be left out."""
    embedding: Literal["learned", "one_hot"] = "learned"
    """``one_hot`` embeddings are fixed: each token and each answer has a dimension of its own, and positions are 0.

    Then information passes from tokens to answers only through heads.
    """

    @model_validator(mode="after")
    def _width(self) -> AttentionModelConfig:
        if (self.d_model is None) != (self.embedding == "one_hot"):
            raise UserError(
                f"d_model = {self.d_model}: does not fit embedding = {self.embedding!r}; set d_model for learned "
                "embeddings and leave it out for one_hot"
            )
        return self

    def width(self, task: TokenTask) -> int:
        """Width of the residual stream."""
        return self.d_model or task.d_vocab + task.d_vocab_out


class Network(nn.Module):
    """Parameters under TransformerLens' names; those of attention layers have a leading axis of layers."""

    def __init__(self, config: AttentionModelConfig, task: TokenTask, draw: torch.Generator) -> None:
        super().__init__()
        d, layers, heads, d_head = config.width(task), config.n_layers, config.n_heads, config.d_head
        std = 0.8 / math.sqrt(d)

        def random(*shape: int) -> nn.Parameter:
            return nn.Parameter(std * torch.randn(shape, generator=draw))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape))

        self.W_E, self.W_pos = random(task.d_vocab, d), random(task.n_tokens, d)
        self.W_Q, self.W_K, self.W_V = (random(layers, heads, d, d_head) for _ in range(3))
        self.b_Q, self.b_K, self.b_V = (zeros(layers, heads, d_head) for _ in range(3))
        self.W_O, self.b_O = random(layers, heads, d_head, d), zeros(layers, d)
        self.W_U, self.b_U = random(d, task.d_vocab_out), zeros(task.d_vocab_out)
        if config.embedding == "one_hot":
            self._set_one_hot(task.d_vocab)

    def _set_one_hot(self, d_vocab: int) -> None:
        of_tokens, of_answers = torch.eye(len(self.W_U)).split([d_vocab, len(self.W_U) - d_vocab], dim=1)
        for parameter, value in ((self.W_E, of_tokens.T), (self.W_U, of_answers), (self.W_pos, torch.zeros(()))):
            parameter.data.copy_(value)
            parameter.requires_grad_(False)
        self.b_U.requires_grad_(False)

    def forward(
        self, tokens: Int[Tensor, "rows n_tokens"], first: int = 0
    ) -> Float[Tensor, "rows n_queries d_vocab_out"]:
        """The logits at the positions from `first` on."""
        x = self.W_E[tokens] + self.W_pos[: tokens.shape[1]]
        last = len(self.W_Q) - 1
        for layer in range(last + 1):
            q, k, v = (
                torch.einsum("btd,hde->bthe", y, W[layer]) + b[layer]
                for y, W, b in (
                    (x[:, first if layer == last else 0 :], self.W_Q, self.b_Q),
                    (x, self.W_K, self.b_K),
                    (x, self.W_V, self.b_V),
                )
            )
            z = attend(q, k, v) if q.shape[-1] > NARROW else attend_narrow(q, k, v)
            x = x[:, -q.shape[1] :] + torch.einsum("bthe,hed->btd", z, self.W_O[layer]) + self.b_O[layer]
        return x @ self.W_U + self.b_U


def attend(
    q: Float[Tensor, "rows n_queries heads d_head"],
    k: Float[Tensor, "rows n_tokens heads d_head"],
    v: Float[Tensor, "rows n_tokens heads d_head"],
) -> Float[Tensor, "rows n_queries heads d_head"]:
    """Causal attention from the last `n_queries` positions to all."""
    scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(q.shape[-1]) + _mask(q, k)
    return torch.einsum("bhqk,bkhe->bqhe", scores.softmax(-1), v)


def attend_narrow(
    q: Float[Tensor, "rows n_queries heads d_head"],
    k: Float[Tensor, "rows n_tokens heads d_head"],
    v: Float[Tensor, "rows n_tokens heads d_head"],
) -> Float[Tensor, "rows n_queries heads d_head"]:
    """:func:`attend` with rows and heads as the inner axis, for heads of a few dimensions."""
    rows, heads = q.shape[0], q.shape[2]
    q, k, v = (y.permute(1, 3, 0, 2).flatten(2) for y in (q, k, v))
    scores = (q[:, None] * k[None]).sum(2) / math.sqrt(q.shape[1])
    pattern = (scores + _mask(q.transpose(0, 1), k.transpose(0, 1))[..., None]).softmax(1)
    z = (pattern[:, :, None] * v[None]).sum(1)
    return z.unflatten(2, (rows, heads)).permute(2, 0, 3, 1)


def _mask(q: Tensor, k: Tensor) -> Tensor:
    """Minus infinity where a key comes after its query ``[n_queries, n_tokens]``."""
    return torch.full((q.shape[1], k.shape[1]), -math.inf, device=q.device).triu(k.shape[1] - q.shape[1] + 1)


def bridged(network: Network, name: str, device: str) -> Model:
    """The network as TransformerLens' native model, with the same logits to rounding."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    n_layers, n_heads, d_model, d_head = network.W_Q.shape
    settings = TransformerBridgeConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=d_model,
        d_head=d_head,
        d_vocab=len(network.W_E),
        d_vocab_out=len(network.b_U),
        n_ctx=len(network.W_pos),
        attn_only=True,
        normalization_type=None,
        positional_embedding_type="standard",
        architecture="TransformerLensNative",
        init_weights=False,
    )
    bridge: Any = TransformerBridge.boot_native(settings, device=device)  # pyright: ignore[reportAttributeAccessIssue]
    unembed = bridge.unembed.original_component
    unembed.bias = nn.Parameter(torch.empty(len(network.b_U), device=device))
    pairs: list[tuple[Any, Tensor]] = [
        (bridge.embed.original_component.weight, network.W_E),
        (bridge.pos_embed.original_component.weight, network.W_pos),
        (unembed.weight, network.W_U.T),
        (unembed.bias, network.b_U),
    ]
    for layer, block in enumerate(bridge.blocks):
        for part in "qkv":
            linear = getattr(block.attn, part).original_component
            W, b = (getattr(network, f"{name}_{part.upper()}") for name in "Wb")
            pairs += [(linear.weight, W[layer].transpose(1, 2).flatten(0, 1)), (linear.bias, b[layer].flatten())]
        out = block.attn.o.original_component
        pairs += [(out.weight, network.W_O[layer].flatten(0, 1).T), (out.bias, network.b_O[layer])]
    with torch.no_grad():
        for parameter, trained in pairs:
            parameter.copy_(trained)
    bridge.eval()
    return Model(name, bridge, device)
