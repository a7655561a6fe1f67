"""The small runs that are attacked, and how what they left is compared with what an undisturbed one left."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attack.children import Child, Ended, command

TOY = """name = "attacked"
dictionary = {kind = "relu", n_latents = 16, l1 = [0.1, 0.5]}
train = {seeds = [0, 1], steps = 200, batch_size = 32, log_every = 50, n_scale = 64}
baselines = {kinds = ["pca"]}
score = {n_rows = 100, metrics = ["reconstruction"]}
runtime = {device = "cpu", threads = 1, checkpoint_seconds = 0}

[[source]]
kind = "tensor"
file = "acts.npy"

[[source]]
kind = "independent"
n_features = 16
d_in = 8
probability = 0.1
"""
"""A file of activations and a toy with known features."""
STREAM = """name = "attacked"
dictionary = {kind = "relu", n_latents = 16, l1 = 0.1}
train = {seeds = 0, steps = 40, batch_size = 32, log_every = 20, n_scale = 64}
score = {n_rows = 50, metrics = ["reconstruction"]}
runtime = {device = "cpu", threads = 1, checkpoint_seconds = 0}

[source]
kind = "transformer"
model = "model"
hook = "blocks.0.hook_resid_post"
text = "text.txt"
separator = "|"
context = 8
heldout_share = 0.3
shard_tokens = 64
rows_at_once = 8
"""
"""A random transformer of a few hundred parameters on a text of random words."""

Results = dict[str, str]
"""The content of files without what depends on the clock, by their paths in the output folder."""


@dataclass
class Whole:
    """A config in a folder of its own, with the results of an undisturbed run."""

    folder: Path
    """Holds the config and its files; commands run in it."""
    results: Results = field(default_factory=dict)
    """What the undisturbed run left."""

    @property
    def out(self) -> Path:
        """The output folder of the run that is attacked."""
        return self.folder / "out"

    def run(self, before: Any = None, out: Path | None = None, printed: str = "printed.txt") -> Child:
        """Starts the run in a child."""
        work = command("run", self.folder / "attacked.toml", "--out", out or self.out)
        return Child(work, self.folder / printed, before)

    def start_anew(self, template: Path | None = None) -> None:
        """Empties the output folder, or replaces it by a copy of another."""
        shutil.rmtree(self.out, ignore_errors=True)
        if template is not None:
            shutil.copytree(template, self.out, symlinks=True)

    def lost(self, ended: Ended) -> str:
        """What is wrong after a run that should have finished; empty where it left the bytes of an undisturbed one.

        A training log may lack lines where the run says so.
        """
        if ended.code:
            return f"did not finish, {ended.told()}"
        found = results(self.out)
        incomplete = [Path(name) for name in re.findall(r"(\S+)\.partial/log\.jsonl: ", ended.output)]
        logs = {f"{step.name}/log.jsonl" for step in incomplete} & found.keys()
        differing = difference(found, self.results | {log: found[log] for log in logs})
        return f"accepted as done, but {differing}" if differing else ""

    def lost_unless_refused(self, ended: Ended, names: Iterable[str]) -> str:
        """The same after a run that may also have refused in one line with one of these names. What the line says that
        should be deleted is deleted, and the next run has to finish."""
        if not ended.refusal:
            return self.lost(ended)
        if not any(name in ended.refusal for name in names):
            return f"refused without naming the file: {ended.refusal}"
        remedy = re.search(r"delete (\S+) and run again", ended.refusal)
        if remedy is not None:
            shutil.rmtree(remedy[1])
        return self.lost(self.run().wait())


def toy(folder: Path) -> Whole:
    """The run `TOY`, done once undisturbed."""
    return _undisturbed(folder, TOY)


def stream(folder: Path) -> Whole:
    """The run `STREAM`, done once undisturbed."""
    return _undisturbed(folder, STREAM)


def write_inputs(folder: Path, text: str) -> None:
    """Writes a config into a new folder, with the files that it names."""
    folder.mkdir(parents=True)
    for name, write in {"acts.npy": _write_activations, "text.txt": _write_text, "model": _write_model}.items():
        if f'"{name}"' in text:
            write(folder / name)
            text = text.replace(f'"{name}"', f'"{folder / name}"')
    (folder / "attacked.toml").write_text(text)


def _undisturbed(folder: Path, text: str) -> Whole:
    write_inputs(folder, text)
    whole = Whole(folder)
    ended = whole.run().wait()
    if ended.code:
        raise SystemExit(f"the undisturbed run failed, {ended.told()}")
    whole.results |= results(whole.out)
    return whole


def _write_activations(file: Path) -> None:
    np.save(file, np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32))


def _write_text(file: Path) -> None:
    dice = random.Random(0)
    texts = [" ".join(f"w{dice.randrange(20)}" for _ in range(dice.randint(2, 30))) for _ in range(40)]
    file.write_text("|".join(texts))


def _write_model(folder: Path) -> None:
    """A random Llama with a tokenizer of 20 words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    vocabulary = {word: i for i, word in enumerate([*special.values(), *(f"w{i}" for i in range(20))])}
    config = LlamaConfig(vocab_size=len(vocabulary), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16,
                         bos_token_id=1, eos_token_id=2)  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def results(out: Path) -> Results:
    """What finished steps hold, and what is left of unfinished ones."""
    links = {link.name: f"a link to {link.readlink()}" for link in out.iterdir() if link.is_symlink()}
    return links | {file.relative_to(out).as_posix(): _timeless(file) for file in _files(out)}


def difference(found: Results, whole: Results) -> str:
    """How results differ from those of an undisturbed run, in the first file; empty where they do not."""
    for name in sorted(found.keys() | whole.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in whole:
            return f"{name} is left over"
        if found[name] != whole[name]:
            return f"{name} differs"
    return ""


def _files(out: Path) -> Iterator[Path]:
    """The files of an output folder but for its locks, which stay."""
    for file in sorted(out.rglob("*")):
        is_link = any(parent.is_symlink() for parent in (file, *file.parents))
        if not is_link and ".locks" not in file.parts and (file.is_file() or file.parent.name == ".scratch"):
            yield file


def _timeless(file: Path) -> str:
    """The content of a file without times."""
    if file.is_dir():
        return "a folder"
    if file.name == "cost.json":
        return " ".join(sorted(json.loads(file.read_bytes())))
    if file.name == "manifest.json":
        manifest = json.loads(file.read_bytes())
        for timed in ("seconds", "sha256"):  # the hash is that of the manifest itself
            manifest.pop(timed, None)
        manifest["files"] = {n: e for n, e in manifest["files"].items() if n not in ("cost.json", "log.jsonl")}
        return json.dumps(manifest)
    if file.name == "log.jsonl":
        lines = [json.loads(line) for line in file.read_bytes().splitlines()]
        timed = ("seconds", "samples_per_s")
        return json.dumps([{n: v for n, v in line.items() if n not in timed} for line in lines])
    return file.read_bytes().hex()
