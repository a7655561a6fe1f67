"""Paths that a user wrote: ``~`` is the home folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator

_P = TypeVar("_P", str, Path)


def expand_home(path: _P) -> _P:
    """A path in which a leading ``~`` or ``~user`` is the home folder; any other path or name is returned as it is."""
    text = str(path)
    return type(path)(os.path.expanduser(text)) if text.startswith("~") else path


LocalPath = Annotated[Path, AfterValidator(expand_home)]
"""A setting that names a file or folder."""
PathOrId = Annotated[str, AfterValidator(expand_home)]
"""A setting that names a local file or folder, or something on the hub."""
