"""The commands of `sae` with their arguments and options, read from the command line itself."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from pipelines.cli import app
from sae_reference.settings import REQUIRED, type_text
from sae_reference.text import code_cell, markdown, one_line, table


class Option(NamedTuple):
    """An argument or an option of a command."""

    name: str
    type: str
    default: str
    description: str


class Command(NamedTuple):
    """A command, as the reference shows it."""

    name: str
    description: str
    options: list[Option]

    @property
    def usage(self) -> str:
        """The command with its arguments."""
        return " ".join([f"sae {self.name}", *(o.name for o in self.options if not o.name.startswith("--"))])


def all_commands() -> list[Command]:
    """Every command, in the order of the help."""
    names = [name for name in app if not name.startswith("-")]
    return [Command(name, _without_parameters(app[name].help), options(app[name])) for name in names]


def options(command: Any) -> list[Option]:
    """The arguments and options of a command."""
    found: list[Option] = []
    for argument in command.assemble_argument_collection(parse_docstring=True):
        if not argument.show:
            continue
        info = argument.field_info
        name = argument.names[0] if argument.index is None else argument.names[0].lstrip("-").upper()
        default = (
            "required"
            if argument.required
            else ""
            if info.default in (None, False, "", info.empty)
            else str(info.default)
        )
        found.append(
            Option(name, type_text(info.annotation).removesuffix(" | None"), default, argument.parameter.help or "")
        )
    return found


def commands() -> str:
    """A section for every command."""
    parts: list[str] = []
    for one in all_commands():
        parts.append(f"## `sae {one.name}`\n\n```sh\n{one.usage}\n```\n\n{markdown(one.description)}")
        parts.append(_options_table(one.options))
    parts.append(f"## Options of every command\n\n{_options_table(options(app.meta))}")
    return "\n\n".join(parts)


def _options_table(found: list[Option]) -> str:
    if not found:
        return ""
    rows = [
        (
            code_cell(o.name),
            code_cell(o.type),
            o.default if o.default == REQUIRED else code_cell(o.default),
            one_line(o.description),
        )
        for o in found
    ]
    return table(("argument", "type", "default", "meaning"), rows)


def _without_parameters(help: str) -> str:
    return re.split(r"\n\s*Parameters\n\s*-+\n", help)[0]
