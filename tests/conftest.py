"""Shapes are checked in every test: jaxtyping annotations are enforced by beartype in `sae`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("sae", "beartype.beartype")


@pytest.fixture(autouse=True)
def one_thread():
    """Tests run beside each other; more threads than cores would slow all of them down."""
    torch.set_num_threads(1)


@pytest.fixture
def shared_data() -> Path:
    """The optional folder with a small real model and text; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("SAE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set SAE_TEST_DATA to a folder that has it")
    return folder
