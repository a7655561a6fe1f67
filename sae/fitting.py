"""Training in one call, from plain tensors or a source."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sae.architecture import DictionaryConfig
from sae.dictionary import Dictionary
from sae.numerics.arrays import Numbers, integers_of, plain_value
from sae.numerics.card import model_facts
from sae.numerics.devices import check_device
from sae.numerics.progress_line import ProgressLine
from sae.registry import UserError, checked_settings, config_class
from sae.source import Source, TensorSource, as_source, left_out_facts
from sae.training.config import TrainConfig
from sae.training.loop import train_side_by_side
from sae.training.precision import slower_warning, time_encoder
from sae.training.state import Member, State

Callback = Callable[[int, list[dict[str, float | int]]], None]
"""``callback(step, figures)``: what the step logged, one mapping for each dictionary in the order of the result."""


def fit(
    x: Numbers | tuple[Numbers, Numbers] | Source,
    kind: str | DictionaryConfig | Sequence[DictionaryConfig] = "relu",
    *,
    n_latents: int | Sequence[int] | None = None,
    seeds: Sequence[int] | NDArray[np.integer[Any]] | int | np.integer[Any] = 0,
    device: str | None = None,
    train: TrainConfig | None = None,
    progress: bool | None = None,
    callback: Callback | None = None,
    **settings: Any,
) -> list[Dictionary]:
    """Trains dictionaries on activations and returns them, in units of the raw activations, on the CPU.

    `x` is a matrix ``[rows, d_in]`` (a tensor, a NumPy array or a list of rows; a fifth of them is held out from
    training), a pair (x, y) of inputs and targets for transcoders, or a `Source`. `kind` is the name of a dictionary
    kind (a file of ``sae/dictionaries/``, or one registered from outside), or its config object, such as
    ``sae.relu(n_latents=512, l1=0.1)`` or ``MyConfig(n_latents=512, l1=0.1)``, or a list of config objects.

    `settings` are those of the kind (``l1`` for ``relu``) and of :class:`sae.TrainConfig` (``steps``, ``batch_size``,
    ``lr``, ...), which `train` gives as an object: ``train=sae.TrainConfig(steps=2000)``. A list in place of
    `n_latents`, or of a value in which members of a stack may differ (``l1``), is a sweep: one dictionary for each
    width, value and seed, widths outermost, then values, all trained in one pass over the data, each as it would be
    alone.

    ``precision = "auto"`` is chosen once for the call, at its widest dictionary; the card of each dictionary, under
    ``train``, has the precision that was taken.

    `progress` shows a line on stderr with rate, time left and the means of loss, L0 and dead latents; None: only where
    stderr is a terminal. `callback` is called every ``log_every`` steps and after the last one, as
    ``callback(step, figures)`` with one mapping for each dictionary: ``loss``, ``l0``, ``dead`` and others.

    Raises `UserError` for data and settings that do not fit, with the field and the value, and where training diverges.
    """
    seed_list = integers_of("seeds", seeds)
    settings = {name: plain_value(value) for name, value in settings.items()}
    training = _training(train, {k: settings.pop(k) for k in list(settings) if k in TrainConfig.model_fields})
    configs = _configs(kind, plain_value(n_latents), settings)
    members = [(config, seed) for config in configs for seed in seed_list]
    device = device or default_device()
    check_device("device", device)
    source = as_source(x)
    training = _with_precision(training, source.d_in, max(config.n_latents for config in configs), device)
    with ProgressLine("fit", progress) as line:
        dictionaries = _train(members, source, training, device, line, callback)
    for d, (member, seed) in zip(dictionaries, members, strict=True):
        _check_converged(d, member, seed, training)
    shared = {"train": training.model_dump(mode="json"), **_source_entries(source)}
    return [
        d.with_card(dictionary=member.model_dump(mode="json"), seed=seed, **shared)
        for d, (member, seed) in zip(dictionaries, members, strict=True)
    ]


def _source_entries(source: Source) -> dict[str, Any]:
    """The entries of a card on a source. ``source`` has the settings that it was made from, as in the config of a run;
    for a matrix in memory its split alone; it is absent for others."""
    entries = left_out_facts(source) | model_facts(source.facts)
    if source.made_from is not None:
        entries["source"] = source.made_from.model_dump(mode="json")
    elif isinstance(source, TensorSource):
        entries["source"] = {"kind": "tensor", "heldout": source.heldout, "seed": source.seed}
    return entries


def _training(given: Any, settings: dict[str, Any]) -> TrainConfig:
    """The settings of training, from an object or from keywords."""
    if given is None:
        return checked_settings(TrainConfig, settings)
    if not isinstance(given, TrainConfig):
        raise UserError(f"train = {repr(given)[:40]}: give a sae.TrainConfig, such as sae.TrainConfig(steps=2000)")
    if settings:
        raise UserError(f"{next(iter(settings))}: train has all settings of training; give it there")
    return given


def _with_precision(training: TrainConfig, d_in: int, n_latents: int, device: str) -> TrainConfig:
    """The settings with the faster precision in place of ``auto``, for the widest dictionary of the call.

    Warns where a rounded product was asked for and takes longer than float32 on this machine.
    """
    if training.precision == "float32":
        return training
    timing = time_encoder(d_in, n_latents, training.batch_size, device)
    if training.precision == "auto":
        return training.model_copy(update={"precision": timing.faster})
    slower = slower_warning(training.precision, timing)
    if slower is not None:
        warnings.warn(slower, stacklevel=3)
    return training


def _train(
    members: Sequence[Member],
    source: Source,
    training: TrainConfig,
    device: str,
    line: ProgressLine,
    callback: Callback | None,
) -> list[Dictionary]:
    """Trains the members, as one stack for each shape and architecture; the dictionaries are in the order given."""
    stacks: list[list[int]] = []
    for i, (config, _) in enumerate(members):
        stack = next((stack for stack in stacks if _shares_stack(members[stack[0]][0], config)), None)
        if stack is None:
            stacks.append([i])
        else:
            stack.append(i)
    place = [i for stack in stacks for i in stack]
    states: list[State] = []
    for states in train_side_by_side([[members[i] for i in stack] for stack in stacks], source, training, device):
        if callback is None and not line.is_shown:
            continue
        records = _in_order(place, [record for state in states for record in state.records()])
        means = {name: sum(r[name] for r in records) / len(records) for name in ("loss", "l0", "dead")}
        line(states[0].step, training.steps, "steps", **means)
        if callback is not None:
            callback(states[0].step, records)
    return _in_order(place, [d for state in states for d in state.dictionaries()])


_T = TypeVar("_T")


def _in_order(place: Sequence[int], values: Sequence[_T]) -> list[_T]:
    """The values, of which the i-th belongs at ``place[i]``."""
    return [value for _, value in sorted(zip(place, values, strict=True), key=lambda pair: pair[0])]


def _shares_stack(a: DictionaryConfig, b: DictionaryConfig) -> bool:
    """Whether two settings differ at most in the fields in which members of a stack may differ."""
    free = set(a.member_axes)
    return type(a) is type(b) and a.model_dump(exclude=free) == b.model_dump(exclude=free)


def _check_converged(d: Dictionary, member: DictionaryConfig, seed: int, training: TrainConfig) -> None:
    """Raises `UserError` where training ended in weights that are not finite."""
    if not all(bool(weights.isfinite().all()) for weights in (d.W_enc, d.W_dec, d.b_enc, d.b_dec)):
        settings = member.model_dump()
        penalty = "".join(f", {name} = {settings[name]:g}" for name in member.member_axes if settings.get(name))
        raise UserError(
            f"lr = {training.lr:g}{penalty}, seed = {seed}: training diverged, its weights are NaN or infinite; lower "
            "these, or check x for extreme values"
        )


_OTHERS = (*TrainConfig.model_fields, "kind", "seeds", "device", "train", "progress", "callback")
"""What :func:`fit` takes beside the settings of a kind."""


def _configs(kind: Any, n_latents: Any, settings: dict[str, Any]) -> list[DictionaryConfig]:
    """The config of every value of a sweep."""
    objects = cast(list[Any], list(kind) if isinstance(kind, list | tuple) else [kind])
    if objects and all(isinstance(one, DictionaryConfig) for one in objects):
        given = [*(["n_latents"] if n_latents is not None else []), *settings]
        if given:
            raise UserError(
                f"{given[0]}: a config object has all its settings; give it there: {type(objects[0]).__name__}(...)"
            )
        return objects
    if not isinstance(kind, str):
        raise UserError(f"kind = {kind!r}: neither the name of a kind nor a config object; give one, such as 'relu'")
    if n_latents is None:
        raise UserError("n_latents is missing: give the number of latents, for example n_latents=512")
    cls = config_class("dictionaries", kind)
    assert issubclass(cls, DictionaryConfig)
    axes = {k: settings.pop(k) for k in cls.member_axes if isinstance(settings.get(k), list | tuple)}
    if isinstance(n_latents, list | tuple | range):
        axes = {"n_latents": n_latents, **axes}
    empty = next((name for name, points in axes.items() if not points), None)
    if empty is not None:
        raise UserError(f"{empty} = []: a sweep over no values; give at least one value")
    values = [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]
    given = {"n_latents": n_latents, **settings}
    return [
        checked_settings(cls, {**given, **{k: plain_value(v) for k, v in value.items()}}, _OTHERS) for value in values
    ]


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"
