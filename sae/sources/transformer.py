"""Activations of a real transformer at a hook point, from text to shuffled shards on disk.

Documents are parted into train, choose and test before anything is computed; tokens are packed into rows; the
model is run over the rows in shuffled order, shard by shard, and every vector is kept with its document, row,
position and token. A shard is a pure function of its rows of tokens, so what is finished is never done again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from sae.corpus import SPLITS, BosAt, Corpus, Packer, Packing, Selection, write_corpus
from sae.harvest import Harvest, shard_file
from sae.labels import Labelled, half_of, locate, read_labelled
from sae.model import PROCESSING, Dtype, Model, Site, TokenRows, is_path, load_tokenizer, spliceable
from sae.seeds import epoch_rows
from sae.source import Batch, Progress, Source, SourceConfig, Split
from sae.store import Shards
from sae.text import Text, tokenised


class Config(SourceConfig):
    """Settings. `model` is a hub id or a local Hugging Face folder; `text` a .txt or .jsonl file, the folder of a
    data set, or a hub id. `n_tokens` counts training vectors (None: the whole text once), `n_heldout_tokens`
    those held out, half to choose on and half to score on (None: what `heldout_share` of the documents gives).
    `target` is another hook point of the same width, behind `hook`, whose activations dictionaries are to give back:
    a transcoder, e.g. from ``blocks.2.mlp.hook_in`` to ``blocks.2.mlp.hook_out`` (None: those at `hook` itself).
    """

    kind: Literal["transformer"] = "transformer"
    stage: ClassVar[Literal["generate", "stream"]] = "stream"
    model: str
    hook: str
    target: str | None = None
    text: str
    revision: str | None = None
    dtype: Dtype = "float32"
    context: int = Field(128, ge=2)
    text_subset: str | None = None
    text_split: str = "train"
    column: str = "text"
    separator: str | None = None
    """What parts the documents of a .txt file; without it, running text is cut at blank lines, see `sae.text`."""
    packing: Packing = "packed"
    bos: BosAt = "row"
    eos: bool = False
    """Whether documents end with EOS."""
    drop_position_0: bool = True
    n_tokens: int | None = Field(None, gt=0)
    n_heldout_tokens: int | None = Field(None, gt=1)
    heldout_share: float = Field(0.1, gt=0, lt=1)
    exhausted: Literal["error", "repeat"] = "error"
    """Where the text has fewer than `n_tokens`: refuse, or let training go over it again and write down how often."""
    store_dtype: Dtype = "float32"
    shard_tokens: int = Field(2**18, gt=0)
    rows_at_once: int = Field(32, gt=0)
    labels: Path | None = None

    @model_validator(mode="after")
    def _target_is_another(self) -> Config:
        if self.target == self.hook:
            raise ValueError(f"target = {self.target!r} is the hook itself; leave it out for an autoencoder")
        return self

    @property
    def provides(self) -> frozenset[str]:
        here = {
            "model": spliceable(self.target or self.hook),
            "labels": self.labels is not None,
            "targets": self.target is not None,
        }
        return frozenset(name for name, is_here in here.items() if is_here)

    @property
    def hooks(self) -> dict[str, str]:
        """The hook point of each column of vectors that is stored."""
        return {"acts": self.hook} | ({} if self.target is None else {"targets": self.target})

    @property
    def documents(self) -> Text:
        return Text(self.text, self.text_subset, self.text_split, self.column, self.separator)

    def external_files(self) -> dict[str, Path]:
        """Local files alone; what comes from the hub is told apart by `model`, `revision` and `text`."""
        files = {} if self.labels is None else {"labels": self.labels}
        for name, here in (("text", self.documents.local), ("model", is_path(self.model))):
            path = Path(getattr(self, name)).expanduser()
            if here and path.is_dir():
                files |= {f"{name}/{p.relative_to(path)}": p for p in sorted(path.rglob("*")) if p.is_file()}
            elif here:
                files[name] = path
        return files

    def boot(self, device: str) -> Model:
        return Model.boot(self.model, device, self.dtype, self.revision)

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        """Tokenises the text, runs the model over it, and writes ``source.json`` last of all."""
        directory.mkdir(parents=True, exist_ok=True)
        if self._finished(directory / "source.json"):
            return
        labelled = [] if self.labels is None else read_labelled(self.labels)
        model, tokenizer = self.boot(device), self._tokenizer()
        d_in = self._width(model)
        model.check_context(self.context)
        select = Selection.of(tokenizer, self.drop_position_0)
        self._check_room(directory, self.n_tokens or 0, d_in)
        splits = self._write_corpus(directory, tokenizer, select, progress)
        total, done = sum(splits[s]["tokens"] for s in SPLITS), 0
        self._check_room(directory, total, d_in)
        shard_rows = max(1, self.shard_tokens // self.context)
        harvest = Harvest(model, self.hooks, select, self.store_dtype, shard_rows, self.rows_at_once)
        for split in SPLITS:
            corpus = Corpus.open(directory, split, splits[split]["rows"], self.seed)
            splits[split]["shards"] = 0
            for n in harvest.shards(directory, split, corpus):
                done += n
                splits[split]["shards"] += 1
                progress(done, total, "tokens")
        if labelled:
            self._write_labels(directory, labelled, tokenizer, harvest)
        self._record(directory / "source.json", {"d_in": d_in, "splits": splits, **self._facts(model, select, splits)})

    def open(self, directory: Path, device: str) -> Source:
        facts = self._finished(directory / "source.json")
        if not facts:
            raise FileNotFoundError(f"{directory}: the activations are not complete; prepare the source first")
        return Activations(self, directory, facts, device)

    def _width(self, model: Model) -> int:
        """The width of the vectors; a ``ValueError`` where no dictionary can map `hook` to `target`."""
        d_in = model.width(self.hook)
        if self.target is not None:
            try:
                model.check_target(self.hook, self.target)
            except ValueError as error:
                raise ValueError(f"source.target: {error}") from None
        return d_in

    def _tokenizer(self) -> Any:
        tokenizer = load_tokenizer(self.model, self.revision)
        if self.bos != "none" and tokenizer.bos_token_id is None:
            raise ValueError(f"source.bos = {self.bos!r}: the tokenizer of {self.model} has no BOS; use 'none'")
        if self.eos and tokenizer.eos_token_id is None:
            raise ValueError(f"source.eos = true: the tokenizer of {self.model} has no EOS; use false")
        return tokenizer

    def _write_corpus(
        self, directory: Path, tokenizer: Any, select: Selection, progress: Progress
    ) -> dict[str, dict[str, int]]:
        """The rows of tokens of every split; a ``ValueError`` where the text has too little for any of them."""
        finished = self._finished(directory / "rows.json")
        if finished:
            return finished["splits"]
        half = None if self.n_heldout_tokens is None else self.n_heldout_tokens // 2
        wanted: dict[Split, int | None] = {"train": self.n_tokens, "choose": half, "test": half}
        eos = tokenizer.eos_token_id if self.eos else None
        packers: dict[Split, Packer] = {
            s: Packer(self.context, self.packing, self.bos, tokenizer.bos_token_id, eos) for s in SPLITS
        }
        documents = tokenised(self.documents.read(), tokenizer)
        splits = write_corpus(directory, documents, packers, select, wanted, self.seed, self.heldout_share, progress)
        needed = {"train": self.n_tokens if self.exhausted == "error" else None, "choose": half, "test": half}
        for split, n in needed.items():
            if splits[split]["tokens"] < (n or 1):
                field = "n_tokens" if split == "train" else "n_heldout_tokens"
                remedy = "set exhausted = 'repeat'" if split == "train" and n else "change heldout_share"
                raise ValueError(
                    f"source.{field}: the text has {splits[split]['tokens']} tokens for {split!r} where {n or 1} are "
                    f"wanted; give more text, ask for fewer or {remedy}"
                )
        self._record(directory / "rows.json", {"splits": splits})
        return splits

    def _check_room(self, directory: Path, n_vectors: int, d_in: int) -> None:
        """A ``ValueError`` before hours are spent where the disk cannot hold the vectors."""
        needed = n_vectors * d_in * len(self.hooks) * getattr(torch, self.store_dtype).itemsize
        there = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        free = shutil.disk_usage(directory).free
        if needed > free + there:
            raise ValueError(
                f"source.n_tokens: {n_vectors:,} vectors of width {d_in} in {self.store_dtype} take "
                f"{needed / 1e9:,.1f} GB where {free / 1e9:,.1f} are free; ask for fewer or set a smaller store_dtype"
            )

    def _write_labels(self, directory: Path, labelled: list[Labelled], tokenizer: Any, harvest: Harvest) -> None:
        bos = None if self.bos == "none" else tokenizer.bos_token_id
        for split in ("choose", "test"):
            texts = [text for text in labelled if half_of(text, self.seed) == split]
            rows = locate(texts, tokenizer, self.context, bos)
            if len(rows.row) == 0:
                raise ValueError(f"source.labels: {self.labels} has no labelled text for {split!r}; give more texts")
            harvest.labelled(directory / f"labels-{split}.safetensors", rows)

    def _facts(self, model: Model, select: Selection, splits: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """What the activations are, for whoever meets the directory later."""
        unique = splits["train"]["tokens"]
        return {
            "unique_tokens": unique,
            "passes_to_n_tokens": max(1.0, (self.n_tokens or unique) / unique),
            "excluded_token_ids": list(select.special),
            "model_revision": model.revision,
            "processing": PROCESSING,
            "transformer_lens": version("transformer-lens"),
            "transformers": version("transformers"),
        }

    def _record(self, file: Path, content: Mapping[str, Any]) -> None:
        """Writes down that a phase is done, with the settings it was done under; all of it or nothing."""
        partial = file.with_name(file.name + ".partial")
        partial.write_text(json.dumps({**content, "config": self._identity()}, indent=1) + "\n")
        os.replace(partial, file)

    def _finished(self, file: Path) -> dict[str, Any] | None:
        """What a phase wrote down when it was done, if it is."""
        if not file.is_file():
            return None
        content = json.loads(file.read_text())
        if content["config"] != self._identity():
            raise ValueError(f"{file.parent}: it holds a source with other settings; choose another directory")
        return content

    def _identity(self) -> dict[str, Any]:
        """The settings on which the files depend; `rows_at_once` is execution alone."""
        return self.model_dump(mode="json", exclude={"rows_at_once"})


class Activations(Source):
    """Activations on disk; nothing is held in memory but the rows of a batch."""

    def __init__(self, config: Config, directory: Path, facts: Mapping[str, Any], device: str) -> None:
        self.config, self.directory, self.facts, self.device = config, directory, facts, device
        self.d_in = facts["d_in"]
        self.has_targets = config.target is not None
        self.shards: dict[Split, Shards] = {s: self._open(s) for s in SPLITS}
        self.n_rows: Mapping[Split, int | None] = {s: shards.n_rows for s, shards in self.shards.items()}

    def _open(self, split: Split) -> Shards:
        return Shards([shard_file(self.directory, split, k) for k in range(self.facts["splits"][split]["shards"])])

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        shards = self.shards[split]
        if split == "train":
            index = epoch_rows(step, size, shards.n_rows, self.config.seed)
        else:
            index = (step * size + np.arange(size)) % shards.n_rows
        return Batch(shards.rows(index, device=self.device), targets=self._targets(shards, index))

    def _targets(self, shards: Shards, index: NDArray[np.int64]) -> Tensor | None:
        return shards.rows(index, "targets", self.device) if self.has_targets else None

    def labelled(self) -> tuple[Batch, Batch] | None:
        if self.config.labels is None:
            return None
        return self._labelled("choose"), self._labelled("test")

    def _labelled(self, split: Split) -> Batch:
        shards = Shards([self.directory / f"labels-{split}.safetensors"])
        every = np.arange(shards.n_rows)
        names = [name for name in shards.names if name.startswith("label.")]
        labels = {n.removeprefix("label."): shards.rows(every, n, self.device).long() for n in names}
        return Batch(shards.rows(every, device=self.device), labels=labels, targets=self._targets(shards, every))

    def tokens(self, split: Split) -> TokenRows:
        """The rows of tokens that a split's activations come from, in shuffled order: any first part is a sample."""
        rows = self.facts["splits"][split]["rows"]
        corpus = Corpus.open(self.directory, split, rows, self.config.seed)
        select = Selection(tuple(self.facts["excluded_token_ids"]), self.config.drop_position_0)
        return select(corpus.tokens(corpus.shuffled(0, rows)))

    @cached_property
    def _site(self) -> Site:
        boot = partial(self.config.boot, self.device)
        return Site(self.config.hook, self.tokens("test"), boot, self.config.target)

    def model(self) -> Site | None:
        return self._site if "model" in self.config.provides else None
