"""Dictionaries on disk: the native form, and one file per foreign format.

:func:`load` tells the formats apart by content; nothing that it reads can execute.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sae.dictionary import Dictionary
from sae.files import dictionary_learning, sparsify, to_saelens
from sae.files.choice import opened
from sae.files.found import Given
from sae.files.hub import push
from sae.files.native import save_native
from sae.files.place import located
from sae.registry import UserError, unknown

__all__ = ["convert", "load", "push", "save"]

WRITERS: dict[str, Callable[[Dictionary, Path], None]] = {
    "native": save_native,
    "saelens": to_saelens.save,
    "dictionary_learning": dictionary_learning.save,
    "sparsify": sparsify.save,
}


def load(
    path: str | Path,
    *,
    index: int | None = None,
    name: str | None = None,
    k: int | None = None,
    scale: float | None = None,
) -> Dictionary:
    """The dictionary in a folder or a file, whatever readable format it is in.

    `path` is on this disk, a repository of the hub (``hf://owner/name@revision:folder``) or any URL that fsspec knows
    (``memory://``, ``s3://``). Where there are several, `index` or `name` chooses, or the path does: ``path#name``. `k`
    and `scale` are numbers that some files leave out. Raises ``FileNotFoundError`` where there is none, ``ValueError``
    of one line where a file is damaged, is of no readable kind, or holds several and none is chosen.
    """
    text = str(path)
    if "#" in text and name is None and not Path(text).exists():
        path, _, name = text.rpartition("#")
    with located(path) as (place, file):
        return opened(place, file, index, name, Given(k, scale))


def save(d: Dictionary, path: str | Path, format: str = "native") -> None:
    """Writes a dictionary to a folder; equal dictionaries give equal bytes."""
    if format not in WRITERS:
        raise UserError(unknown(format, WRITERS, "format"))
    WRITERS[format](d, Path(path))


def convert(source: str | Path, target: str | Path, format: str = "native") -> None:
    """Reads a dictionary in any format and writes it in another."""
    save(load(source), target, format)
