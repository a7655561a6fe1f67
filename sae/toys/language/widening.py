"""Wider MLPs with the same function: every neuron is copied, and the copies share its output weights.

    a(W_in y + b_in) W_out + b_out  =  sum_c a(W_in y + b_in) (W_out / n) + b_out      with n copies of every neuron

for neurons that are computed one by one (gelu, relu, swiglu). With noise on the input weights of the copies in one
layer they differ, and training can set them apart, while all parameters outside that layer's MLP stay as they are:
whether neurons that represent several features come to represent one each when there is room (N. Nanda, '200 concrete
open problems in mechanistic interpretability', 4.44).
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from sae.model.native import CONFIG, WEIGHTS
from sae.registry import LocalPath, Settings, UserError
from sae.toys.language.network import LanguageModelConfig, LanguageNetwork
from sae.toys.language.tokens import tokenizer_files

COPIED, SHARED = ("in.weight", "in.bias", "gate.weight"), "out.weight"
"""The parameters of an MLP with a row for every neuron, and the one with a column."""


class WideningConfig(Settings):
    """Settings of the widening of a trained model; the number of copies is the ratio of both widths."""

    of: LocalPath
    """The folder of the trained model. Its tokenizer is used."""
    layer: int = Field(default=0, ge=0)
    """The layer whose MLP is trained; everything else stays as it is."""
    noise: float = Field(default=0.01, ge=0)
    """The standard deviation of the noise on the input weights of that MLP's neurons, relative to that of the
    weights."""

    def external_files(self) -> dict[str, Path]:
        """The files of the model and its tokenizer; what else lies in the folder, such as a run's records, does not
        matter."""
        if not self.of.is_dir():
            return {}
        files = [self.of / CONFIG, self.of / WEIGHTS, *tokenizer_files(self.of)]
        return {f"widening/{file.name}": file for file in files}

    def copies(self, narrow: LanguageModelConfig, wide: LanguageModelConfig) -> int:
        """How many neurons of the wide model each neuron becomes.

        Raises `UserError` where the models differ in more than their width, or the wide one has no such multiple.
        """
        for name in LanguageModelConfig.model_fields:
            a, b = getattr(narrow, name), getattr(wide, name)
            if name != "mlp_ratio" and a != b:
                raise UserError(f"source.model.{name} = {b}: {a} in the model of source.widening.of; make them equal")
        if narrow.activation == "solu":
            raise UserError("source.widening: copies of SoLU's neurons would share its softmax; choose another model")
        if not narrow.d_mlp or wide.d_mlp % narrow.d_mlp or self.layer >= narrow.n_layers:
            raise UserError(
                f"source.widening: an MLP {self.layer} of {narrow.d_mlp} neurons cannot be widened to {wide.d_mlp}; "
                "choose a layer with an MLP, and a multiple of its width"
            )
        return wide.d_mlp // narrow.d_mlp


def widened_state(
    narrow: LanguageNetwork, copies: int, layer: int = 0, noise: float = 0.0, random: torch.Generator | None = None
) -> dict[str, Tensor]:
    """The parameters of the network with `copies` of every neuron in all layers, and noise in one of them.

    Without noise its logits are those of `narrow`, but for rounding.
    """
    wide = dict[str, Tensor]()
    for name, value in narrow.state_dict().items():
        if ".mlp." in name and name.endswith(COPIED):
            value = value.repeat_interleave(copies, 0)
            if noise and is_trained(name, layer) and value.ndim == 2:
                value = value + noise * value.std() * torch.randn(value.shape, generator=random)
        elif ".mlp." in name and name.endswith(SHARED):
            value = value.repeat_interleave(copies, 1) / copies
        wide[name] = value
    return wide


def is_trained(name: str, layer: int) -> bool:
    """Whether a parameter belongs to the MLP of the layer."""
    return name.startswith(f"blocks.{layer}.mlp.")
