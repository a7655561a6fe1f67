"""Damaged and malicious variants of files: random bytes at random places, and well-formed files with odd content."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

NUMBERS = [0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1]
"""Lengths and offsets at which programs err."""
WORDS = [b"", b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'"x"', b"true", b"99999999999999999999", b"0", b"2.5",
         b'"16"']  # fmt: skip
"""Pieces of text that are put into files."""
VALUES: list[Any] = [None, True, -1, 0, 0.5, 10**30, 1e300, "", "x", [], {}, [1, "a"], {"a": 1}, "16", "topk",
                     float("nan")]  # fmt: skip
"""Values that are put into JSON."""


def mutation(file: Path, dice: random.Random) -> bytes:
    """A damaged variant of a file: in half of the cases one that is still a whole file of its form."""
    content = file.read_bytes()
    deep = dice.random() < 0.5
    if deep and file.suffix == ".json":
        return mutated_json(content, dice)
    if deep and content[:2] == b"PK":
        return mutated_zip(content, dice)
    if deep and file.suffix == ".safetensors":
        return mutated_header(content, dice)
    return mutated(content, dice)


def mutated(content: bytes, dice: random.Random) -> bytes:
    """The bytes with a few changed, removed, doubled, or replaced by numbers that often cause errors."""
    out = bytearray(content)
    for _ in range(dice.choice([1, 1, 1, 2, 4, 12])):
        if not out:
            return bytes(out)
        # Headers are at either end; damage there tests more.
        ends = dice.random()
        at = dice.randrange(min(len(out), 400)) if ends < 0.5 else dice.randrange(len(out))
        at = max(0, len(out) - 1 - dice.randrange(min(len(out), 600))) if ends > 0.8 else at
        how = dice.randrange(7)
        if how == 0:
            out[at] ^= 1 << dice.randrange(8)
        elif how == 1:
            out[at] = dice.randrange(256)
        elif how == 2:
            width = dice.choice([1, 2, 4, 8])
            out[at : at + width] = (dice.choice(NUMBERS) % 2 ** (8 * width)).to_bytes(width, "little")
        elif how == 3:
            del out[at : at + dice.choice([1, 2, 8, 64, 1000])]
        elif how == 4:
            out[at:at] = out[at : at + dice.choice([1, 8, 64])]
        elif how == 5:
            del out[at:]
        else:
            out[at:at] = dice.choice(WORDS)
    return bytes(out)


def mutated_json(content: bytes, dice: random.Random) -> bytes:
    """A JSON object with one value, possibly nested, replaced or removed."""
    tree = json.loads(content)
    at = tree
    while isinstance(at, dict) and at:
        key = dice.choice(sorted(at))
        if isinstance(at[key], dict) and at[key] and dice.random() < 0.7:
            at = at[key]
        elif dice.random() < 0.3:
            del at[key]
            break
        else:
            at[key] = dice.choice(VALUES)
            break
    return json.dumps(tree).encode()


def mutated_zip(content: bytes, dice: random.Random) -> bytes:
    """An archive with one member changed and valid checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        victim = dice.choice([n for n in names if n.endswith((".pkl", ".npy"))] or names)
        for member in old.infolist():
            inside = old.read(member.filename)
            new.writestr(member, mutated(inside, dice) if member.filename == victim else inside)
    return out.getvalue()


def mutated_header(content: bytes, dice: random.Random) -> bytes:
    """A safetensors file with a changed header that is still JSON."""
    n = int.from_bytes(content[:8], "little")
    header = mutated_json(content[8 : 8 + n], dice)
    return struct.pack("<Q", len(header)) + header + content[8 + n :]


class Evil:
    """An object that creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.file}",))  # pyright: ignore[reportDeprecated]


def as_torch(evil: Evil, file: Path) -> None:
    torch.save({"W_enc": torch.zeros(2, 3), "extra": evil}, file)


def as_legacy_torch(evil: Evil, file: Path) -> None:
    torch.save({"W_enc": torch.zeros(2, 3), "extra": evil}, file, _use_new_zipfile_serialization=False)


def as_pickle(evil: Evil, file: Path) -> None:
    file.write_bytes(pickle.dumps([evil]))


def as_text_pickle(evil: Evil, file: Path) -> None:
    file.write_bytes(pickle.dumps([evil], protocol=0))


def as_array(evil: Evil, file: Path) -> None:
    with file.open("wb") as f:
        np.savez(f, W_enc=np.array([evil], dtype=object), allow_pickle=True)


def as_array_file(evil: Evil, file: Path) -> None:
    with file.open("wb") as f:
        np.save(f, np.array([evil], dtype=object), allow_pickle=True)


def inside_allowed_names(evil: Evil, file: Path) -> None:
    """Hides the code in the bytes argument of a call that torch's own files contain."""
    inner = io.BytesIO()
    torch.save(evil, inner, _use_new_zipfile_serialization=False)
    stream = b"ctorch.storage\n_load_from_bytes\n" + pickle.dumps((inner.getvalue(),), protocol=0)[:-1] + b"R."
    file.write_bytes(b"\x80\x02" + stream)


MALICIOUS: list[Callable[[Evil, Path], None]] = [
    as_torch, as_legacy_torch, as_pickle, as_text_pickle, as_array, as_array_file, inside_allowed_names,
]  # fmt: skip
"""Ways to write a file that runs a command where it is unpickled."""
