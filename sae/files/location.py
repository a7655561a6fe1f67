"""Where dictionaries are stored: a local folder, one on the Hugging Face hub, or one of any file system of fsspec.

A location lists the names of its files and fetches a file when it is needed. Nothing else is transferred.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from sae.registry import MissingFileError, UserError, expand_home

MAX_DEPTH = 3
"""Levels of sub-folders that are listed."""
MAX_FILES = 20_000
"""Listing a local folder stops once it has more files than this."""


class FileLocation(ABC):
    """Interface of a folder of files."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The folder as the user wrote it."""

    @cached_property
    @abstractmethod
    def files(self) -> list[str]:
        """Paths of the files, relative to the folder, those in sub-folders included."""

    @abstractmethod
    def fetch(self, file: str) -> Path:
        """A local path of the file; remote files are downloaded."""

    @abstractmethod
    def above(self, levels: int, name: str) -> Path | None:
        """A local path of the file `name` in the folder `levels` above; None where there is none."""

    @property
    def is_local(self) -> bool:
        """Whether files are local, so that opening them is cheap."""
        return False

    def label(self, file: str) -> str:
        """What a file is called in errors."""
        return f"{self.name.rstrip('/')}/{file}"

    def address(self, file: str) -> str | None:
        """Address of a fetched file for others, as exactly as is known; None for local files."""
        return self.label(file)


@dataclass(frozen=True, eq=False)
class Local(FileLocation):
    """A local folder."""

    path: Path
    """Path of the folder."""
    depth: int = MAX_DEPTH
    """Levels of sub-folders that are listed."""

    @property
    def name(self) -> str:
        return str(self.path)

    @cached_property
    def files(self) -> list[str]:
        files: list[str] = []
        for folder, below, names in os.walk(self.path):
            here = Path(folder).relative_to(self.path)
            deep = len(here.parts) >= self.depth
            below[:] = [] if deep else sorted(name for name in below if not name.startswith("."))
            files += [(here / name).as_posix() for name in sorted(names) if not name.startswith(".")]
            if len(files) > MAX_FILES:
                break
        return files

    def fetch(self, file: str) -> Path:
        path = self.path / file
        if not path.exists():
            raise MissingFileError(f"{path}: a link to a file that does not exist; copy the file here")
        if not path.is_file():  # reading a pipe would wait forever
            raise UserError(f"{path}: not a regular file but a pipe, a device or a folder; remove it")
        return path

    def above(self, levels: int, name: str) -> Path | None:
        parents = self.path.absolute().parents
        file = parents[levels - 1] / name if levels <= len(parents) else None
        return file if file is not None and file.is_file() else None

    def address(self, file: str) -> str | None:
        return None

    @property
    def is_local(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class Remote(FileLocation):
    """A folder of a file system that fsspec supports. Files are copied to `cache` when they are fetched."""

    url: str
    """The URL as the user wrote it."""
    system: Any
    """The fsspec file system."""
    path: str
    """Path of the folder in the file system."""
    cache: Path
    """Local folder for copies."""
    depth: int = MAX_DEPTH
    """Levels of sub-folders that are listed."""

    @property
    def name(self) -> str:
        return self.url

    @cached_property
    def files(self) -> list[str]:
        root = self.path.rstrip("/")
        with network_errors(self.url):
            names: list[str] = self.system.find(root, maxdepth=self.depth + 1)
        start, *paths = (re.sub(r"^https?://", "", name) for name in [root, *names])  # an index may mix the two
        return sorted(path.removeprefix(start).lstrip("/") for path in paths)

    def fetch(self, file: str) -> Path:
        return self._download(f"{self.path.rstrip('/')}/{_inside(file, self.url)}")

    def above(self, levels: int, name: str) -> Path | None:
        parts = self.path.rstrip("/").split("/")
        if len(parts) <= levels:
            return None
        path = "/".join([*parts[:-levels], name])
        with network_errors(self.url):
            exists = self.system.isfile(path)
        return self._download(path) if exists else None

    def _download(self, path: str) -> Path:
        # The folder of a copy is named by a hash, so that no path leads out of the cache and no two paths share a copy.
        name = re.sub(r"[^\w.-]+", "_", path.rpartition("/")[2])
        target = self.cache / hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()[:32] / name
        if not target.resolve().is_relative_to(self.cache.resolve()) or name in ("", ".", ".."):
            raise UserError(f"{self.url}: the path {path[-100:]!r} names no file; it is not fetched")
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with network_errors(path):
                self.system.get_file(path, str(target))
        return target


@dataclass(frozen=True, eq=False)
class Hub(FileLocation):
    """A folder of a repository on the Hugging Face hub; fetched files are kept in the hub's cache."""

    repo: str
    """Repository, ``owner/name``."""
    revision: str | None
    """Branch, tag or commit; the default branch if None."""
    folder: str
    """Folder in the repository; empty for the repository itself."""

    @property
    def name(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{at}" + (f":{self.folder}" if self.folder else "")

    @cached_property
    def all_files(self) -> list[str]:
        """All files of the repository."""
        from huggingface_hub import HfApi

        with network_errors(self.name):
            return HfApi().list_repo_files(self.repo, revision=self.revision)

    @cached_property
    def files(self) -> list[str]:
        start = f"{self.folder}/" if self.folder else ""
        return sorted(
            name.removeprefix(start) for name in self.all_files if name.startswith(start) or name == self.folder
        )

    def fetch(self, file: str) -> Path:
        file = _inside(file, self.name)
        return self._download(f"{self.folder}/{file}" if self.folder else file)

    def above(self, levels: int, name: str) -> Path | None:
        parts = self.folder.split("/") if self.folder else []
        file = "/".join([*parts[:-levels], name])
        return self._download(file) if len(parts) >= levels and file in self.all_files else None

    def address(self, file: str) -> str | None:
        """Address with the fetched commit, which is part of the path in the cache."""
        _, _, cached = self.fetch(file).as_posix().partition("/snapshots/")
        commit, _, name = cached.partition("/")
        return f"hf://{self.repo}@{commit}:{name}" if name else self.label(file)

    @lru_cache(maxsize=64)  # noqa: B019
    def _download(self, file: str) -> Path:
        from huggingface_hub import hf_hub_download

        with network_errors(f"hf://{self.repo}/{file}"):
            return Path(hf_hub_download(self.repo, file, revision=self.revision))


def _inside(file: str, where: str) -> str:
    """A path from the listing of another machine, checked. Raises `UserError` where it can lead out of the folder, on
    any operating system: through ``..``, a root, a drive, or a backslash, which Windows reads as a slash."""
    if ".." in file.split("/") or "\\" in file or "\0" in file or re.match(r"/|[A-Za-z]:", file):
        raise UserError(f"{where}: lists the file {file[:100]!r}, which can lie outside the folder; it is not fetched")
    return file


@contextmanager
def network_errors(what: str, action: str = "fetch") -> Generator[None]:
    """Turns errors of the network and the hub in its block into `MissingFileError` and `UserError`."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    # The base of all errors of the library with which this version of the hub's client speaks HTTP.
    bases = HfHubHTTPError.__mro__
    transport: type[Exception] = next((base for base in bases if base.__name__ == "HTTPError"), OSError)  # pyright: ignore[reportAssignmentType]
    try:
        yield
    except (FileNotFoundError, EntryNotFoundError, RepositoryNotFoundError) as error:
        raise MissingFileError(f"{what}: not found: {_line(error)}") from None
    except (OSError, HFValidationError, ValueError) as error:
        raise UserError(f"{what}: cannot {action} it: {_line(error)}") from None
    except transport as error:
        raise UserError(f"{what}: cannot {action} it: no connection to the hub: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def open_location(path: str | Path) -> Generator[tuple[FileLocation, str | None]]:
    """The folder that a path names, and the file in it where the path names a file.

    Copies of remote files are deleted when the context ends. Raises `MissingFileError` where the path does not exist,
    and `UserError` where it is not valid.
    """
    text = str(path)
    with ExitStack() as stack:
        if text.startswith("hf://"):
            yield _hub(text)
        elif "://" in text:
            cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="sae-"))
            yield _remote(text, Path(cache))
        else:
            yield _local(Path(expand_home(text)))


def _local(path: Path) -> tuple[FileLocation, str | None]:
    if path.is_dir():
        return Local(path), None
    if path.is_file():
        return Local(path.parent, depth=0), path.name
    hint = f"; write hf://{path} for a repository on the hub" if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) else ""
    raise MissingFileError(f"{path}: no such folder or file{hint}")


def _remote(url: str, cache: Path) -> tuple[FileLocation, str | None]:
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)
    except (ValueError, ImportError, OSError) as error:
        raise UserError(f"{url}: {_line(error)}") from None
    with network_errors(url):
        is_folder, is_file = system.isdir(path), system.isfile(path)
    if is_folder:
        return Remote(url, system, path, cache), None
    if not is_file:
        raise MissingFileError(f"{url}: no such folder or file")
    folder, _, file = path.rpartition("/")
    return Remote(url.rpartition("/")[0], system, folder, cache, depth=0), file


def _hub(url: str) -> tuple[FileLocation, str | None]:
    """The location of ``hf://owner/name[@revision][:folder or file]``; a slash may replace the colon."""
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([^:]+?))?(?:[:/](.*))?", url)
    if match is None:
        raise UserError(f"{url}: not an address on the hub; write hf://owner/name or hf://owner/name@revision:folder")
    repo, revision, inside = match[1], match[2], (match[3] or "").strip("/")
    location = Hub(repo, revision, inside)
    if inside and location.files == [inside]:
        folder, _, file = inside.rpartition("/")
        return Hub(repo, revision, folder), file
    if not location.files:
        raise MissingFileError(f"{url}: no such folder or file in the repository")
    return location, None
