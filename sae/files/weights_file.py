"""A file of weights with the files next to it, and the interface of a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol, runtime_checkable

from sae.dictionary import Dictionary
from sae.files.location import FileLocation
from sae.files.tensors import NamedWeights, StoredTensor, open_file, read_json
from sae.registry import UserError


class OpenableDictionary(NamedTuple):
    """A dictionary in a file that has been recognised but not read."""

    name: str
    """Its name among the dictionaries of the file; empty where it is the only one."""
    open: Callable[[LoadOptions], Dictionary]
    """Reads it."""


class LoadOptions(NamedTuple):
    """Numbers that some files leave out and the caller of :func:`sae.load` may give."""

    k: int | None = None
    """Number of active latents of a TopK dictionary."""
    scale: float | None = None
    """Factor by which the activations were multiplied in training."""


@runtime_checkable
class Format(Protocol):
    """Interface of the module of a third-party format: `NAME`, `find`, and, where the format can be written,
    ``save(d, path)``."""

    @property
    def NAME(self) -> str:
        """Name of the format in errors and on cards."""
        ...

    def find(self, file: WeightsFile) -> list[OpenableDictionary]:
        """The dictionaries in a file; none where it has another format. The format is recognised by content: names and
        shapes of tensors, and the keys of JSON files next to it."""
        ...


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """One file of weights in a folder, local or remote."""

    location: FileLocation
    """The folder."""
    name: str
    """Path of the file in the folder."""

    @property
    def label(self) -> str:
        """What the file is called in errors."""
        return self.location.label(self.name)

    @property
    def folder(self) -> PurePosixPath:
        return PurePosixPath(self.name).parent

    @cached_property
    def content(self) -> Any:
        """The content of the file, with a `StoredTensor` for each tensor."""
        return open_file(self.location.fetch(self.name), self.label)

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The tensors of the file by name; empty where the file is not a mapping. Other values are left out."""
        content = self.content if isinstance(self.content, dict) else {}
        return {name: t for name, t in content.items() if isinstance(t, StoredTensor) and isinstance(name, str)}

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the tensors."""
        return frozenset(self.tensors)

    def has(self, *names: str) -> bool:
        """Whether the file has all these tensors."""
        return self.names.issuperset(names)

    def n_axes(self, name: str) -> int:
        """Number of axes of a tensor."""
        return len(self.tensors[name].shape)

    def weights(self) -> NamedWeights:
        return NamedWeights(self.label, self.tensors)

    def json(self, name: str, up: int = 0) -> dict[str, Any]:
        """The object in a JSON file of the same folder, or of one up to `up` levels above; empty where there is
        none."""
        inside = [self.folder, *self.folder.parents]
        for folder in inside[: up + 1]:
            path = str(folder / name)
            if path in self.location.files:
                return read_json(self.location.fetch(path), self.location.label(path))
        for levels in range(1, up + 2 - len(inside)):
            if (file := self.location.above(levels, name)) is not None:
                return read_json(file)
        return {}

    def sibling(self, name: str) -> WeightsFile | None:
        """Another file of the same folder; None where there is none."""
        path = str(self.folder / name)
        return WeightsFile(self.location, path) if path in self.location.files else None

    @property
    def path(self) -> str:
        """The whole path, from which some formats read the model and the layer."""
        return self.label.replace("\\", "/")

    def error(self, message: str) -> UserError:
        """An error that names the file."""
        return UserError(f"{self.label}: {message}")


def source_card(
    format: str, file: WeightsFile, config: Mapping[str, Any] | None = None, **source: Any
) -> dict[str, Any]:
    """The card of a dictionary in a third-party format: the facts about its source that are not None, its config, and
    its address unless it is a local file."""
    card: dict[str, Any] = {"format": format, "source": {k: v for k, v in source.items() if v is not None}}
    if (address := file.location.address(file.name)) is not None:
        card["from"] = address
    return card | ({"config": dict(config)} if config else {})


def whole_number(file: WeightsFile, config: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A non-negative integer of a config, which may be written as text; `default` where the config lacks it."""
    value = config.get(name, default)
    if isinstance(value, str) and value.isdecimal() and len(value) < 16:
        value = int(value)
    if value is not None and (type(value) is not int or not 0 <= value < 2**48):
        raise file.error(f"config has {name} = {repr(value)[:40]}; a whole number is expected")
    return value


def positive_number(file: WeightsFile, value: Any, name: str) -> float:
    """A positive number of a config, checked."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise file.error(f"config has {name} = {repr(value)[:40]}; a positive number is expected")
    return float(value)


def valid_k(file: WeightsFile, k: Any, n_latents: int) -> int:
    """A number of active latents, checked."""
    if type(k) is not int or not 0 < k <= n_latents:
        raise file.error(f"k = {repr(k)[:40]}: a whole number from 1 to n_latents = {n_latents} is expected")
    return k


def is_true(value: Any) -> bool:
    """Whether a setting is true; it may be written as text."""
    return value is True or (isinstance(value, str) and value.lower() == "true")
