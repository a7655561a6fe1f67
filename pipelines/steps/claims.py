"""Claims on disk: a name is claimed by a file that one process can make, and taken over by another such file.

The first claim on ``NAME`` is the file ``NAME.claim``. A claim is superseded by the file ``NAME.<token>.claim`` with
the token of the former. The claims on a name are a chain, and the last is the one that counts.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.steps.owner import Owner, owner_of
from sae.numerics.atomic_write import named_errors

_SUFFIX = ".claim"
_TOKEN = "[0-9a-f]{16}"
TEMPORARY = ".new"
"""Ending of files that exist for a moment."""


@dataclass(frozen=True)
class Claim:
    """A claim as it is found in its file."""

    file: Path
    """The file."""
    token: str
    """Its token, 16 hex digits; made of what was found where the file is damaged or not written yet."""
    beat: int
    """When it was last touched, in nanoseconds on the clock of the file system."""
    lease: float | None
    """Seconds after which it may be taken over; None where the file is damaged."""
    owner: Owner | None
    """The process that made it; None where the file is damaged."""


def chain_of(name: Path) -> list[Claim]:
    """The claims on a name, each superseded by the next; empty where it is free."""
    ask_for_names(name.parent)
    chain, file = list[Claim](), _first(name)
    while (claim := read_claim(file)) is not None and all(claim.token != other.token for other in chain):
        chain.append(claim)
        file = _successor(name, claim.token)
    return chain


def ask_for_names(folder: Path) -> None:
    """Makes what is found in a folder from now on what its server knows.

    A client of NFS answers from memory that a name does not exist, for up to a minute. It asks again where the folder
    was changed, which it learns when the folder is opened.
    """
    if os.name != "nt":
        os.close(os.open(folder, os.O_RDONLY))


def read_claim(file: Path) -> Claim | None:
    """The claim in a file; None where there is no file."""
    try:
        with file.open("rb") as f:  # to open it asks the server, where `stat` may be answered from memory
            beat, content = os.fstat(f.fileno()).st_mtime_ns, f.read()
    except PermissionError:  # only its owner may read it, or Windows is about to remove it
        try:
            beat, content = file.stat().st_mtime_ns, b""
        except OSError:
            return None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return None
    return _parsed(file, beat, content)


def make_claim(name: Path, last: Claim | None, token: str, lease: float, owner: Owner) -> Path | None:
    """Makes the first claim on a name, or the successor of `last`, whole or not at all; None where there is one."""
    file = _first(name) if last is None else _successor(name, last.token)
    content = owner.to_json(token=token, lease=lease)
    temporary = file.with_name(f".{token}{TEMPORARY}")
    try:
        with named_errors(temporary):
            temporary.write_bytes(content)
        try:
            os.link(temporary, file)  # unlike a rename, this replaces no file
            return file
        except FileExistsError:
            pass
        except OSError:  # no links here: for a moment the file is empty, which is no abandoned claim yet
            with suppress(FileExistsError), file.open("xb") as f:
                f.write(content)
        # A server is asked twice where its answer was lost, and then says that the file exists.
        made = read_claim(file)
        return file if made is not None and made.token == token else None
    finally:
        remove(temporary)


def remove(file: Path) -> None:
    """Removes a file if it is there. Windows refuses while another process reads it."""
    for _ in range(20 if os.name == "nt" else 1):
        try:
            return file.unlink(missing_ok=True)
        except PermissionError:
            time.sleep(0.01)


def claimed_names(folder: Path) -> list[Path]:
    """The names in a folder on which there are claims, whether their owners still run or not."""
    files = [file for file in folder.iterdir() if file.suffix == _SUFFIX]
    return sorted(file.with_suffix("") for file in files if not _is_successor(file))


def remove_strays(folder: Path, before: float) -> None:
    """Removes what killed processes left of claims that no longer count, and their temporary files of before a time on
    the clock of the file system."""
    for file in list(folder.iterdir()):
        if _is_successor(file):  # of a free name, it will never count: tokens do not come back
            if not _first(file.with_suffix("").with_suffix("")).exists():
                remove(file)
        elif file.suffix == TEMPORARY:
            with suppress(FileNotFoundError):
                if file.stat().st_mtime < before:
                    remove(file)


def _is_successor(file: Path) -> bool:
    return re.search(rf"\.{_TOKEN}\{_SUFFIX}$", file.name) is not None


def _first(name: Path) -> Path:
    return name.with_name(name.name + _SUFFIX)


def _successor(name: Path, token: str) -> Path:
    return name.with_name(f"{name.name}.{token}{_SUFFIX}")


def _parsed(file: Path, beat: int, content: bytes) -> Claim:
    try:
        entries: Any = json.loads(content)
        token, lease = entries["token"], float(entries["lease"])
        if re.fullmatch(_TOKEN, token):
            return Claim(file, token, beat, lease, owner_of(entries))
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return Claim(file, hashlib.sha256(b"%d %b" % (beat, content)).hexdigest()[:16], beat, None, None)
