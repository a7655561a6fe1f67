"""Gives damaged and malicious files to what reads files of others: `sae show`, `sae.load`, `sae convert`, and runs on
files of activations, texts and labels.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.attack.children import Child, Ended, command, limit
from benchmarks.attack.mutations import MALICIOUS, Evil, mutation
from benchmarks.attack.trials import Trial, dice

TRIALS, QUICK = 2000, 100
SECONDS, MEMORY = 20, 2**30
"""Limits: processor time, and memory beyond that of the imports."""
MALICIOUS_SHARE = 0.1
"""Of the trials on files that may be pickles, those with a file that runs a command where it is unpickled."""
_PICKLES = (".pt", ".npz", ".npy", ".bin")
_RUNS_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class")
"""Audit events of executed code."""


@dataclass(frozen=True)
class Reader:
    """Something that reads files."""

    name: str
    """What it is called in reports."""
    files: Path
    """The folder with whole files, all of which may be damaged."""
    read: Callable[[Path], object]
    """Reads a copy of the folder."""


def attack(folder: Path, numbers: range, seed: int) -> Iterator[Trial]:
    """One file of a reader is damaged; reading has to succeed, or to be refused in one line, within the limits."""
    folder.mkdir()
    readers = list(_readers(folder / "whole"))
    copy, touched = folder / "copy", folder / "touched"
    for number in numbers:
        chance = dice("hostile_files", seed, number)
        reader = chance.choice(readers)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(reader.files, copy)
        file = chance.choice(sorted(f for f in copy.rglob("*") if f.is_file()))
        how = _damage(file, touched, chance)
        ended = Child(lambda reader=reader: reader.read(copy), folder / "printed.txt", _watched).wait(3 * SECONDS)
        yield Trial(number, f"{reader.name}: {how} {file.relative_to(copy)}", _failure(ended, touched))


def _damage(file: Path, touched: Path, chance: Random) -> str:
    if file.suffix in _PICKLES and chance.random() < MALICIOUS_SHARE:
        way = chance.choice(MALICIOUS)
        way(Evil(touched), file)
        return way.__name__
    file.write_bytes(mutation(file, chance))
    return "damaged"


def _watched() -> None:
    """Limits a child, and ends it where it would run code of a file."""
    limit(SECONDS, MEMORY)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _RUNS_CODE:
            raise AssertionError(f"code of a file was run: {event} {arguments}")

    sys.addaudithook(hook)


def _failure(ended: Ended, touched: Path) -> str:
    if touched.exists():
        touched.unlink()
        return f"a command in a file was run, {ended.told()}"
    return "" if ended.code == 0 or ended.refusal else f"neither an answer nor one line, {ended.told()}"


def _in_one_line(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """A function of the library, whose errors for the user are printed as the command prints them."""

    def call(path: Path) -> None:
        try:
            read(path)
        except (ValueError, FileNotFoundError) as error:
            if "\n" in str(error) or not str(error):
                raise
            print(f"sae: {error}")
            sys.exit(2)

    return call


def _readers(folder: Path) -> Iterator[Reader]:
    for name, write in {"native": _native, "torch": _torch, "npz": _npz, "saelens": _saelens}.items():
        write(folder / name)
        yield Reader(f"sae.load, {name}", folder / name, _in_one_line(_load))
        yield Reader(f"sae show, {name}", folder / name, lambda path: command("show", path)())
        yield Reader(f"sae convert, {name}", folder / name, _convert)
    _run(folder / "run")
    for step in sorted(f for f in (folder / "run").iterdir() if f.is_dir() and f.name.split("-")[0] in _SHOWN):
        yield Reader(f"sae show, {step.name.split('-')[0]}", step, lambda path: command("show", path)())
    for suffix in (".npy", ".safetensors"):
        place = folder / suffix[1:]
        _activations(place / f"acts{suffix}")
        yield Reader(f"source tensor, {suffix}", place, lambda path, suffix=suffix: _run_on(path / f"acts{suffix}"))
    for suffix, write in {".csv": _csv, ".jsonl": _jsonl}.items():
        place = folder / suffix[1:]
        place.mkdir()
        (place / f"labels{suffix}").write_text(write())
        yield Reader(f"labels, {suffix}", place, _in_one_line(lambda p, s=suffix: _labels(p / f"labels{s}")))


_SHOWN = ("train", "score", "report")


def _load(path: Path) -> None:
    import sae

    d = sae.load(path)
    d.reconstruct(torch.zeros(2, d.d_in))


def _convert(path: Path) -> None:
    command("convert", path, path / "converted", "--format", "sparsify")()


def _labels(file: Path) -> None:
    from sae.activations.labels import read_labelled

    read_labelled(file)


def _run_on(file: Path) -> None:
    table = {
        "name": "hostile",
        "source": {"kind": "tensor", "file": str(file)},
        "baselines": {"kinds": ["pca"]},
        "score": {"n_rows": 20, "metrics": ["reconstruction"]},
        "runtime": {"device": "cpu", "threads": 1},
    }
    lines = ['name = "hostile"']
    for name, content in table.items():
        if isinstance(content, dict):
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in content.items())]
    config = file.with_name("hostile.toml")
    config.write_text("\n".join(lines))
    command("run", config, "--out", file.with_name("out"))()


def _dictionary() -> Any:
    from sae.dictionaries.topk import TopK

    draw = torch.Generator().manual_seed(0)
    W = torch.randn(6, 4, generator=draw)
    return TopK(W.T.contiguous(), W, torch.zeros(6), torch.zeros(4), k=2, card={"a": {"b": 1}})


def _native(folder: Path) -> None:
    import sae

    sae.save(_dictionary(), folder)


def _torch(folder: Path) -> None:
    import sae

    sae.convert(_saved(folder), folder, format="dictionary_learning")


def _saelens(folder: Path) -> None:
    import sae

    sae.convert(_saved(folder), folder, format="saelens")


def _saved(folder: Path) -> Path:
    """A native dictionary next to a folder."""
    place = folder.with_name("of-" + folder.name)
    _native(place)
    return place


def _npz(folder: Path) -> None:
    folder.mkdir()
    draw = np.random.default_rng(0)
    W = draw.standard_normal((6, 4)).astype(np.float32)
    b_enc, b_dec = np.zeros(6, np.float32), np.zeros(4, np.float32)
    W_enc, threshold = np.ascontiguousarray(W.T), np.ones(6, np.float32)
    np.savez(folder / "params.npz", W_enc=W_enc, W_dec=W, b_enc=b_enc, b_dec=b_dec, threshold=threshold)


def _activations(file: Path) -> None:
    from safetensors.torch import save_file

    file.parent.mkdir()
    acts = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    if file.suffix == ".npy":
        np.save(file, acts)
    else:
        save_file({"acts": torch.from_numpy(acts), "label.odd": torch.arange(60) % 2}, file)


def _run(out: Path) -> None:
    """A finished run, whose steps are shown."""
    from benchmarks.attack.runs import TOY, write_inputs

    write_inputs(out.with_name("toy"), TOY)
    ended = Child(command("run", out.with_name("toy") / "attacked.toml", "--out", out), out.with_name("run.txt")).wait()
    if ended.code:
        raise SystemExit(f"the run to show failed, {ended.told()}")


def _csv() -> str:
    return "text,odd\n" + "".join(f'"w{i} w{i % 7}",{i % 2}\n' for i in range(10))


def _jsonl() -> str:
    lines = [{"text": f"w{i} w{i % 7}", "labels": {"odd": i % 2, "third": int(i % 3 == 0)}} for i in range(10)]
    return "".join(json.dumps(line) + "\n" for line in lines)
