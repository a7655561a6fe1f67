"""Which file of a place holds the dictionary that is meant, and in which format."""

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
from sae.files.found import Format, Given, OpenableDictionary, WeightsFile
from sae.files.place import FileLocation
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
"""In this order: those that a file beside the weights tells come before those that tensors alone tell."""
SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".pkl", ".pickle", ".bin")
COMPANIONS = re.compile(
    r"(trainer_state|lr_scheduler|optimizer|state\.|rank_\d|sparsity|log_feature_sparsity|feature_sparsity|vectors|"
    r"activation_whitening|activations_store_state|synthetic_model|training_state|scheduler|rng_state|labels-)"
)
"""Beginnings of the names of files that lie beside weights and are none."""
_FOLDERS = ("dictionary", "checkpoints")
"""Where the one dictionary of a folder may lie."""
MOST_TOLD = 12


class NamedDictionary(NamedTuple):
    """One dictionary of several: how it is called, and where it is."""

    name: str
    file: str
    candidate: OpenableDictionary | None = None


def opened(place: FileLocation, file: str | None, index: int | None, name: str | None, given: Given) -> Dictionary:
    """The dictionary that is meant."""
    headers = [at for at in ("", "dictionary") if _join(at, native.HEADER) in place.files]
    if file in (native.HEADER, native.WEIGHTS) or (file is None and headers):
        at = headers[0] if headers else ""
        names = [_join(at, part) for part in (native.HEADER, native.WEIGHTS)]
        for part in names:
            if part not in place.files:
                raise MissingFileError(f"{place.label(part)}: there is no such file beside the other half")
        return native.load_native(*(place.fetch(part) for part in names))
    choices = _choices(place, file)
    chosen = _chosen(place.name, choices, index, name)
    if chosen.candidate is None:
        # Only a name so far: what is in the file may be several again, to be chosen from by its own path.
        chosen = _chosen(place.label(chosen.file), _look(WeightsFile(place, chosen.file)), None, None)
    assert chosen.candidate is not None
    return chosen.candidate.open(given)


def _choices(place: FileLocation, file: str | None) -> list[NamedDictionary]:
    """The dictionaries of a place. Files are looked into where that costs little; further down, and of several far
    away, their names must do."""
    if file is not None:
        return _look(WeightsFile(place, file))
    weights = [f for f in place.files if f.endswith(SUFFIXES) and not COMPANIONS.match(PurePosixPath(f).name)]
    direct = [f for f in weights if "/" not in f]
    near = [f for f in weights if "/" in f and str(PurePosixPath(f).parent) in _FOLDERS]
    problems = list[ValueError]()
    for files in filter(None, (direct, near)):
        if not place.is_near and len(files) > 1:
            return [NamedDictionary(f, f) for f in files]
        found, why = _look_into(place, files)
        problems += why
        if found:
            return found
    if below := [f for f in weights if f not in direct and f not in near]:
        return _by_folder(below)
    if problems:
        raise problems[0]
    raise _nothing(place)


def _look_into(place: FileLocation, files: Sequence[str]) -> tuple[list[NamedDictionary], list[ValueError]]:
    """The dictionaries in some files, and why the others hold none."""
    found, problems = list[NamedDictionary](), list[ValueError]()
    for file in files:
        try:
            found += _look(WeightsFile(place, file))
        except ValueError as error:
            problems.append(error)
    several = len({choice.file for choice in found}) > 1
    named = [c._replace(name="/".join(filter(None, (c.file, c.name)))) for c in found] if several else found
    return named, problems


def _look(found: WeightsFile) -> list[NamedDictionary]:
    """The dictionaries in a file; a ``ValueError`` of one line where there are none."""
    for format in FORMATS:
        if candidates := format.find(found):
            return [NamedDictionary(c.name, found.file, c) for c in candidates]
    names = ", ".join(sorted(found.names)[:6])
    raise UserError(f"{found.label}: its tensors ({names or 'none'}) are those of no format that can be read")


def _by_folder(files: Sequence[str]) -> list[NamedDictionary]:
    """Files of sub-folders, called by their folder where they are alone in it."""
    folders = [_owner(f) for f in files]
    return [
        NamedDictionary(folder if folders.count(folder) == 1 else f, f)
        for folder, f in zip(folders, files, strict=True)
    ]


def _owner(file: str) -> str:
    """The folder that a dictionary is called by."""
    folder = PurePosixPath(file).parent
    return str(folder.parent if folder.name in _FOLDERS and folder.parent.name else folder)


def _chosen(where: str, choices: Sequence[NamedDictionary], index: int | None, name: str | None) -> NamedDictionary:
    """The one that is asked for, or the only one; a ``ValueError`` of one line says what there is to choose from."""
    ordered = sorted(choices, key=lambda c: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", c.name)])
    if name is not None:
        fits = [c for c in ordered if c.name == name] or [c for c in ordered if _short(c) == name]
        if len(fits) == 1:
            return fits[0]
    elif index is not None:
        if -len(ordered) <= index < len(ordered):
            return ordered[index]
    elif len(ordered) == 1:
        return ordered[0]
    asked = "" if name is None and index is None else f"none is {name!r}; " if name is not None else f"no {index}; "
    told = ", ".join(c.name or c.file for c in ordered[:MOST_TOLD])
    more = f" and {len(ordered) - MOST_TOLD} more" if len(ordered) > MOST_TOLD else ""
    raise UserError(f"{where}: {asked}choose one of {len(ordered)} by name or index: {told}{more}")


def _short(choice: NamedDictionary) -> str:
    """A name without its settings, or a number alone."""
    return choice.name.partition(",")[0]


def _nothing(place: FileLocation) -> Exception:
    """Why there is nothing."""
    shards = [f for f in place.files if ".dcp/" in f or f.endswith((".dcp", ".distcp"))]
    if shards:
        return ValueError(
            f"{place.label(shards[0])}: a sharded checkpoint of torch.distributed cannot be read; save it as one "
            "sae_weights.safetensors"
        )
    formats = ", ".join(["native", *(format.NAME for format in FORMATS)])
    return FileNotFoundError(f"{place.name}: no dictionary here in a format that can be read ({formats})")


def _join(folder: str, file: str) -> str:
    return f"{folder}/{file}" if folder else file
