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


@pytest.mark.parametrize("deep", ["[" * 10_000 + "]" * 10_000, "{a = " * 300 + "1" + "}" * 300])
def test_deep_nesting_is_one_line(tmp_path: Path, deep: str):
    """Ten thousand brackets ended in a RecursionError, and so did 300 tables, which can be read but not copied."""
    file = tmp_path / "c.toml"
    file.write_text(f"x = {deep}")
    with pytest.raises(UserError, match=r"c\.toml: .*nested too deeply"):
        read_table(file)
    with pytest.raises(UserError, match=r"--set x=.*nested too deeply"):
        value_of(deep, f"x={deep}")


def test_nesting_that_no_config_needs_is_read():
    assert value_of("[" * 40 + "1" + "]" * 40, "x=...") is not None


def test_a_number_of_thousands_of_digits_is_no_number():
    """`--set source.seed=999...` with 5000 digits ended in the traceback of a ValueError."""
    assert value_of("9" * 5000, "x=...") == "9" * 5000
