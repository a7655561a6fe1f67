"""The command `sae init`: a config to start from, with every setting of the chosen kinds and what it means."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.commands.output import Terminal

WIDTH = 100
"""Columns of the comments."""
STARTS: dict[str, dict[str, Any]] = {
    "tensor": {"file": "ACTIVATIONS.npy"},
    "transformer": {"model": "gpt2", "hook": "blocks.6.hook_resid_pre", "text": "TEXT.txt"},
    "language": {"hook": "blocks.0.mlp.hook_post", "text": "TEXT.txt"},
    "relu": {"n_latents": 512, "l1": [0.1, 0.3, 1.0]},
}
"""Values of required settings, by kind; for other kinds, those of the first shipped config that has it."""

_OWN = ("kind", "seed", "vary", "point", "refine")
"""Settings of shipped configs that are for their own experiment."""


def init_config(source: str = "correlated", file: Path | None = None, *, dictionary: str = "relu") -> None:
    """Write a config for a kind of source, with every setting, its default and what it means.

    Without a file it is printed: sae init transformer > my.toml. Settings that must be given stand there with an
    example; the others are comments with their defaults.

    Parameters
    ----------
    source
        The kind of source: transformer for a language model, language for a small one that is trained on a text first,
        tensor for activations of your own, or a toy such as correlated, independent, features, manifold, network,
        attention or code.
    file
        The file to write; one that exists is not overwritten.
    dictionary
        The kind of dictionary.
    """
    from sae.registry import UserError

    text = "\n".join(_lines(source, dictionary, "my.toml" if file is None else str(file))) + "\n"
    if file is None:
        Terminal().print(text, markup=False, highlight=False, soft_wrap=True, end="")
        return
    if file.exists():
        raise UserError(f"{file}: exists already; give another name, or remove it")
    file.write_text(text, encoding="utf-8")
    Terminal().say(f"{file}: edit it, then `sae plan {file}` and `sae run {file}`")


def _lines(source: str, dictionary: str, file: str) -> Iterator[str]:
    from pipelines.config.tables import RuntimeTable, ScoreTable
    from sae.registry import config_class
    from sae.training.config import TrainConfig

    of_source, of_dictionary = config_class("sources", source), config_class("dictionaries", dictionary)
    yield from _comment(f"sae plan {file}    lists what will be done, and finds mistakes")
    yield from _comment(f"sae run {file}     does it, prints the scores and the report's path")
    yield from _comment("A list in place of a value is a sweep. `--set train.steps=500` changes a value for one run.")
    for name, settings, kind in (("source", of_source, source), ("dictionary", of_dictionary, dictionary)):
        yield from ("", f"[{name}]", f"kind = {_value(kind)}", *_settings(settings, _start(name, kind)))
    yield from ("", "[train]", *_comment("Seeds: a list trains one dictionary for each."), "seeds = [0, 1, 2]")
    yield from _settings(TrainConfig, {"steps": 2000})
    yield from ("", "[baselines]", *_comment("Controls that every result should be seen beside."))
    yield from ('kinds = ["random", "neurons", "pca"]', "", "[score]", *_settings(ScoreTable, {}))
    yield from ("", "[runtime]", *_settings(RuntimeTable, {}))


def _settings(settings: type[Any], start: dict[str, Any]) -> Iterator[str]:
    """The settings that must be given or have a value to start from, then the others as comments."""
    fields = {name: field for name, field in settings.model_fields.items() if name != "kind"}
    given = {name: start.get(name, "FILL IN") for name, field in fields.items() if field.is_required() or name in start}
    for name in (*given, *(name for name in fields if name not in given)):
        yield from _comment(_plain(fields[name].description or ""))
        default = fields[name].get_default(call_default_factory=True)
        if name in given:
            yield f"{name} = {_value(given[name])}"
        elif default is None or default == ():
            yield f"# {name} ="
        else:
            yield f"# {name} = {_value(default)}"


def _start(table: str, kind: str) -> dict[str, Any]:
    """Values to start from: ours, or those of the first shipped config with the kind."""
    from pipelines.config.shipped import SHIPPED, config_names

    start = dict(STARTS.get(kind, {"n_latents": 512} if table == "dictionary" else {}))
    if kind in STARTS:
        return start
    for name in config_names():
        content = tomllib.loads((SHIPPED / f"{name}.toml").read_text(encoding="utf-8")).get(table, [])
        for each in content if isinstance(content, list) else [content]:
            if each.get("kind") == kind:
                return start | {name: value for name, value in each.items() if name not in _OWN}
    return start


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH)]


def _plain(description: str) -> str:
    """A docstring without the marks of reStructuredText."""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", " ".join(description.split())).replace("``", "").replace("`", "")


def _value(value: Any) -> str:
    from pydantic import BaseModel

    from pipelines.config.toml_tables import toml_value

    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    return toml_value(str(value) if isinstance(value, Path) else value)
