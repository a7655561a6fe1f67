"""Kinds from a file of the user's own, and the hash of the source code behind kinds from outside the package."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType

from sae.registry.discovery import is_kind, register, registered
from sae.registry.settings import KindSettings, MissingFileError, Settings, UserError

_FINGERPRINTS: dict[type[Settings], str] = {}
_PACKAGES = {"site-packages", "dist-packages"}
"""The names of folders of installed packages."""
_MODULE = "sae_plugin_"
"""How the names of the modules of plugins begin."""


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
    name = f"{_MODULE}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {file}: not a Python file; give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that dataclasses and pydantic find the names of annotations
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except SystemExit as stop:
        raise UserError(
            f"--plugin {file}: it calls sys.exit({stop.code!r}) while it is loaded; move what is a script under "
            "`if __name__ == '__main__':`"
        ) from None
    here = [value for value in vars(module).values() if getattr(value, "__module__", None) == name]
    found = [value for value in here if is_kind(value)]
    if not found:
        almost = [value for value in here if isinstance(value, type) and issubclass(value, KindSettings)]
        reason = (
            f": {_what_is_missing(almost[0])}"
            if almost
            else "; derive a class from SourceConfig, DictionaryConfig, ..."
        )
        raise UserError(f"--plugin {file}: it defines no complete kind{reason}")
    return [register(config) for config in found]


def plugin_files(kinds: Collection[str]) -> list[Path]:
    """The files that another process has to load to know what this one knows: those of all plugins.

    Raises `UserError` where one of `kinds`, names of kinds from outside the package, is in no file that could be
    loaded, because a program or a notebook has registered it.
    """
    for config in registered():
        kind = config.model_fields["kind"].default
        if kind in kinds and not config.__module__.startswith(_MODULE):
            raise UserError(
                f"{kind}: this kind exists only in this process, where no worker finds it; put it into a file and load "
                "that with sae.load_plugin or --plugin, or run without workers"
            )
    # Not every loaded module: the kinds of one that failed while it was loaded are not registered.
    modules = {config.__module__: None for config in registered() if config.__module__.startswith(_MODULE)}
    files = [getattr(sys.modules[name], "__file__", None) for name in modules]
    return [Path(file) for file in files if file is not None]


def fingerprint(settings: Settings) -> str | None:
    """The SHA-256 of the source code behind settings from outside the package; None for the package's own.

    A file counts as a whole, with the modules that it imports, but for installed ones; of an installed package every
    Python file counts, since kinds may share code. It is part of the key of every step that uses the kind.
    """
    cls = type(settings)
    if not isinstance(settings, KindSettings) or cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return None
    if cls not in _FINGERPRINTS:
        _FINGERPRINTS[cls] = _source_hash(cls)
    return _FINGERPRINTS[cls]


def _what_is_missing(config: type[KindSettings]) -> str:
    """Why a config class is no kind, in a clause."""
    missing = sorted(getattr(config, "__abstractmethods__", ()))
    if missing:
        return f"{config.__name__} has no {' and no '.join(missing)}"
    return f'{config.__name__} has no field kind: Literal["name"] = "name"'


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


def _is_installed(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a file belongs to an installed package, also of another environment that is on the path."""
    return bool(_PACKAGES & set(path.parts)) or any(path.is_relative_to(folder) for folder in folders)


def _files_behind(module: ModuleType) -> set[Path]:
    """The file of a module and those of the modules whose names it uses, and so on, but for installed ones."""
    installed = [Path(path).resolve() for path in {*sysconfig.get_paths().values(), sys.base_prefix}]
    waiting, files = [module], set[Path]()
    while waiting:
        current = waiting.pop()
        file = getattr(current, "__file__", None)
        path = Path(file).resolve() if file else None
        own = current.__name__.partition(".")[0] in ("sae", "pipelines")
        if path is None or own or path in files or _is_installed(path, installed):
            continue
        files.add(path)
        for value in vars(current).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name in sys.modules:
                waiting.append(sys.modules[name])
    return files
