"""Config files as editors write them, and one line for those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config.config import read_table
from pipelines.config.toml_tables import value_of
from sae.registry import UserError


def test_a_byte_order_mark_is_accepted(tmp_path: Path):
    """A config saved by an editor of Windows was refused as invalid TOML."""
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xef\xbb\xbfname = 'x'\r\n")
    assert read_table(file) == {"name": "x"}


def test_deep_nesting_is_one_line(tmp_path: Path):
    """Ten thousand brackets ended in a RecursionError."""
    deep = "[" * 10_000 + "]" * 10_000
    file = tmp_path / "c.toml"
    file.write_text(f"x = {deep}")
    with pytest.raises(UserError, match=r"c\.toml: .*nested too deeply"):
        read_table(file)
    with pytest.raises(UserError, match=r"--set x=.*nested too deeply"):
        value_of(deep, f"x={deep}")
