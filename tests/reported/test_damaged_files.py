"""Damaged or unusual files next to dictionaries: each is one line that names the file."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

import sae
from sae.activations.shards import Shard
from sae.dictionaries.relu import Relu
from sae.files.hub import origin_facts, page


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", ["ae.pt", "dictionary.json"])
def test_a_pipe_among_the_weights(name: str, tmp_path: Path):
    """`sae.load` of a folder with a named pipe waited forever."""
    if name == "dictionary.json":
        sae.save(Relu.tied(torch.eye(3)), tmp_path)
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="not a regular file") as error:
        sae.load(tmp_path)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["dictionary.json", "dictionary.safetensors"])
def test_a_link_that_leads_nowhere(name: str, tmp_path: Path):
    """A broken link to a blob ended in a FileNotFoundError with a traceback."""
    sae.save(Relu.tied(torch.eye(3)), tmp_path)
    (tmp_path / name).rename(tmp_path / "moved")
    (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(sae.registry.MissingFileError, match="a link to a file that does not exist") as error:
        sae.load(tmp_path)
    assert name in str(error.value)


@pytest.mark.parametrize("empty", [None, [], "text", 3])
def test_a_card_with_null_tables(empty: Any):
    """`sae show` and `sae push` of a card with `"source": null` ended in an AttributeError."""
    d = Relu.tied(torch.eye(3)).with_card(source=empty, scores=empty)
    assert origin_facts(d.card) == {}
    assert "someone/thing" in page(d, "someone/thing")


def test_a_shard_with_a_deeply_nested_header(tmp_path: Path):
    """A header of nested lists ended in a RecursionError."""
    header = b'{"acts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    file = tmp_path / "0.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match=r"0\.safetensors: this shard is cut short or damaged"):
        Shard.open(file)


def test_the_card_of_a_saved_dictionary_may_hold_nulls(tmp_path: Path):
    """A header written by hand with nulls in its card still loads."""
    sae.save(Relu.tied(torch.eye(3)), tmp_path)
    file = tmp_path / "dictionary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"card": {"source": None, "scores": None}}))
    assert sae.load(tmp_path).card == {"source": None, "scores": None}
