"""Settings of sources of a model's activations, and how they are prepared.

Preparing one writes rows of tokens, then shuffled shards of activations, and last a file that marks it as complete. An
interrupted preparation continues where it stopped and writes the same bytes. Held-out activations are always written to
disk; without a cache those of the training split are not.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor

from sae.activations.corpus import ROWS_PER_FILE, SPLITS, Corpus
from sae.activations.corpus_state import STATE
from sae.activations.harvest import Harvest
from sae.activations.shards import write_shard
from sae.model.hook_points import spliceable
from sae.model.hooked import Dtype, Model
from sae.model.token_rows import Select
from sae.numerics.atomic_write import write_atomically
from sae.registry import MissingFileError, UserError
from sae.source import LEFT_OUT, Progress, SourceConfig

NO_LOGITS = "no_logits"
"""The entry of ``source.json`` with the reason why the model's logits do not predict the next token, if so."""
NOT_NEXT_TOKEN = "the model's logits do not predict the next token"
AUTO_BYTES = 20e9
"""With ``cache = "auto"``, the bytes of activations above which those of the training split are not written to disk."""
KEPT = "kept-train.safetensors"
"""File with the number of kept activations in each row of the training split, of a source that is not cached."""
Splits = dict[str, dict[str, int]]
"""The number of rows, counted tokens and, once the model has been run, shards of each split."""


class StreamedConfig(SourceConfig, ABC):
    """Settings of a source of a model's activations."""

    stage: ClassVar[Literal["generate", "stream"]] = "stream"
    size: ClassVar[str] = "n_tokens"
    """The name of the setting that determines the number of activations."""
    hook: str
    """The hook point whose activations dictionaries encode, in TransformerLens' names."""
    target: str | None = None
    """The hook point whose activations dictionaries reconstruct, of the same width and later in the forward pass. For
    example ``blocks.2.mlp.hook_out`` for a transcoder from ``blocks.2.mlp.hook_in``. Default: `hook` itself."""
    store_dtype: Dtype = "float32"
    """The type in which activations are stored; they are read as float32."""
    shard_tokens: int = Field(2**18, gt=0)
    """The approximate number of tokens per shard."""
    rows_at_once: int = Field(32, gt=0)
    """The number of rows of tokens per forward pass."""
    cache: Literal["disk", "none", "auto"] = "disk"
    """Where training activations are kept: all on ``disk``; in memory while training reads them (``none``), so that the
    model is run again in every pass over the text; ``auto``: on disk up to 20 GB, otherwise nowhere."""
    window_tokens: int = Field(2**18, gt=1)
    """Without a cache, the approximate number of tokens whose activations are shuffled at once; those of three such
    windows are in memory."""
    later: ClassVar[frozenset[str]] = frozenset({"cache", "window_tokens"})

    @model_validator(mode="after")
    def _target_is_another(self) -> StreamedConfig:
        if self.target == self.hook:
            raise UserError(f"target = {self.target!r}: it is the same as hook; leave it out for an autoencoder")
        return self

    @abstractmethod
    def has_labels(self) -> bool:
        """Whether the source has labels for probes."""

    @property
    def provides(self) -> frozenset[str]:
        available = {
            "model": spliceable(self.target or self.hook),
            "labels": self.has_labels(),
            "targets": self.target is not None,
        }
        return frozenset(name for name, is_available in available.items() if is_available)

    @property
    def fused(self) -> bool:
        """Whether attention may be computed by a fused kernel."""
        return False

    @property
    def read_together(self) -> bool:
        return bool(self.together) and self.cache != "disk"

    @property
    def hooks(self) -> dict[str, str]:
        """The hook point of each stored column of activations."""
        return {"acts": self.hook} | ({} if self.target is None else {"targets": self.target})

    @staticmethod
    def harvest(
        sources: Sequence[tuple[StreamedConfig, Path]],
        model: Model,
        select: Select,
        splits: Mapping[str, Mapping[str, int]],
        progress: Progress,
        norm_limit: float | None = None,
    ) -> list[Splits]:
        """Writes the missing shards of sources that differ in their hook points only, each into its directory; returns
        `splits` with the number of shards of each, for every source.

        The rows of tokens are there already. A source without a cache has no shards of the training split. With a
        `norm_limit` there is one source, and activations of a greater norm are left out and counted. Raises `UserError`
        if the disk has no room for them.
        """
        n_train, n_heldout = splits["train"]["tokens"], splits["choose"]["tokens"] + splits["test"]["tokens"]
        cached: list[tuple[StreamedConfig, Path]] = []
        for config, where in sources:
            d_in = config.width(model)
            if config.is_cached(n_train, d_in):
                cached.append((config, where))
            config.check_room(where, n_heldout + (n_train if (config, where) in cached else 0), d_in)
        total, done = n_heldout + (n_train if cached else 0), 0
        counts = [{split: {**splits[split], "shards": 0} for split in SPLITS} for _ in sources]
        progress(0, total, "tokens")
        for split in SPLITS:
            corpus = Corpus.open(sources[0][1], split, splits[split]["rows"], sources[0][0].seed)
            stored = cached if split == "train" else sources
            if len(stored) < len(sources):
                kept = _kept_per_row(corpus, select)
                for _, where in (pair for pair in sources if pair not in stored):
                    write_shard(where / KEPT, {"kept": kept})
            if not stored:
                continue
            harvest = harvest_of([config for config, _ in stored], model, select, corpus.width, norm_limit)
            n_stored = 0
            for n in harvest.shards([where for _, where in stored], split, corpus):
                done, n_stored = done + n, n_stored + n
                for pair, count in zip(sources, counts, strict=True):
                    count[split]["shards"] += pair in stored
                progress(done, total, "tokens")
            if norm_limit is not None:
                counts[0][split] |= {"tokens": n_stored, LEFT_OUT: splits[split]["tokens"] - n_stored}
        return counts

    def width(self, model: Model) -> int:
        """The width of the activations. Raises `UserError` if no dictionary can map `hook` to `target`."""
        d_in = model.width(self.hook)
        if self.target is not None:
            try:
                model.check_target(self.hook, self.target)
            except UserError as error:
                raise UserError(f"source.target: {error}") from None
        return d_in

    def storage(self, splits: Splits) -> dict[str, str]:
        """The entry of ``source.json`` that says where training activations are; none where it is the default."""
        return {} if self.cache == "disk" else {"cache": "disk" if splits["train"]["shards"] else "none"}

    def is_cached(self, n_vectors: int, d_in: int) -> bool:
        """Whether so many training activations are written to disk."""
        return self.cache == "disk" or (self.cache == "auto" and n_vectors * self.bytes_each(d_in) <= AUTO_BYTES)

    def bytes_each(self, d_in: int) -> int:
        """The bytes of one activation, with its target."""
        return d_in * len(self.hooks) * getattr(torch, self.store_dtype).itemsize

    def check_room(self, directory: Path, n_vectors: int, d_in: int) -> None:
        """Raises `UserError` if the disk cannot hold the activations."""
        needed = n_vectors * self.bytes_each(d_in)
        written = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        free = shutil.disk_usage(directory).free
        if needed > free + written:
            raise UserError(
                f"source.{self.size}: {n_vectors:,} activations of width {d_in} in {self.store_dtype} need "
                f"{needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB free; ask for fewer, set a smaller store_dtype, or "
                "cache = 'none' to keep none of those for training"
            )

    def record(self, file: Path, content: Mapping[str, Any]) -> None:
        """Marks a phase as done by writing a JSON file with `content` and the settings, atomically."""
        write_atomically(file, (json.dumps({**content, "config": self.identity()}, indent=1) + "\n").encode())

    def finished(self, file: Path) -> dict[str, Any] | None:
        """The content that :meth:`record` wrote when the phase was done; None if it is not done.

        Raises `UserError` if the phase was done with other settings.
        """
        if not file.is_file():
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["config"] != self.identity():
            raise UserError(f"{file.parent}: contains a source with other settings; choose another directory")
        return content

    def complete(self, directory: Path) -> dict[str, Any]:
        """The content of ``source.json``. Raises `MissingFileError` if the source is not complete."""
        facts = self.finished(directory / "source.json")
        if not facts:
            raise MissingFileError(f"{directory}: the activations are not complete; prepare the source first")
        return facts

    def identity(self) -> dict[str, Any]:
        """The settings on which the files depend; `rows_at_once` affects only execution."""
        return self.model_dump(mode="json", exclude={"rows_at_once"})


def harvest_of(
    sources: Sequence[StreamedConfig], model: Model, select: Select, n_tokens: int, norm_limit: float | None = None
) -> Harvest:
    """Collects the activations of `model` on rows of `n_tokens` tokens for sources that differ in their hook points."""
    first = sources[0]
    shard_rows = max(1, first.shard_tokens // n_tokens)
    hooks = [source.hooks for source in sources]
    return Harvest(model, hooks, select, first.store_dtype, shard_rows, first.rows_at_once, first.fused, norm_limit)


def _kept_per_row(corpus: Corpus, select: Select) -> Int[Tensor, " rows"]:
    """The number of kept positions in each row of a corpus."""
    rows = torch.arange(len(corpus)).split(ROWS_PER_FILE)
    return torch.cat([select(corpus.tokens(part.numpy())).kept.sum(1).int() for part in rows])


@contextmanager
def without_refused_rows(directories: Sequence[Path]) -> Generator[None]:
    """After a refusal of the text, removes the rows of tokens that were written: the corrected config has other
    folders, and the same one would write them again, unless a state is kept from which it goes on."""
    try:
        yield
    except UserError:
        for directory in directories:
            if not any((directory / name).is_file() for name in ("rows.json", STATE)):
                for rows in directory.glob("rows-*.safetensors"):
                    rows.unlink()
        raise


def model_versions() -> dict[str, str]:
    """The versions of the packages that run the models."""
    return {name.replace("-", "_"): version(name) for name in ("transformer-lens", "transformers")}
