"""The command `sae configs`: the configs that come with the package."""

from __future__ import annotations

import tomllib

from rich.markup import escape

from pipelines.commands.output import Terminal
from pipelines.report.text_table import TextColumn, print_sentence, print_text_table


def list_configs(name: str | None = None) -> None:
    """List the configs that come with the package, or print one of them: sae configs demo > my.toml.

    Parameters
    ----------
    name
        The config to print, as the list shows it; the folder may be left out.
    """
    from pathlib import Path

    from pipelines.config.shipped import SHIPPED, config_names, find_config

    if name is not None:
        Terminal().copy_file(find_config(Path(name)))
        return
    names = config_names()
    contents = [tomllib.loads((SHIPPED / f"{config}.toml").read_text(encoding="utf-8")) for config in names]
    titles = [escape(str(content.get("title", ""))) for content in contents]
    console = Terminal()
    print_text_table(console, "", [TextColumn("name", names), TextColumn("what it is", titles, is_text=True)])
    print_sentence(console, "sae run NAME runs one; sae configs NAME > my.toml copies one to change", style="dim")
