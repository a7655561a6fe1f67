"""The command `sae configs`: the configs that come with the package."""

from __future__ import annotations

import tomllib

from rich.table import Table
from rich.text import Text

from pipelines.commands.output import Terminal


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
    table = Table("name", "what it is", box=None, header_style="dim")
    for config in config_names():
        content = tomllib.loads((SHIPPED / f"{config}.toml").read_text(encoding="utf-8"))
        table.add_row(config, Text(str(content.get("title", ""))))
    console = Terminal(soft_wrap=True)
    console.print(table)
    console.print("sae run NAME runs one; sae configs NAME > my.toml copies one to change", style="dim", markup=False)
