"""Options that several commands share, and how a command reads its config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from pipelines.config.config import Config
    from pipelines.steps.step import Step

ConfigName = Annotated[Path, Parameter(help="A TOML file, or the name of a config that `sae configs` lists.")]
Set = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        negative=(),
        help="A value in place of the file's, such as train.steps=200; may be given several times.",
    ),
]
Out = Annotated[Path | None, Parameter(name="--out", help="The folder of all steps, in place of runtime.out.")]
Tier = Annotated[
    str, Parameter(name="--tier", help="Use the values under [tiers.NAME]: fast, full (the file as it is), or another.")
]


def read_plan(
    file: Path, overrides: Sequence[str] | None, out: Path | None, tier: str = "full"
) -> tuple[Config, list[Step], Path]:
    """The config, its steps and the folder that holds them."""
    from pipelines.config.config import FULL, read_config
    from pipelines.config.shipped import find_config
    from pipelines.plan import plan

    settings = read_config(find_config(file), overrides or (), tier)
    return settings, plan(settings, None if tier == FULL else tier), out or settings.runtime.out
