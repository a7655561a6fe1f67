"""Options that several of `sae`'s commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Set = Annotated[list[str] | None, Parameter(name="--set", negative=())]
Out = Annotated[Path | None, Parameter(name="--out")]
