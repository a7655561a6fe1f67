"""A stack of toy networks of one shape: parameters with a leading axis of instances, and batched products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sae.numerics.seeds import generator
from sae.toys.networks.settings import Activation, NetworkConfig

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "gelu": functional.gelu,
}


class ForwardPass(NamedTuple):
    """The hidden layers and the output of a forward pass."""

    hidden: list[Float[Tensor, "n_instances batch _"]]
    """The activations of every hidden layer that was run, first to last."""
    output: Float[Tensor, "n_instances batch n_outputs"]
    """The output, or the last hidden layer that was run if the pass was cut short."""


@dataclass(frozen=True, eq=False)
class Networks:
    """A stack of instances of one network."""

    config: NetworkConfig
    """Settings of the network."""
    parameters: Mapping[str, Tensor]
    """``W_1 [n_instances, n_in, n_out], b_1 [n_instances, n_out], ..., W_out, b_out``."""
    embedding: Float[Tensor, "n_features d_embed"] | None = None
    """The fixed embedding, the same for all instances; None if the network has none."""

    @classmethod
    def initialise(
        cls, config: NetworkConfig, n_features: int, n_outputs: int, seeds: Sequence[int], seed: int = 0
    ) -> Networks:
        """One untrained instance per entry of `seeds`, independent of the other entries; `seed` draws the embedding."""
        first = config.embed or n_features
        members = [_member(config, first, first if config.residual else n_outputs, s) for s in seeds]
        return cls(
            config,
            {name: torch.stack([m[name] for m in members]) for name in members[0]},
            embedding(config, n_features, seed),
        )

    @property
    def n_instances(self) -> int:
        return len(self.parameters["W_1"])

    def instance(self, i: int) -> Networks:
        """Instance i as a stack of one."""
        return replace(self, parameters={name: p[i : i + 1] for name, p in self.parameters.items()})

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Networks:
        return replace(self, parameters=parameters)

    @property
    def W(self) -> Float[Tensor, "n_instances n_features d_hidden"]:
        """What each feature adds to the first hidden layer before its activation function: the rows of ``E W_1``."""
        first = self.parameters["W_1"]
        return first if self.embedding is None else self.embedding @ first

    def __call__(
        self,
        x: Float[Tensor, "#n_instances batch n_features"],
        drop: Callable[[Tensor], Tensor] | None = None,
        depth: int | None = None,
    ) -> ForwardPass:
        """Runs every instance on its rows of `x`.

        `drop` applies dropout to a hidden layer. With `depth` only that many hidden layers are run, and the output is
        the last of them.
        """
        config, p = self.config, self.parameters
        act = _ACTIVATIONS[config.activation]
        stream = x if self.embedding is None else x @ self.embedding
        h, hidden = stream, list[Tensor]()
        for layer in range(1, (depth or len(config.hidden)) + 1):
            h = act(_affine(h, p[f"W_{layer}"], p.get(f"b_{layer}")))
            h = h if drop is None else drop(h)
            hidden.append(h)
        if depth is not None:
            return ForwardPass(hidden, h)
        out = p["W_1"].mT if config.tied else p["W_out"]
        y = _affine(h, out, p.get("b_out"))
        if config.residual:
            y = stream + y
            y = y if self.embedding is None else y @ self.embedding.T
        return ForwardPass(hidden, _ACTIVATIONS[config.output](y))


def _affine(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    x = x.expand(len(W), *x.shape[1:])
    return torch.bmm(x, W) if b is None else torch.baddbmm(b[:, None], x, W)


def _member(config: NetworkConfig, n_in: int, n_out: int, seed: int) -> dict[str, Tensor]:
    """The initial parameters of one instance."""
    draw = generator("network", seed)
    widths = [n_in, *config.hidden]
    parameters: dict[str, Tensor] = {}
    for layer, (a, b) in enumerate(pairwise(widths), start=1):
        parameters[f"W_{layer}"] = _weights(config, a, b, draw)
        if config.hidden_bias:
            parameters[f"b_{layer}"] = torch.full((b,), config.hidden_bias_start)
    if not config.tied:
        parameters["W_out"] = _weights(config, widths[-1], n_out, draw)
    if config.output_bias:
        parameters["b_out"] = torch.zeros(n_out)
    return parameters


def _weights(config: NetworkConfig, n_in: int, n_out: int, draw: torch.Generator) -> Float[Tensor, "n_in n_out"]:
    variance = 1 / n_out if config.start == "unit" else 2 / (n_in + n_out)
    return variance**0.5 * torch.randn(n_in, n_out, generator=draw)


def embedding(config: NetworkConfig, n_features: int, seed: int) -> Float[Tensor, "n_features d_embed"] | None:
    """The fixed embedding drawn from a source's seed; None if the network has none."""
    if config.embed is None:
        return None
    rows = torch.randn(n_features, config.embed, generator=generator("embedding", seed))
    if config.embedding == "tight":
        left, _, right = torch.linalg.svd(rows.double(), full_matrices=False)
        rows = (left @ right).float()
    return rows / rows.norm(dim=1, keepdim=True)
