"""Monosemanticity of neurons with known features: the share of a neuron that belongs to a single feature.

Measures take weights ``W [n_features, d_hidden]`` from features to neurons, or the neurons' responses to each feature
alone. A neuron without input has no share (NaN): it is neither mono- nor polysemantic. The measures depend on the
basis, and are meaningful if an activation function makes the neuron basis special.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MONOSEMANTIC = 0.9
"""The share above which a unit counts as monosemantic."""


def weight_share(W: Float[Tensor, "n_features d_hidden"]) -> Float[Tensor, " d_hidden"]:
    """``max_i w_ik^2 / sum_i w_ik^2``: the largest share of one feature in a neuron's squared weights; from
    1 / n_features to 1."""
    return _largest_share(W.square())


def response_share(responses: Float[Tensor, "n_features d_hidden"]) -> Float[Tensor, " d_hidden"]:
    """``r_k = max_i a_ki / sum_i a_ki`` over neuron k's activations on one-hot inputs (Jermyn, Schiefer and Hubinger
    2022, 'Engineering Monosemanticity in Toy Models'); negative activations, which GELU has, count as zero."""
    return _largest_share(responses.clamp_min(0))


def _largest_share(parts: Float[Tensor, "n_features d_hidden"]) -> Float[Tensor, " d_hidden"]:
    total = parts.sum(0)
    return torch.where(total > 0, parts.amax(0) / total, torch.nan)


def monosemantic_neurons(
    share: Float[Tensor, " d_hidden"], threshold: float = MONOSEMANTIC
) -> Bool[Tensor, " d_hidden"]:
    """Which neurons have a share above the threshold; their sum is the count."""
    return share > threshold
