"""Finds the dictionary to load: which file of a folder, which dictionary of that file, in which format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from sae.dictionary import Dictionary
from sae.files import (
    bussmann,
    dictionary_learning,
    gemma_scope,
    learned_dicts,
    llama_scope,
    nanda,
    native,
    openai,
    overcomplete,
    saelens,
    sparsify,
)
from sae.files.location import FileLocation
from sae.files.weights_file import Format, LoadOptions, OpenableDictionary, WeightsFile
from sae.registry import MissingFileError, UserError

FORMATS: tuple[Format, ...] = (
    saelens,
    sparsify,
    openai,
    llama_scope,
    bussmann,
    gemma_scope,
    dictionary_learning,
    learned_dicts,
    overcomplete,
    nanda,
)
"""In the order in which they are tried: formats recognised by a config next to the weights come before those
recognised by tensors alone."""
SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".pkl", ".pickle", ".bin")
COMPANIONS = re.compile(
    r"(trainer_state|lr_scheduler|optimizer|state\.|rank_\d|sparsity|log_feature_sparsity|feature_sparsity|vectors|"
    r"activation_whitening|activations_store_state|synthetic_model|training_state|scheduler|rng_state|labels-)"
)
"""Starts of the names of files that lie next to weights but hold none."""
_FOLDERS = ("dictionary", "checkpoints")
"""Sub-folders that may hold the one dictionary of a folder."""
MAX_LISTED = 12
"""Most dictionaries that an error lists by name."""


class NamedDictionary(NamedTuple):
    """One of several dictionaries to choose from."""

    name: str
    """Its name in the folder."""
    file: str
    """The file that holds it."""
    candidate: OpenableDictionary | None = None
    """The dictionary itself; None where the file has not been opened yet."""


def open_dictionary(
    location: FileLocation, file: str | None, index: int | None, name: str | None, options: LoadOptions
) -> Dictionary:
    """Loads the dictionary that `file`, `index` or `name` selects, or the only one. Raises `UserError` where there are
    several and none is selected."""
    headers = [at for at in ("", "dictionary") if _join(at, native.HEADER) in location.files]
    if file in (native.HEADER, native.WEIGHTS) or (file is None and headers):
        at = headers[0] if headers else ""
        names = [_join(at, part) for part in (native.HEADER, native.WEIGHTS)]
        for part in names:
            if part not in location.files:
                raise MissingFileError(f"{location.label(part)}: no such file; both files of a dictionary are needed")
        return native.load_native(*(location.fetch(part) for part in names))
    selected = _select(location.name, _list_dictionaries(location, file), index, name)
    if selected.candidate is None:  # the file is opened only now; it may hold several dictionaries in turn
        selected = _select(
            location.label(selected.file), _find_in_file(WeightsFile(location, selected.file)), None, None
        )
    assert selected.candidate is not None
    return selected.candidate.open(options)


def _list_dictionaries(location: FileLocation, file: str | None) -> list[NamedDictionary]:
    """The dictionaries of a folder. Files are opened where that is cheap; several remote files, and files in deeper
    folders, are listed by name only."""
    if file is not None:
        return _find_in_file(WeightsFile(location, file))
    weights = [f for f in location.files if f.endswith(SUFFIXES) and not COMPANIONS.match(PurePosixPath(f).name)]
    direct = [f for f in weights if "/" not in f]
    near = [f for f in weights if "/" in f and str(PurePosixPath(f).parent) in _FOLDERS]
    problems = list[UserError]()
    for files in filter(None, (direct, near)):
        if not location.is_local and len(files) > 1:
            return [NamedDictionary(f, f) for f in files]
        dictionaries, errors = _find_in_files(location, files)
        problems += errors
        if dictionaries:
            return dictionaries
    if below := [f for f in weights if f not in direct and f not in near]:
        return _named_by_folder(below)
    if problems:
        raise problems[0]
    raise _no_dictionary(location)


def _find_in_files(location: FileLocation, files: Sequence[str]) -> tuple[list[NamedDictionary], list[UserError]]:
    """The dictionaries in some files, and the errors of files that hold none."""
    dictionaries, problems = list[NamedDictionary](), list[UserError]()
    for file in files:
        try:
            dictionaries += _find_in_file(WeightsFile(location, file))
        except UserError as error:
            problems.append(error)
    if len({d.file for d in dictionaries}) > 1:
        dictionaries = [d._replace(name="/".join(filter(None, (d.file, d.name)))) for d in dictionaries]
    return dictionaries, problems


def _find_in_file(file: WeightsFile) -> list[NamedDictionary]:
    """The dictionaries in a file. Raises `UserError` where there are none."""
    for format in FORMATS:
        if candidates := format.find(file):
            return [NamedDictionary(c.name, file.name, c) for c in candidates]
    names = ", ".join(sorted(file.names)[:6])
    raise UserError(f"{file.label}: its tensors ({names or 'none'}) match no supported format")


def _named_by_folder(files: Sequence[str]) -> list[NamedDictionary]:
    """Files of sub-folders, named by their folder where they are the only one in it."""
    folders = [_folder_name(f) for f in files]
    return [
        NamedDictionary(folder if folders.count(folder) == 1 else f, f)
        for folder, f in zip(folders, files, strict=True)
    ]


def _folder_name(file: str) -> str:
    """The folder that names a dictionary."""
    folder = PurePosixPath(file).parent
    return str(folder.parent if folder.name in _FOLDERS and folder.parent.name else folder)


def _select(where: str, choices: Sequence[NamedDictionary], index: int | None, name: str | None) -> NamedDictionary:
    """The dictionary that `index` or `name` selects, or the only one. Raises `UserError` that lists the choices."""
    ordered = sorted(choices, key=lambda c: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", c.name)])
    if name is not None:
        matches = [c for c in ordered if c.name == name] or [c for c in ordered if _short(c) == name]
        if len(matches) == 1:
            return matches[0]
    elif index is not None:
        if -len(ordered) <= index < len(ordered):
            return ordered[index]
    elif len(ordered) == 1:
        return ordered[0]
    mismatch = "" if name is None and index is None else f"none is {name!r}; " if name is not None else f"no {index}; "
    listed = ", ".join(c.name or c.file for c in ordered[:MAX_LISTED])
    more = f" and {len(ordered) - MAX_LISTED} more" if len(ordered) > MAX_LISTED else ""
    raise UserError(f"{where}: {mismatch}choose one of {len(ordered)} by name or index: {listed}{more}")


def _short(choice: NamedDictionary) -> str:
    """A name without the settings after its first comma."""
    return choice.name.partition(",")[0]


def _no_dictionary(location: FileLocation) -> UserError:
    """The error for a folder without any dictionary."""
    shards = [f for f in location.files if ".dcp/" in f or f.endswith((".dcp", ".distcp"))]
    if shards:
        return UserError(
            f"{location.label(shards[0])}: sharded checkpoints of torch.distributed are not supported; save it as one "
            "sae_weights.safetensors"
        )
    formats = ", ".join(["native", *(format.NAME for format in FORMATS)])
    return MissingFileError(f"{location.name}: no dictionary here in a supported format ({formats})")


def _join(folder: str, file: str) -> str:
    return f"{folder}/{file}" if folder else file
