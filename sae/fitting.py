"""Training in one call, from plain tensors or a source."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae.architecture import DictionaryConfig
from sae.dictionary import Dictionary
from sae.numerics.arrays import Numbers, integers_of, plain_value
from sae.registry import UserError, checked_settings, config_class
from sae.source import Source, as_source, left_out_facts
from sae.training.config import TrainConfig
from sae.training.loop import train


def fit(
    x: Numbers | tuple[Numbers, Numbers] | Source,
    kind: str | DictionaryConfig = "relu",
    *,
    n_latents: int | None = None,
    seeds: Sequence[int] | NDArray[np.integer[Any]] | int | np.integer[Any] = 0,
    device: str | None = None,
    **settings: Any,
) -> list[Dictionary]:
    """Trains dictionaries on activations and returns them, in units of the raw activations, on the CPU.

    `x` is a matrix ``[rows, d_in]`` (a tensor, a NumPy array or a list of rows; a fifth of them is held out from
    training), a pair (x, y) of inputs and targets for transcoders, or a `Source`. `kind` is the name of a dictionary
    kind (a file of ``sae/dictionaries/``, or one registered from outside), or its config object, such as
    ``MyConfig(n_latents=512, l1=0.1)``.

    `settings` are those of the kind (``l1`` for ``relu``) and of :class:`sae.training.config.TrainConfig` (``steps``,
    ``batch_size``, ``lr``, ...). A list in place of a value in which members of a stack may differ (``l1``) is a sweep:
    one dictionary for each value and seed, values outermost, all trained together.

    Raises `UserError` for data and settings that do not fit, with the field and the value, and where training diverges.
    """
    seed_list = integers_of("seeds", seeds)
    settings = {name: plain_value(value) for name, value in settings.items()}
    of_training = {k: settings.pop(k) for k in list(settings) if k in TrainConfig.model_fields}
    configs = _configs(kind, plain_value(n_latents), settings)
    training = checked_settings(TrainConfig, of_training)
    members = [(config, seed) for config in configs for seed in seed_list]
    source = as_source(x)
    *_, state = train(members, source, training, device or default_device())
    dictionaries = state.dictionaries()
    for d, (member, seed) in zip(dictionaries, members, strict=True):
        _check_converged(d, member, seed, training)
    return [
        d.with_card(training={**training.model_dump(), **member.model_dump(), "seed": seed}, **left_out_facts(source))
        for d, (member, seed) in zip(dictionaries, members, strict=True)
    ]


def _check_converged(d: Dictionary, member: DictionaryConfig, seed: int, training: TrainConfig) -> None:
    """Raises `UserError` where training ended in weights that are not finite."""
    if not all(bool(weights.isfinite().all()) for weights in (d.W_enc, d.W_dec, d.b_enc, d.b_dec)):
        settings = member.model_dump()
        penalty = "".join(f", {name} = {settings[name]:g}" for name in member.member_axes if settings.get(name))
        raise UserError(
            f"lr = {training.lr:g}{penalty}, seed = {seed}: training diverged, its weights are NaN or infinite; lower "
            "these, or check x for extreme values"
        )


_OTHERS = (*TrainConfig.model_fields, "kind", "seeds", "device")
"""What :func:`fit` takes beside the settings of a kind."""


def _configs(kind: str | DictionaryConfig, n_latents: int | None, settings: dict[str, Any]) -> list[DictionaryConfig]:
    """The config of every value of a sweep."""
    if isinstance(kind, DictionaryConfig):
        given = [*(["n_latents"] if n_latents is not None else []), *settings]
        if given:
            raise UserError(
                f"{given[0]}: a config object has all its settings; give it there: {type(kind).__name__}(...)"
            )
        return [kind]
    if not isinstance(kind, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"kind = {kind!r}: neither the name of a kind nor a config object; give one, such as 'relu'")
    if n_latents is None:
        raise UserError("n_latents is missing: give the number of latents, for example n_latents=512")
    cls = config_class("dictionaries", kind)
    assert issubclass(cls, DictionaryConfig)
    axes = {k: settings.pop(k) for k in cls.member_axes if isinstance(settings.get(k), list | tuple)}
    empty = next((name for name, points in axes.items() if not points), None)
    if empty is not None:
        raise UserError(f"{empty} = []: a sweep over no values; give at least one value")
    values = [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]
    given = {"n_latents": n_latents, **settings}
    return [checked_settings(cls, {**given, **value}, _OTHERS) for value in values]


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"
