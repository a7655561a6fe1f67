"""A file of weights with what stands beside it, and what a format makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol, runtime_checkable

from sae.dictionary import Dictionary
from sae.files.place import FileLocation
from sae.files.tensors import NamedWeights, StoredTensor, open_file, read_json


class OpenableDictionary(NamedTuple):
    """A dictionary that can be opened: its name among those of its file, empty where it is alone."""

    name: str
    open: Callable[[Given], Dictionary]


class Given(NamedTuple):
    """Numbers that some files leave out, from whoever opens them."""

    k: int | None = None
    scale: float | None = None


@runtime_checkable
class Format(Protocol):
    """What the module of a foreign format offers."""

    @property
    def NAME(self) -> str: ...

    def find(self, found: WeightsFile) -> list[OpenableDictionary]:
        """The dictionaries in a file, none where it is of another format. By content: names and shapes of tensors, and
        the keys of the JSON beside it."""
        ...


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """One file of weights in a place."""

    place: FileLocation
    file: str

    @property
    def label(self) -> str:
        return self.place.label(self.file)

    @property
    def folder(self) -> PurePosixPath:
        return PurePosixPath(self.file).parent

    @cached_property
    def content(self) -> Any:
        """What the file holds, tensors unread."""
        return open_file(self.place.fetch(self.file), self.label)

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The tensors of the file, where it is a mapping of them; whatever else it maps is left out."""
        content = self.content if isinstance(self.content, dict) else {}
        return {name: t for name, t in content.items() if isinstance(t, StoredTensor) and isinstance(name, str)}

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self.tensors)

    def has(self, *names: str) -> bool:
        """Whether all of these tensors are there."""
        return self.names.issuperset(names)

    def axes(self, name: str) -> int:
        """How many axes a tensor has."""
        return len(self.tensors[name].shape)

    def weights(self) -> NamedWeights:
        return NamedWeights(self.label, self.tensors)

    def json(self, name: str, up: int = 0) -> dict[str, Any]:
        """The object in a JSON file of the same folder, or of one up to so many above; empty where there is none."""
        inside = [self.folder, *self.folder.parents]
        for folder in inside[: up + 1]:
            beside = str(folder / name)
            if beside in self.place.files:
                return read_json(self.place.fetch(beside), self.place.label(beside))
        for levels in range(1, up + 2 - len(inside)):
            if (file := self.place.above(levels, name)) is not None:
                return read_json(file)
        return {}

    def beside(self, name: str) -> WeightsFile | None:
        """Another file of the same folder."""
        beside = str(self.folder / name)
        return WeightsFile(self.place, beside) if beside in self.place.files else None

    @property
    def path(self) -> str:
        """The whole path, from which some formats tell the model and the layer."""
        return self.label.replace("\\", "/")

    def refused(self, why: str) -> ValueError:
        return ValueError(f"{self.label}: {why}")


def card(format: str, found: WeightsFile, config: Mapping[str, Any] | None = None, **source: Any) -> dict[str, Any]:
    """The card of a foreign dictionary: what is known of its source, under the names of ours; its own settings as they
    are; and where it came from, unless that is a place on this disk."""
    told: dict[str, Any] = {"format": format, "source": {k: v for k, v in source.items() if v is not None}}
    if (address := found.place.address(found.file)) is not None:
        told["from"] = address
    return told | ({"config": dict(config)} if config else {})


def whole(found: WeightsFile, config: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A whole number of a config, which some write as text."""
    value = config.get(name, default)
    if isinstance(value, str) and value.isdecimal() and len(value) < 16:
        value = int(value)
    if value is not None and (type(value) is not int or not 0 <= value < 2**48):
        raise found.refused(f"its config has {name} = {repr(value)[:40]}, a whole number is expected")
    return value


def positive(found: WeightsFile, value: Any, name: str) -> float:
    """A positive number of a config."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise found.refused(f"its config has {name} = {repr(value)[:40]}, a positive number is expected")
    return float(value)


def k_of(found: WeightsFile, k: Any, n_latents: int) -> int:
    """A number of codes that are kept."""
    if type(k) is not int or not 0 < k <= n_latents:
        raise found.refused(f"k = {repr(k)[:40]} of {n_latents} latents")
    return k


def truth(value: Any) -> bool:
    """A setting that may be written as text."""
    return value is True or (isinstance(value, str) and value.lower() == "true")
