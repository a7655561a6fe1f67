"""Finished steps on disk: ``OUT/<stage>-<key>``, each complete or absent, described by a manifest.

A step is written under ``<name>.partial``; its manifest, with the hash of every file, is written last; then the
directory is renamed. ``.locks`` and ``.scratch`` hold the claims and checkpoints of runs in progress.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.steps.checksums import CHECKSUMS, changed_since_recorded, sha256
from pipelines.steps.claims import TEMPORARY, ask_for_names
from pipelines.steps.known_hashes import record_step, remember
from pipelines.steps.lease import Lease, is_claimed, take, tidy
from pipelines.steps.manifest import MANIFEST, verify, versions, write_manifest
from pipelines.steps.step import Job, Step
from sae.numerics.atomic_write import named_errors
from sae.registry import UserError

_CLAIM_SECONDS = 0.05
"""Time between two tries to claim what another run holds."""
_LINK_SECONDS = 60.0
"""How long a run waits for another that makes the same link, which takes no time."""


@dataclass(frozen=True)
class Store:
    """The output folder that holds the directories of steps; several runs may share it."""

    root: Path
    """Path of the folder."""

    def create(self) -> None:
        """Creates the folder. Raises `UserError` where it cannot be created or written to."""
        try:
            for folder in (".locks", ".scratch"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            probe = self._claims / f".{secrets.token_hex(8)}{TEMPORARY}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"{self.root}: not writable ({reason}); choose another folder with --out") from None

    def directory(self, step: Step) -> Path:
        """Where the step is once it is finished."""
        return self.root / step.name

    def partial(self, step: Step) -> Path:
        """Where the step is while it is being filled."""
        return self.root / f"{step.name}.partial"

    def job(self, step: Step) -> Job:
        """The step with its directories."""
        return Job(step, {name: self.directory(source) for name, source in step.inputs.items()}, self.partial(step))

    def scratch(self, group: str) -> Path:
        """Folder of a group's checkpoints and status; it survives an interruption."""
        return self.root / ".scratch" / group

    def done(self, step: Step) -> bool:
        """Whether the step is finished; :meth:`verify` checks that its files are undamaged."""
        return self.directory(step).is_dir()

    def missing(self, steps: Sequence[Step]) -> list[Step]:
        """The steps that are not finished, as far as the file system, and not this machine's memory of it, knows."""
        ask_for_names(self.root)
        return [step for step in steps if not self.done(step)]

    def commit(self, step: Step, device: str, seconds: float, lease: Lease | None = None) -> Path:
        """Writes the manifest of a filled partial directory and renames it to the finished step.

        Raises `UserError` where a file has changed on disk since it was written, and
        :class:`~pipelines.steps.lease.ClaimLost` where the lease on the step's group no longer counts.
        """
        if lease is not None:
            lease.check(surely=True)
        partial, final = self.partial(step), self.directory(step)
        (partial / MANIFEST).unlink(missing_ok=True)  # of a run that was killed just before renaming
        for leftover in [f for f in partial.rglob(".*") if f.is_file() and f.name != CHECKSUMS]:
            leftover.unlink()  # of a run that was killed while writing
        found = [f for f in sorted(partial.rglob("*")) if f.is_file() and f.name != CHECKSUMS]
        files = {f.relative_to(partial).as_posix(): f for f in found}
        hashes = {name: sha256(file) for name, file in files.items()}
        for name in changed_since_recorded(partial, hashes):
            raise UserError(f"{partial / name}: changed on disk after it was written; run again, it is made again")
        manifest = {
            "stage": step.stage,
            "version": step.version,
            "key": step.key,
            "title": step.title,
            "config": step.config,
            "inputs": {name: source.name for name, source in step.inputs.items()},
            "files": {name: {"size": f.stat().st_size, "sha256": hashes[name]} for name, f in files.items()},
            "versions": versions(),
            "device": device,
            "seconds": round(seconds, 3),
        }
        write_manifest(partial, manifest)
        _make_modes_alike(partial / MANIFEST, files.values())
        record_step(partial, hashes)
        for path in (*files.values(), *{f.parent for f in files.values()}, partial):
            _sync(path)
        if lease is not None:  # again, as hashing takes long
            lease.check(surely=True)
        partial.rename(final)
        for name in files:
            remember(final / name, hashes[name])
        (final / CHECKSUMS).unlink(missing_ok=True)  # not before: without it, a killed run would start anew
        _sync(self.root)
        return final

    def verify(self, step: Step, whole: bool = False) -> None:
        """Checks that a finished step's directory holds this step, complete and undamaged, as
        :func:`~pipelines.steps.manifest.verify` does."""
        verify(step, self.directory(step), whole)

    def link(self, name: str, directory: Path) -> Path:
        """Makes a symbolic link to a step's directory, replacing an older one in one move; returns the link, or the
        directory itself where the system does not allow links (Windows without developer mode)."""
        link, temporary = self.root / name, self.root / f".{name}.new"
        with self.claim(f"link-{name}", _LINK_SECONDS):  # in vain: the worst is an error of the other run
            try:
                temporary.unlink(missing_ok=True)  # of a run that was killed before the move
                temporary.symlink_to(directory.name, target_is_directory=True)
                if os.name == "nt":  # which replaces no link to a folder
                    link.unlink(missing_ok=True)
                temporary.replace(link)
            except OSError:
                if os.name != "nt":
                    raise
                return directory
        return link

    @contextmanager
    def claim(self, group: str, seconds: float = 0.0) -> Generator[Lease | None]:
        """Claims a group, trying for so many seconds; yields its lease, or None where another run holds it. The claim
        ends with the block, or some time after its process."""
        until = time.monotonic() + seconds
        while (lease := take(self._claims / group)) is None and time.monotonic() < until:
            time.sleep(_CLAIM_SECONDS)
        try:
            yield lease
        finally:
            if lease is not None:
                lease.release()

    def is_claimed(self, group: str) -> bool:
        """Whether a run, of any machine, works on a group; also in a folder that can only be read."""
        return is_claimed(self._claims / group)

    def tidy(self) -> None:
        """Removes the claims of runs that were killed. Leaves those of runs on other machines which may still work."""
        with suppress(OSError):  # it is not for this that a run fails which is done
            for name in tidy(self._claims):
                with self.claim(name.name):
                    pass

    @property
    def _claims(self) -> Path:
        return self.root / ".locks"


def _make_modes_alike(file: Path, others: Iterable[Path]) -> None:
    """Gives files the permissions of `file`; some libraries create files that only their owner can read."""
    mode = file.stat().st_mode
    for other in others:
        if not other.is_symlink() and other.stat().st_mode != mode:
            with suppress(PermissionError):  # the file of another user, in a folder that is shared
                other.chmod(mode)


def _sync(path: Path) -> None:
    """Flushes a file or directory to disk, so that no manifest can survive a power cut without the files it lists.

    Windows cannot open a directory, and flushes only files that are open for writing.
    """
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        with named_errors(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
