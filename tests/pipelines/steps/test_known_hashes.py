"""Large files are not read at every start; what is damaged is named at the latest when it is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.steps import known_hashes, manifest
from pipelines.steps.checksums import sha256
from pipelines.steps.known_hashes import HASHES, load_known
from sae.activations.shards import Shard
from sae.registry import UserError
from tests.reported.test_changed_files import work
from tests.streaming import words


def start(table: dict[str, Any], out: Path) -> None:
    """Runs a config as the commands do."""
    load_known(out)
    work(table, out)


SMALL = 2000
"""What counts as large here."""


@pytest.fixture
def table(tmp_path: Path, tiny_models: dict[str, Path]) -> dict[str, Any]:
    """A run with shards of activations and dictionaries that count as large."""
    return {
        "name": "tiny",
        "source": {"kind": "transformer", "model": str(tiny_models["llama"]), "hook": "blocks.0.hook_resid_post",
                   "text": str(words(tmp_path / "text.txt", 200)), "separator": "|", "context": 8},
        "dictionary": {"kind": "relu", "n_latents": 32, "l1": 0.1},
        "train": {"steps": 3, "batch_size": 16, "n_scale": 32},
        "score": {"n_rows": 20, "metrics": ["reconstruction"]},
        "runtime": {"device": "cpu", "threads": 1},
    }  # fmt: skip


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the large files that are read; files of `SMALL` bytes are large."""
    names: list[str] = []
    known_hashes.forget()

    def reading(file: Path) -> str:
        if file.stat().st_size >= SMALL:
            names.append(file.name)
        return sha256(file)

    monkeypatch.setattr(known_hashes, "SETTLED_SECONDS", -1.0)
    for module in (known_hashes, manifest):
        monkeypatch.setattr(module, "sha256", reading)
        monkeypatch.setattr(module, "LARGE_FILE", SMALL)
    return names


@pytest.fixture
def out(table: dict[str, Any], tmp_path: Path, read: list[str]) -> Path:
    """A finished run, as a later process finds it."""
    folder = tmp_path / "out"
    start(table, folder)
    restart(read)
    return folder


def restart(read: list[str]) -> None:
    known_hashes.forget()
    read.clear()


def flip_unseen(out: Path, file: Path, at: int) -> None:
    """Changes a bit as a failing disk does, with the size, the times and the inode that the record has."""
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)
    record = json.loads((out / HASHES).read_text())
    name = file.relative_to(out).as_posix()
    status = file.stat()
    record[name][:4] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    (out / HASHES).write_text(json.dumps(record))


def middle(file: Path) -> int:
    """The place of an activation in the middle of a shard."""
    shard = Shard.open(file)
    return shard.start + sum(shard.entries["acts"]["data_offsets"]) // 2


def only(out: Path, pattern: str) -> Path:
    [file] = out.glob(pattern)
    return file


def test_a_finished_run_starts_without_reading_large_files(table: dict[str, Any], out: Path, read: list[str]):
    assert {"train-00000.safetensors"} <= {Path(name).name for name in json.loads((out / HASHES).read_text())}
    start(table, out)
    assert read == []
    moved = out.rename(out.with_name("moved"))
    start(table, moved)
    assert read == []


def test_no_worker_reads_what_another_has_finished(table: dict[str, Any], out: Path, read: list[str]):
    (out / HASHES).unlink()  # as a worker finds the steps that others finish after it has begun
    start(table, out)
    assert set(read) == {"text.txt", "model.safetensors"}  # files that are not those of steps


def test_a_copy_is_read_once(table: dict[str, Any], out: Path, read: list[str], tmp_path: Path):
    shutil.copytree(out, tmp_path / "copy", symlinks=True)
    start(table, tmp_path / "copy")
    assert len(set(read)) >= 3
    restart(read)
    start(table, tmp_path / "copy")
    assert read == []


def test_a_change_that_the_file_system_knows_of_is_named_at_the_start(table: dict[str, Any], out: Path):
    shard = only(out, "stream-*/train-00000.safetensors")
    content = bytearray(shard.read_bytes())
    content[middle(shard)] ^= 4
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"train-00000\.safetensors: damaged, its hash differs from the manifest"):
        start(table, out)


def test_a_shard_that_changed_unseen_is_named_when_its_rows_are_read(table: dict[str, Any], out: Path):
    shard = only(out, "stream-*/train-00000.safetensors")
    flip_unseen(out, shard, middle(shard))
    start(table, out)  # all is done, and nothing reads the shard
    with pytest.raises(UserError, match=r"train-00000\.safetensors: damaged since it was written, `acts` of row"):
        start(table | {"train": table["train"] | {"steps": 300}}, out)  # which takes every row


def test_a_dictionary_that_changed_unseen_is_named_when_it_is_used(table: dict[str, Any], out: Path, read: list[str]):
    weights = only(out, "train-*/dictionary/*.safetensors")
    flip_unseen(out, weights, -5)
    start(table, out)
    assert read == []
    with pytest.raises(UserError, match=f"{weights.name}: damaged, its hash differs from the manifest"):
        start(table | {"score": {"n_rows": 30, "metrics": ["reconstruction"]}}, out)


def test_all_files_are_read_by_verify(out: Path, call: Callable[..., tuple[int, str, str]]):
    n_steps = len([f for f in out.iterdir() if (f / "manifest.json").is_file()])
    assert call("verify", out)[:2] == (0, f"{out}: {n_steps} steps, all as they were written\n")
    shard, weights = only(out, "stream-*/train-00000.safetensors"), only(out, "train-*/dictionary/*.safetensors")
    flip_unseen(out, shard, middle(shard))
    flip_unseen(out, weights, -5)
    code, printed, error = call("verify", out)
    assert code == 2 and f"{out}: 2 of {n_steps} steps are damaged" in error
    assert [line.split(": ")[1] for line in printed.splitlines()] == [str(shard), str(weights)]


def test_a_renamed_step_is_found_by_verify(out: Path, call: Callable[..., tuple[int, str, str]]):
    step = only(out, "score-*")
    step.rename(out / "score-0123456789abcdef")
    assert f"its manifest is that of {step.name}; rename the folder back" in call("verify", out)[1]


def test_verify_refuses_what_is_no_folder_of_steps(tmp_path: Path, call: Callable[..., tuple[int, str, str]]):
    assert call("verify", tmp_path / "none")[::2] == (2, f"sae: {tmp_path / 'none'}: no such folder; give that of "
                                                      "the steps, such as runs\n")  # fmt: skip
    assert "no finished step in it" in call("verify", tmp_path)[2]


@pytest.mark.parametrize("junk", ["", "[]", "{", '{"stream-x/a": 3}', '{"a": [1, 2, 3, 4, 5]}', "\x00", "[" * 9999])
def test_a_damaged_record_counts_for_nothing(table: dict[str, Any], out: Path, read: list[str], junk: str):
    for record in out.rglob(HASHES):  # that of the folder, and those of steps
        record.write_text(junk)
    start(table, out)
    assert len(read) >= 3
    restart(read)
    start(table, out)
    assert read == []
