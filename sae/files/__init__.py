"""Saving and loading dictionaries: the native format, and one module per third-party format.

:func:`load` recognises formats by content and never executes what a file holds. The module of a format has a `NAME`
and a function ``find(file)`` that lists the dictionaries in a file (interface `Format` in ``weights_file.py``); one
that can be written also has ``save(d, path)``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sae.dictionary import Dictionary
from sae.files import dictionary_learning, sparsify, to_saelens
from sae.files.choice import open_dictionary
from sae.files.hub import push
from sae.files.location import open_location
from sae.files.native import save_native
from sae.files.weights_file import LoadOptions
from sae.registry import UserError, expand_home, unknown

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
    """Loads the dictionary in a folder or a file, in any supported format.

    `path` is local, a repository on the Hugging Face hub (``hf://owner/name@revision:folder``) or any URL that fsspec
    supports (``memory://``, ``s3://``). Where there are several dictionaries, `index` or `name` selects one, or the
    path does: ``path#name``. `k` (active latents of a TopK dictionary) and `scale` (factor of the activations in
    training) are numbers that some files leave out.

    Raises `MissingFileError` where there is no dictionary, and `UserError` where a file is damaged or has no supported
    format, or where there are several dictionaries and none is selected.
    """
    path = text = expand_home(str(path))
    if "#" in text and name is None and not Path(text).exists():
        path, _, name = text.rpartition("#")
    with open_location(path) as (location, file):
        return open_dictionary(location, file, index, name, LoadOptions(k, scale))


def save(d: Dictionary, path: str | Path, format: str = "native") -> None:
    """Writes a dictionary to a folder, in format `native`, `saelens`, `dictionary_learning` or `sparsify`; equal
    dictionaries give equal bytes. Raises `UserError` where the format is unknown or cannot store the dictionary."""
    if format not in WRITERS:
        raise UserError(unknown(format, WRITERS, "format"))
    WRITERS[format](d, expand_home(Path(path)))


def convert(source: str | Path, target: str | Path, format: str = "native") -> None:
    """Reads a dictionary in any supported format and writes it in another; raises like :func:`load` and
    :func:`save`."""
    save(load(source), target, format)
