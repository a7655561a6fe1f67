"""Configs by name: those that come with the package, and a user's own."""

from __future__ import annotations

from pathlib import Path

from sae.registry import MissingFileError, UserError, unknown

SHIPPED = Path(__file__).parents[1] / "configs"
"""The configs of the package: a link to the project's ``configs/`` in a checkout, a copy of them in a wheel."""


def find_config(config: Path) -> Path:
    """The file meant by a path or a name, such as ``demo``, ``toys/pentagon`` or ``sharkey-512``.

    A file of the user's own goes before one of the package: ``NAME.toml`` here, then in ``configs/`` here and its
    folders, then in the package. The folder of a name may be left out where only one folder has it.

    Raises `MissingFileError` with the nearest names where there is no such config.
    """
    if config.is_file() or ((config.suffix == ".toml" or config.is_absolute()) and not config.is_dir()):
        return config
    local = Path(f"{config}.toml")
    if local.is_file():
        return local
    for folder in (Path("configs"), SHIPPED):
        names = config_names(folder)
        matching = [name for name in names if name == str(config.as_posix())]
        matching = matching or [name for name in names if name.endswith(f"/{config.as_posix()}")]
        if len(matching) > 1:
            raise UserError(f"{config}: several configs have that name; choose {' or '.join(matching)}")
        if matching:
            return folder / f"{matching[0]}.toml"
    if config.is_dir():
        raise UserError(f"{config}: a folder, not a config; {_what_to_give(config)}")
    known = config_names(SHIPPED)
    near = unknown(str(config), [*known, *(name.rpartition("/")[2] for name in known if "/" in name)], "config")
    raise MissingFileError(f"{near}; `sae configs` lists all; or give the path of a TOML file")


def _what_to_give(folder: Path) -> str:
    """What to do where a folder was given as a config."""
    inside = sorted(folder.glob("*.toml"))
    if inside:
        return f"give a file in it, such as {inside[0]}"
    others = f"; `sae show {folder}` prints what it holds" if (folder / "manifest.json").is_file() else ""
    return f"give a TOML file or a name that `sae configs` lists{others}"


def config_names(folder: Path = SHIPPED) -> list[str]:
    """The names of all configs in a folder, with their folders in it, e.g. ``toys/pentagon``."""
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.glob("**/*.toml"))
