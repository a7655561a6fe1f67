"""How a kind is found by its name: in the package, in installed packages, and among those that were registered.

A singular module (``sae/source.py``) defines an interface, the plural folder next to it (``sae/sources/``) holds its
kinds, one file each: a module with a ``Config``, a frozen pydantic model whose ``kind`` is the file's name. There is no
list to maintain: a new file is a new kind.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any, get_args

from pydantic import BaseModel

from sae.registry.settings import KindSettings, Settings, UserError, unknown

_FOLDERS: dict[str, str] = {}
_REGISTERED: dict[str, dict[str, ModuleType]] = {}


def declare_interfaces(folders: Mapping[str, str]) -> None:
    """Tells where the kinds of each interface lie, interface -> package. Called once, by ``sae/__init__.py``."""
    _FOLDERS.update(folders)


def kinds(interface: str) -> dict[str, ModuleType]:
    """The kinds of an interface by name, e.g. ``kinds("sources")["independent"]``: those of the package, of installed
    packages, and of plugins. A dotted name is a package whose modules are kinds, without any from outside."""
    if "." in interface:
        return dict(_modules(interface))
    return {**_modules(_FOLDERS[interface]), **_installed(interface), **_REGISTERED.get(interface, {})}


def configurable(interface: str) -> dict[str, ModuleType]:
    """The kinds that a config can name: those with a ``Config``."""
    return {name: module for name, module in kinds(interface).items() if hasattr(module, "Config")}


def config_class(interface: str, kind: str) -> type[Settings]:
    """The ``Config`` of one kind. Raises `UserError` that names the nearest kinds where there is none."""
    known = configurable(interface)
    if kind not in known:
        raise UserError(unknown(kind, known, f"kind of {interface}"))
    return known[kind].Config


def register(config: type[KindSettings]) -> type[KindSettings]:
    """Adds a kind from outside the package, by its config class; usable as a decorator.

    The class derives from ``SourceConfig``, ``DictionaryConfig``, ``EncoderConfig``, ``BaselineConfig`` or
    ``MetricConfig`` and has a field ``kind: Literal["name"] = "name"``. Where it builds a kind of dictionary of its
    own, that class is defined in the same module, with ``kind: ClassVar[str] = "name"``, so that saved files can be
    loaded.

    Raises `UserError` where the class is none of these or the name exists already.
    """
    name = _kind_of(config)
    interface = config.interface
    existing = kinds(interface).get(name)
    if existing is not None:
        if _same_class(getattr(existing, "Config", None), config):  # a notebook cell or a file that runs again
            if name in _REGISTERED.get(interface, {}):
                _REGISTERED[interface][name] = _as_module(config, name)
            return config
        raise UserError(f"kind {name!r} of {interface} exists already, in {existing.__name__}; choose another name")
    _REGISTERED.setdefault(interface, {})[name] = _as_module(config, name)
    return config


def registered() -> list[type[KindSettings]]:
    """The config classes of all kinds that were registered in this process."""
    return [module.Config for of_interface in _REGISTERED.values() for module in of_interface.values()]


@lru_cache
def _modules(package: str) -> dict[str, ModuleType]:
    folder = importlib.import_module(package)
    names = sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_"))
    return {name: importlib.import_module(f"{package}.{name}") for name in names}


@lru_cache
def _installed(interface: str) -> dict[str, ModuleType]:
    """The kinds of installed packages, from entry points that name a config class or a module with a ``Config``."""
    found: dict[str, ModuleType] = {}
    own = _modules(_FOLDERS[interface])
    for point in importlib.metadata.entry_points(group=f"sae.{interface}"):
        origin = f"entry point {point.name!r} of {point.dist.name if point.dist else point.value}"
        try:
            target = point.load()
            config = target.Config if isinstance(target, ModuleType) else target
        except (ImportError, AttributeError) as error:  # a package of which nothing else may need anything
            warnings.warn(f"{origin}: {point.value} cannot be loaded: {error}", stacklevel=2)
            continue
        if not is_kind(config) or config.interface != interface:
            raise UserError(f"{origin}: {point.value} is not a config class of {interface}; uninstall or mend it")
        name = _kind_of(config)
        if name != point.name:
            raise UserError(f"{origin}: its kind is {name!r}; the entry point must have the same name")
        if name in own or name in found:
            raise UserError(f"{origin}: kind {name!r} of {interface} exists already; choose another name")
        found[name] = _as_module(config, name)
    return found


def is_kind(value: Any) -> bool:
    """Whether a value is the config class of a kind: of an interface, with a name, nothing abstract."""
    is_config = isinstance(value, type) and issubclass(value, KindSettings) and bool(value.interface)
    return is_config and not inspect.isabstract(value) and "kind" in value.model_fields


def _kind_of(config: Any) -> str:
    """The name of a kind, from its config class."""
    if not is_kind(config):
        raise UserError(
            f"{getattr(config, '__name__', config)!r}: not the config class of a kind; derive it from SourceConfig, "
            "DictionaryConfig, EncoderConfig, BaselineConfig or MetricConfig, with a field "
            'kind: Literal["name"] = "name"'
        )
    field = config.model_fields["kind"]
    if get_args(field.annotation) != (field.default,) or not re.fullmatch(r"[A-Za-z]\w*", str(field.default)):
        raise UserError(
            f"{config.__name__}.kind: must be one name, given twice, of letters, digits and underscores: "
            'kind: Literal["name"] = "name"'
        )
    return str(field.default)


def _same_class(a: Any, b: type) -> bool:
    return isinstance(a, type) and (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)


def _as_module(config: type[KindSettings], name: str) -> ModuleType:
    """A config class in the form in which kinds are found: a module with ``Config`` and, for a dictionary, ``KIND``."""
    home = sys.modules[config.__module__]
    if getattr(home, "Config", None) is config:
        return home
    module = ModuleType(f"{config.__module__}.{config.__qualname__}", inspect.getdoc(config) or home.__doc__)
    built = [
        value
        for value in vars(home).values()
        if isinstance(value, type) and not issubclass(value, BaseModel) and vars(value).get("kind") == name
    ]
    vars(module).update({"Config": config} | ({"KIND": built[0]} if built else {}))
    return module
