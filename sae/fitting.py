"""Training in one call, from plain tensors or a source."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sae.architecture import DictionaryConfig
from sae.dictionary import Dictionary
from sae.registry import config_class
from sae.source import Source, as_source
from sae.training.config import TrainConfig
from sae.training.loop import train


def fit(
    x: Tensor | tuple[Tensor, Tensor] | Source,
    kind: str = "relu",
    *,
    n_latents: int,
    seeds: Sequence[int] | int = 0,
    device: str | None = None,
    **settings: Any,
) -> list[Dictionary]:
    """Trains dictionaries on activations and returns them, in raw units, on the CPU.

    `x` is a matrix ``[rows, d_in]`` (a fifth of the rows is held out from training), a pair of them (x, y) for
    transcoders that read x and give back y, or a `Source`. `settings` are those of the dictionary kind (``l1`` for
    ``relu``) and of :class:`sae.training.config.TrainConfig` (``steps``, ``batch_size``, ``lr``, ...). A list in
    place of a
    value that members of a stack may differ in (``l1``) is a sweep: one dictionary for each value and seed, values
    outermost, all trained together.

    Raises ``ValueError`` for settings that do not fit, with the field and the value.
    """
    source = as_source(x)
    config = config_class("sae.dictionaries", kind)
    assert issubclass(config, DictionaryConfig)
    training = TrainConfig(**{k: settings.pop(k) for k in list(settings) if k in TrainConfig.model_fields})
    axes = {k: settings.pop(k) for k in config.member_axes if isinstance(settings.get(k), list | tuple)}
    members = [
        (config(n_latents=n_latents, **settings, **dict(zip(axes, values, strict=True))), seed)
        for values in product(*axes.values())
        for seed in ([seeds] if isinstance(seeds, int) else seeds)
    ]
    *_, state = train(members, source, training, device or default_device())
    return [
        d.with_card(training={**training.model_dump(), **member.model_dump(), "seed": seed})
        for d, (member, seed) in zip(state.dictionaries(), members, strict=True)
    ]


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"
