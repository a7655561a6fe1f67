"""The parts of a model, layer by layer: attention heads and the neurons of MLPs, with their weights.

TransformerLens stacks a weight over the layers that have it: in a model whose layers differ, entry i of its ``W_out``
is not layer i. Weights are read here from the block of the layer.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from sae.model.hooked import Model
from sae.registry import UserError


def stack_of(model: Model) -> str:
    """The name of the list of blocks that reads the text: the encoder's in an encoder-decoder."""
    return "encoder_blocks" if model.is_encoder_decoder else "blocks"


def block_of(model: Model, layer: int) -> Any:
    """The block of a layer. Raises `UserError` if the model has no such layer."""
    if not 0 <= layer < (n := _n_layers(model)):
        raise UserError(f"layer = {layer}: the model has {n} layers; give 0 to {n - 1}")
    return getattr(model.bridge, stack_of(model))[layer]


def z_of(model: Model, layer: int) -> str:
    """The hook point of the outputs z of a layer's heads, before W_O."""
    return f"{stack_of(model)}.{layer}.attn.hook_z"


def layers_with_heads(model: Model) -> list[int]:
    """The layers with attention heads. Raises `UserError` if there are none."""
    layers = [layer for layer in range(_n_layers(model)) if z_of(model, layer) in model.hooks]
    if not layers:
        raise UserError(
            f"model = {model.name!r}: it has no attention heads, the parts of its layers are "
            f"{', '.join(parts_of(block_of(model, 0)))}; give another model"
        )
    return layers


def n_heads(model: Model, layer: int = 0) -> int:
    """The number of attention heads in a layer, which the shape of their outputs tells."""
    shape = model.shape(z_of(model, layer))
    return shape[0] if len(shape) == 2 else int(model.bridge.cfg.n_heads)


def head_weights(model: Model, layer: int) -> Float[Tensor, "n_heads d_head d_model"] | None:
    """``W_O`` of each head of a layer; None if they are not one matrix for each head."""
    weights = getattr(block_of(model, layer).attn, "W_O", None)
    heads, width = n_heads(model, layer), model.width(z_of(model, layer))
    fits = isinstance(weights, Tensor) and weights.shape[:2] == (heads, width // heads)
    return weights.detach() if isinstance(weights, Tensor) and fits else None


def neuron_weights(model: Model, layer: int) -> dict[str, Float[Tensor, "n_neurons d_model"]]:
    """The weights of a layer's neurons, one row for each: ``W_in``, ``W_gate`` if the MLP is gated, and ``W_out``.

    Raises `UserError` if the layer does not exist, or has no MLP with neurons, such as a mixture of experts.
    """
    block = block_of(model, layer)
    mlp = getattr(block, "mlp", None)
    if not _has_neurons(mlp):
        others = [str(i) for i in range(_n_layers(model)) if _has_neurons(getattr(block_of(model, i), "mlp", None))]
        parts = (
            "its MLP is a mixture of experts"
            if "MoE" in type(mlp).__name__
            else f"its parts are {', '.join(parts_of(block))}"
        )
        remedy = f"give one of the layers {', '.join(others)}" if others else "give another model"
        raise UserError(f"model = {model.name!r}: layer {layer} has no MLP with neurons, {parts}; {remedy}")
    weights = {name: getattr(mlp, name, None) for name in ("W_in", "W_gate", "W_out")}
    return {
        name: (value if name == "W_out" else value.T).detach().contiguous()
        for name, value in weights.items()
        if value is not None
    }


def _has_neurons(mlp: Any) -> bool:
    return all(isinstance(getattr(mlp, name, None), Tensor) for name in ("W_in", "W_out"))


def _n_layers(model: Model) -> int:
    return len(getattr(model.bridge, stack_of(model)))


def parts_of(block: Any) -> list[str]:
    """The names of a block's parts in the Bridge, such as ``attn``, ``mlp`` and ``ln1``."""
    return sorted(name for name, part in block.named_children() if hasattr(part, "hook_out"))
