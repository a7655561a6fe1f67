"""Atomic writes: the new content whole, or the old file untouched."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae.numerics.atomic_write import atomic_file, write_atomically


def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path):
    file = tmp_path / "a.json"
    for content in (b"old", b"new"):
        write_atomically(file, content)
        assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", [None, "a.partial"])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, name: str | None):
    file = tmp_path / "a.json"
    file.write_bytes(b"old")
    with (
        pytest.raises(KeyboardInterrupt),
        atomic_file(file, None if name is None else tmp_path / name) as temporary,
    ):
        temporary.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]
