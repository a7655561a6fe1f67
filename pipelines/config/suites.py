"""Suites by name: the configs that come with the project, and how a tier of one is chosen."""

from __future__ import annotations

from pathlib import Path

from sae.registry import MissingFileError, unknown

_FOLDERS = (Path("configs/suites"), Path(__file__).parent.parent / "configs/suites")
"""Where a suite is looked for by its name: beside the reader, and in the project's own folder."""


def find_config(config: Path) -> Path:
    """The file that is meant by a path, or by the bare name of a suite; a ``FileNotFoundError`` of one line where there
    is no suite of that name."""
    if config.is_file() or config.suffix or len(config.parts) > 1:
        return config
    for folder in _FOLDERS:
        if (file := folder / f"{config}.toml").is_file():
            return file
    known = sorted({file.stem for folder in _FOLDERS for file in folder.glob("*.toml")})
    raise MissingFileError(f"{unknown(str(config), known, 'suite')}; or give the path of a config")
