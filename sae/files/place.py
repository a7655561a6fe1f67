"""Where dictionaries lie: a folder of this disk, of the hub, or of any file system that fsspec knows.

A place lists the names of its files and fetches one when it is asked for. Nothing else is transferred.
"""

from __future__ import annotations

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

from sae.registry import MissingFileError, UserError

DEPTH = 3
MOST_FILES = 20_000


class FileLocation(ABC):
    """A folder."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the user called it."""

    @cached_property
    @abstractmethod
    def files(self) -> list[str]:
        """Names of files, relative to the folder, those of sub-folders included."""

    @abstractmethod
    def fetch(self, file: str) -> Path:
        """The file on this disk."""

    @abstractmethod
    def above(self, levels: int, name: str) -> Path | None:
        """A file of the folder so many levels above, on this disk; None where there is none."""

    @property
    def is_near(self) -> bool:
        """Whether looking into a file costs next to nothing."""
        return False

    def label(self, file: str) -> str:
        """What a file is called in errors."""
        return f"{self.name.rstrip('/')}/{file}"

    def address(self, file: str) -> str | None:
        """Where others find a file that was fetched, as exactly as is known; nowhere if it is on this disk."""
        return self.label(file)


@dataclass(frozen=True, eq=False)
class Local(FileLocation):
    """A folder of this disk, with its sub-folders down to a `depth`."""

    path: Path
    depth: int = DEPTH

    @property
    def name(self) -> str:
        return str(self.path)

    @cached_property
    def files(self) -> list[str]:
        found: list[str] = []
        for folder, below, names in os.walk(self.path):
            here = Path(folder).relative_to(self.path)
            deep = len(here.parts) >= self.depth
            below[:] = [] if deep else sorted(name for name in below if not name.startswith("."))
            found += [(here / name).as_posix() for name in sorted(names) if not name.startswith(".")]
            if len(found) > MOST_FILES:
                break
        return found

    def fetch(self, file: str) -> Path:
        return self.path / file

    def above(self, levels: int, name: str) -> Path | None:
        parents = self.path.absolute().parents
        file = parents[levels - 1] / name if levels <= len(parents) else None
        return file if file is not None and file.is_file() else None

    def address(self, file: str) -> str | None:
        return None

    @property
    def is_near(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class Remote(FileLocation):
    """A folder of a file system that fsspec knows. Files are copied to `cache` when they are asked for."""

    url: str
    system: Any
    path: str
    cache: Path
    depth: int = DEPTH

    @property
    def name(self) -> str:
        return self.url

    @cached_property
    def files(self) -> list[str]:
        root = self.path.rstrip("/")
        with told_in_one_line(self.url):
            found = self.system.find(root, maxdepth=self.depth + 1)
        return sorted(name[len(root) :].lstrip("/") for name in found)

    def fetch(self, file: str) -> Path:
        return self._copied(f"{self.path.rstrip('/')}/{file}")

    def above(self, levels: int, name: str) -> Path | None:
        parts = self.path.rstrip("/").split("/")
        if len(parts) <= levels:
            return None
        path = "/".join([*parts[:-levels], name])
        with told_in_one_line(self.url):
            there = self.system.isfile(path)
        return self._copied(path) if there else None

    def _copied(self, path: str) -> Path:
        target = self.cache / re.sub(r"[^\w./-]+", "_", path).strip("/")
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with told_in_one_line(path):
                self.system.get_file(path, str(target))
        return target


@dataclass(frozen=True, eq=False)
class Hub(FileLocation):
    """A folder of a repository on the Hugging Face hub, whose own cache keeps what is fetched."""

    repo: str
    revision: str | None
    folder: str

    @property
    def name(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{at}" + (f":{self.folder}" if self.folder else "")

    @cached_property
    def every(self) -> list[str]:
        """All files of the repository."""
        from huggingface_hub import HfApi

        with told_in_one_line(self.name):
            return HfApi().list_repo_files(self.repo, revision=self.revision)

    @cached_property
    def files(self) -> list[str]:
        start = f"{self.folder}/" if self.folder else ""
        return sorted(name.removeprefix(start) for name in self.every if name.startswith(start) or name == self.folder)

    def fetch(self, file: str) -> Path:
        return self._fetched(f"{self.folder}/{file}" if self.folder else file)

    def above(self, levels: int, name: str) -> Path | None:
        parts = self.folder.split("/") if self.folder else []
        file = "/".join([*parts[:-levels], name])
        return self._fetched(file) if len(parts) >= levels and file in self.every else None

    def address(self, file: str) -> str | None:
        """With the commit that was fetched, which the cache's folder is named by."""
        _, _, behind = self.fetch(file).as_posix().partition("/snapshots/")
        commit, _, name = behind.partition("/")
        return f"hf://{self.repo}@{commit}:{name}" if name else self.label(file)

    @lru_cache(maxsize=64)  # noqa: B019
    def _fetched(self, file: str) -> Path:
        from huggingface_hub import hf_hub_download

        with told_in_one_line(f"hf://{self.repo}/{file}"):
            return Path(hf_hub_download(self.repo, file, revision=self.revision))


@contextmanager
def told_in_one_line(what: str, done: str = "fetched") -> Generator[None]:
    """Whatever a network says, as a ``FileNotFoundError`` or a ``ValueError``."""
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

    try:
        yield
    except (FileNotFoundError, EntryNotFoundError, RepositoryNotFoundError) as error:
        raise MissingFileError(f"{what}: not found: {_line(error)}") from None
    except (OSError, HFValidationError, ValueError) as error:
        raise UserError(f"{what}: cannot be {done}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def located(path: str | Path) -> Generator[tuple[FileLocation, str | None]]:
    """The place that a path means, and the one file in it where it means a file.

    A ``FileNotFoundError`` says what is not there, a ``ValueError`` what is no path. Copies of remote files live as
    long as the context.
    """
    text = str(path)
    with ExitStack() as stack:
        if text.startswith("hf://"):
            yield _hub(text)
        elif "://" in text:
            cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="sae-"))
            yield _remote(text, Path(cache))
        else:
            yield _local(Path(path).expanduser())


def _local(path: Path) -> tuple[FileLocation, str | None]:
    if path.is_dir():
        return Local(path), None
    if path.is_file():
        return Local(path.parent, depth=0), path.name
    hint = f" (a repository of the hub is written hf://{path})" if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) else ""
    raise MissingFileError(f"{path}: there is no such folder or file{hint}")


def _remote(url: str, cache: Path) -> tuple[FileLocation, str | None]:
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)
    except (ValueError, ImportError, OSError) as error:
        raise UserError(f"{url}: {_line(error)}") from None
    with told_in_one_line(url):
        is_folder, is_file = system.isdir(path), system.isfile(path)
    if is_folder:
        return Remote(url, system, path, cache), None
    if not is_file:
        raise MissingFileError(f"{url}: there is no such folder or file")
    folder, _, file = path.rpartition("/")
    return Remote(url.rpartition("/")[0], system, folder, cache, depth=0), file


def _hub(url: str) -> tuple[FileLocation, str | None]:
    """``hf://owner/name[@revision][:folder or file]``; a slash may stand for the colon."""
    told = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([^:]+?))?(?:[:/](.*))?", url)
    if told is None:
        raise UserError(f"{url}: write hf://owner/name@revision:folder, the last two as needed")
    repo, revision, inside = told[1], told[2], (told[3] or "").strip("/")
    place = Hub(repo, revision, inside)
    if inside and place.files == [inside]:
        folder, _, file = inside.rpartition("/")
        return Hub(repo, revision, folder), file
    if not place.files:
        raise MissingFileError(f"{url}: there is no such folder or file in the repository")
    return place, None
