"""Kinds and their settings: the base class of settings, errors told to a user, and how a kind is found by its name.

A singular module (``sae/source.py``) defines an interface, the plural folder next to it (``sae/sources/``) holds its
kinds, one file each: a module with a ``Config``, a frozen pydantic model whose ``kind`` is the file's name. There is no
list to maintain: a new file is a new kind. A kind of a user's own comes from outside the package in one of three ways:
an installed package that declares an entry point in the group ``sae.<interface>``, a file given to
:func:`load_plugin`, or a call of :func:`register`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer


class UserError(ValueError):
    """A mistake of the user in one line: the field, the value, what is wrong and what to do.

    The command line prints it and exits with code 2; any other exception is a bug and keeps its traceback.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


class Settings(BaseModel):
    """A frozen set of settings that refuses unknown keys and infinities.

    The docstring of a field is its description in the reference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class VersionedSettings(Settings):
    """Settings some of whose fields were added after runs had been made without them.

    A field named in `later` is left out of the written settings while it has its default, so that runs that do not use
    it keep their keys. Each class names its own fields.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        fields = type(self).model_fields
        later = {name for cls in type(self).__mro__ for name in vars(cls).get("later", ())}
        return {k: v for k, v in dump(self).items() if k not in later or v != fields[k].default}


class KindSettings(Settings):
    """Base of the settings of a kind: every interface has one abstract subclass, which names its `interface`."""

    interface: ClassVar[str] = ""
    """The folder of the kinds: ``sources``, ``dictionaries``, ``encoders``, ``baselines`` or ``metrics``."""


_S = TypeVar("_S", bound=Settings)


def checked_settings(cls: type[_S], given: Mapping[str, Any], others: Iterable[str] = ()) -> _S:
    """The settings that a call was given by name; `others` are the names that the call takes beside them.

    Raises `UserError` in one line: for an unknown name the nearest known ones, for a wrong value what is wrong.
    """
    for name, value in given.items():
        if name not in cls.model_fields:
            known = [*(field for field in cls.model_fields if field != "kind"), *others]
            raise UserError(f"{name} = {_short(value)}: {unknown(name, known, 'setting')}")
    try:
        return cls(**given)
    except ValidationError as error:
        mistake = error.errors()[0]
    message = " ".join(mistake["msg"].removeprefix("Value error, ").split())
    if not mistake["loc"]:  # a rule between fields: its message names them
        raise UserError(message)
    field = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "missing":
        raise UserError(f"{field} is missing: give it a value")
    raise UserError(f"{field} = {_short(mistake['input'])}: {message[0].lower()}{message[1:]}")


def _short(value: Any) -> str:
    """The representation of a value on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


_FOLDERS: dict[str, str] = {}
_REGISTERED: dict[str, dict[str, ModuleType]] = {}
_FINGERPRINTS: dict[type[Settings], str] = {}


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


def load_plugin(file: str | Path) -> list[type[KindSettings]]:
    """Runs a Python file and registers every kind that it defines; returns their config classes.

    Modules next to the file can be imported in it. Raises `MissingFileError` where there is no such file, and
    `UserError` where it is not Python, or defines no kind or one whose name exists already. An exception of the file's
    own code passes through.
    """
    path = Path(file).resolve()
    if not path.is_file():
        problem = "is a folder; give a file in it" if path.is_dir() else "there is no such file"
        raise MissingFileError(f"--plugin {file}: {problem}")
    try:
        compile(path.read_bytes(), str(path), "exec")
    except (SyntaxError, ValueError) as error:  # a ValueError for bytes that are no text
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UserError(f"--plugin {file}{line}: not valid Python: {error}") from None
    name = f"sae_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {file}: not a Python file; give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that dataclasses and pydantic find the names of annotations
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    here = [value for value in vars(module).values() if getattr(value, "__module__", None) == name]
    found = [value for value in here if _is_kind(value)]
    if not found:
        almost = [value for value in here if isinstance(value, type) and issubclass(value, KindSettings)]
        reason = (
            f": {_what_is_missing(almost[0])}"
            if almost
            else "; derive a class from SourceConfig, DictionaryConfig, ..."
        )
        raise UserError(f"--plugin {file}: it defines no complete kind{reason}")
    return [register(config) for config in found]


def fingerprint(settings: Settings) -> str | None:
    """The SHA-256 of the source code behind settings from outside the package; None for the package's own.

    A file counts as a whole, with the modules that it imports, but for installed ones; of an installed package every
    Python file counts, since kinds may share code. It is part
    of the key of every step that uses the kind.
    """
    cls = type(settings)
    if not isinstance(settings, KindSettings) or cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return None
    if cls not in _FINGERPRINTS:
        _FINGERPRINTS[cls] = _source_hash(cls)
    return _FINGERPRINTS[cls]


def unknown(name: str, known: Any, what: str) -> str:
    """One line that says that `name` is not a known `what`, with the nearest names that are."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {', '.join(names)}"
    return f"{name!r} is not a known {what}: {hint}"


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
        if not _is_kind(config) or config.interface != interface:
            raise UserError(f"{origin}: {point.value} is not a config class of {interface}; uninstall or mend it")
        name = _kind_of(config)
        if name != point.name:
            raise UserError(f"{origin}: its kind is {name!r}; the entry point must have the same name")
        if name in own or name in found:
            raise UserError(f"{origin}: kind {name!r} of {interface} exists already; choose another name")
        found[name] = _as_module(config, name)
    return found


def _is_kind(value: Any) -> bool:
    """Whether a value is the config class of a kind: of an interface, with a name, nothing abstract."""
    is_config = isinstance(value, type) and issubclass(value, KindSettings) and bool(value.interface)
    return is_config and not inspect.isabstract(value) and "kind" in value.model_fields


def _kind_of(config: Any) -> str:
    """The name of a kind, from its config class."""
    if not _is_kind(config):
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


def _what_is_missing(config: type[KindSettings]) -> str:
    """Why a config class is no kind, in a clause."""
    missing = sorted(getattr(config, "__abstractmethods__", ()))
    if missing:
        return f"{config.__name__} has no {' and no '.join(missing)}"
    return f'{config.__name__} has no field kind: Literal["name"] = "name"'


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


def _source_hash(cls: type) -> str:
    top = sys.modules.get(cls.__module__.partition(".")[0])
    folders = [Path(folder) for folder in getattr(top, "__path__", ())]
    digest = hashlib.sha256()
    if folders:
        files = sorted(file for folder in folders for file in folder.rglob("*.py"))
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
        return digest.hexdigest()
    home = sys.modules.get(cls.__module__)
    try:
        if home is None or getattr(home, "__file__", None) is None:  # a notebook
            digest.update(inspect.getsource(cls).encode())
        else:
            # By content alone: a file that was moved or renamed is the same plugin.
            for content in sorted(hashlib.sha256(file.read_bytes()).digest() for file in _files_behind(home)):
                digest.update(content)
    except (OSError, TypeError):
        raise UserError(
            f"{cls.__name__}: its source code cannot be read, so runs that use it have no key; put it into a file and "
            "give that with --plugin"
        ) from None
    return digest.hexdigest()


def _files_behind(module: ModuleType) -> set[Path]:
    """The file of a module and those of the modules whose names it uses, and so on, but for installed ones."""
    installed = [Path(path).resolve() for path in {*sysconfig.get_paths().values(), sys.base_prefix}]
    waiting, files = [module], set[Path]()
    while waiting:
        current = waiting.pop()
        file = getattr(current, "__file__", None)
        path = Path(file).resolve() if file else None
        own = current.__name__.partition(".")[0] in ("sae", "pipelines")
        if path is None or own or path in files or any(path.is_relative_to(folder) for folder in installed):
            continue
        files.add(path)
        for value in vars(current).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name in sys.modules:
                waiting.append(sys.modules[name])
    return files
