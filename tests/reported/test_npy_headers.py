"""A .npy file whose header is damaged is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sae.registry import UserError
from sae.sources.tensor import read_matrix_file


@pytest.mark.parametrize(("found", "put"), [(b")", b"("), (b"'descr'", b"\n desc'"), (b"60", b"\x0060"[:2])])
def test_a_header_that_is_no_python(tmp_path: Path, found: bytes, put: bytes):
    """A header without its last bracket ended in the traceback of a TokenError."""
    file = tmp_path / "x.npy"
    np.save(file, np.zeros((60, 4), np.float32))
    file.write_bytes(file.read_bytes().replace(found, put, 1))
    with pytest.raises(UserError, match=r"x\.npy: not a valid \.safetensors or \.npy file") as caught:
        read_matrix_file(file)
    assert "\n" not in str(caught.value)
