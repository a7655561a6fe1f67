"""Malicious files and randomly damaged files: nothing in them runs, nothing crashes or hangs, and every error is one
line.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

import sae
from benchmarks.attack.mutations import MALICIOUS, Evil, mutation
from sae.files.tensors import open_file

from .made import MADE, D, M, parts


@pytest.mark.parametrize("way", MALICIOUS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("slot", ["nanda", "dictionary_learning", "openai", "learned_dicts", "gemma_scope", "bussmann"])
def test_a_pickle_that_would_run_is_refused_wherever_it_stands(
    way: Callable[[Evil, Path], None], slot: str, tmp_path: Path
):
    made, touched = MADE[slot](tmp_path / "made"), tmp_path / "touched"
    (weights,) = [f for f in (tmp_path / "made").rglob("*") if f.suffix in (".pt", ".npz")]
    way(Evil(touched), weights)
    for path in (made.path, weights):
        with pytest.raises((ValueError, FileNotFoundError)) as told:
            sae.load(path)
        assert "\n" not in str(told.value) and weights.name in str(told.value)
    assert not touched.exists()


def test_opcodes_that_would_import_or_call_are_refused(tmp_path: Path):
    touched, file = tmp_path / "touched", tmp_path / "x.pkl"
    command = f"touch {touched}".encode()
    programs = [
        b"cos\nsystem\n(S'" + command + b"'\ntR.",
        b"(ios\nsystem\nS'" + command + b"'\n.",
        b"(cos\nsystem\nS'" + command + b"'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(command)]) + command + b"\x85R.",
        b"\x80\x02cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x02ctorch\nload\n(S'x'\ntR.",
        b"\x80\x02\x82\x01.",
        b"P0\n.",
    ]
    for program in programs:
        file.write_bytes(program)
        with pytest.raises(ValueError, match=r"no code was run|not a complete pickle"):
            open_file(file)
    assert not touched.exists()


@lru_cache
def bombs() -> dict[str, bytes]:
    """Small files that demand much memory or time."""
    deep_key = b"\x80\x02}(K\x01" + b"\x85" * 100_000 + b"K\x01u."
    npz = io.BytesIO()
    with zipfile.ZipFile(npz, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (5000, 10000), }"
        head += b" " * (118 - len(head) % 64 - 1) + b"\n"
        with z.open("W_enc.npy", "w", force_zip64=True) as f:
            f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
            for _ in range(200):
                f.write(bytes(10**6))
    shape = json.dumps({"W": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**62]}}).encode()
    far = json.dumps({"W": {"dtype": "F32", "shape": [2], "data_offsets": [2**40, 2**40 + 8]}}).encode()
    nested = b'{"W":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    # Nested lists of references to the same list: small until they are copied.
    laughs = (
        b"\x80\x02]q\x00"
        + b"".join(b"]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 10_000 + b"e" for i in (1, 2, 3, 4))
        + b"."
    )
    tensor = io.BytesIO()
    torch.save(torch.zeros(1).expand(10**9, 10**6), tensor)
    return {
        "memo.pkl": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
        "bytes.pkl": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
        "text.pkl": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"x.",
        "long.pkl": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        "digits.pkl": b"I" + b"9" * 100_000 + b"\n.",
        "deep.pkl": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "deep_key.pkl": deep_key,
        "loop.pkl": b"\x80\x02]q\x00h\x00a.",
        "many.pkl": b"\x80\x02" + b"K\x01" * 600_000 + b"0" * 599_999 + b".",
        "laughs.pkl": laughs,
        "zeros.npz": npz.getvalue(),
        "shape.safetensors": struct.pack("<Q", len(shape)) + shape,
        "far.safetensors": struct.pack("<Q", len(far)) + far + bytes(8),
        "nested.safetensors": struct.pack("<Q", len(nested)) + nested,
        "header.safetensors": struct.pack("<Q", 2**63) + b"{}" + bytes(64),
        "expanded.pt": tensor.getvalue(),
    }


BOMBS = ["memo.pkl", "bytes.pkl", "text.pkl", "long.pkl", "digits.pkl", "deep.pkl", "deep_key.pkl", "loop.pkl",
         "many.pkl", "laughs.pkl", "zeros.npz", "shape.safetensors", "far.safetensors", "nested.safetensors",
         "header.safetensors", "expanded.pt"]  # fmt: skip


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("name", BOMBS)
def test_what_asks_for_too_much_is_refused(name: str, tmp_path: Path):
    file = tmp_path / name
    assert set(bombs()) == set(BOMBS)
    file.write_bytes(bombs()[name])
    with within(30), pytest.raises((ValueError, FileNotFoundError)) as told:
        sae.load(file)
    assert "\n" not in str(told.value) and len(str(told.value)) < 600


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"d_sae": ' + "9" * 5000 + "}", "[]", "nul", "\xff", '{"d_sae": NaN}']
)
def test_a_config_that_is_no_config(text: str, tmp_path: Path):
    MADE["saelens"](tmp_path)
    (tmp_path / "cfg.json").write_text(text, encoding="latin-1")
    with within(10), pytest.raises((ValueError, FileNotFoundError)) as told:
        sae.load(tmp_path)
    assert "\n" not in str(told.value)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fails a block that takes longer."""

    def end(*_: object) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzzed(name: str, n: int, folder: Path, seed: int = 0) -> dict[str, int]:
    """Counts how many of `n` damaged copies of a format's files were refused and loaded; raises any other error."""
    dice = random.Random(f"{name} {seed}")
    made = MADE[name](folder / "whole")
    files = sorted(f for f in (folder / "whole").rglob("*") if f.is_file() and f.name != "trainer_state.pt")
    counts = {"refused": 0, "opened": 0}
    x = torch.randn(4, D)
    for i in range(n):
        file = dice.choice(files)
        whole, damaged = file.read_bytes(), mutation(file, dice)
        file.write_bytes(damaged)
        try:
            with within(20):
                d = sae.load(made.path, **made.options)
                d.reconstruct(x[:, : d.d_in] if d.d_in <= D else torch.randn(4, d.d_in))
            counts["opened"] += 1
        except (ValueError, FileNotFoundError) as error:
            assert "\n" not in str(error) and str(error), repr(error)
            counts["refused"] += 1
        except BaseException:
            shutil.copytree(folder / "whole", folder / f"found-{i}")
            raise
        finally:
            file.write_bytes(whole)
    return counts


FAMILIES = ["native", "saelens_topk_rescaled", "dictionary_learning_checkpoint", "sparsify_skip", "openai",
            "gemma_scope_embedding", "llama_scope", "llamascopium", "learned_dicts", "overcomplete", "bussmann",
            "nanda"]  # fmt: skip
"""The most complex variant of each format."""


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_hundred_damaged_files_of_each_format(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(MADE, "native", native)
    counts = fuzzed(name, 100, tmp_path)
    assert counts["refused"] > 20 and sum(counts.values()) == 100


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("name", FAMILIES)
def test_ten_thousand_damaged_files_of_each_format(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(MADE, "native", native)
    counts = fuzzed(name, 10_000, tmp_path, seed=1)
    print(f"\n{name}: {counts}")
    assert counts["refused"] > 2000 and sum(counts.values()) == 10_000


def native(folder: Path) -> Any:
    """The native format, with a dictionary that has a setting."""
    from sae.dictionaries.topk import TopK

    from .made import Made, centred, relu, top_k

    t = parts()
    sae.save(TopK(t["W_enc"], t["W_dec"], t["b_enc"], t["b_dec"], k=3, card={"a": {"b": 1}}), folder)
    return Made(folder, centred(t, lambda p: top_k(relu(p), M)))
