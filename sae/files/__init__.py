"""Dictionaries on disk: the native form, and one file per foreign format.

:func:`load` tells the formats apart by content; nothing that it reads can execute.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sae.dictionary import Dictionary
from sae.files.native import is_native, load_native, save_native
from sae.files.saelens import is_saelens, load_saelens, save_saelens
from sae.kinds import unknown

READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Dictionary]]] = {
    "native": (is_native, load_native),
    "saelens": (is_saelens, load_saelens),
}
WRITERS: dict[str, Callable[[Dictionary, Path], None]] = {"native": save_native, "saelens": save_saelens}


def load(path: str | Path) -> Dictionary:
    """The dictionary in a folder, whatever readable format it is in.

    A folder that holds a native dictionary in ``dictionary/`` (a step of a run) opens as well. Raises
    ``FileNotFoundError`` where there is none, ``ValueError`` of one line where a file is damaged.
    """
    folder = Path(path)
    if is_native(folder / "dictionary"):
        folder = folder / "dictionary"
    for recognises, read in READERS.values():
        if recognises(folder):
            return read(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{path}: there is no such folder")
    raise FileNotFoundError(f"{path}: no dictionary here in a format that can be read ({', '.join(READERS)})")


def save(d: Dictionary, path: str | Path, format: str = "native") -> None:
    """Writes a dictionary to a folder; equal dictionaries give equal bytes."""
    if format not in WRITERS:
        raise ValueError(unknown(format, WRITERS, "format"))
    WRITERS[format](d, Path(path))


def convert(source: str | Path, target: str | Path, format: str = "native") -> None:
    """Reads a dictionary in any format and writes it in another."""
    save(load(source), target, format)
