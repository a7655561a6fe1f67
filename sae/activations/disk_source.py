"""Sources of a model's activations, stored on disk.

Preparing one writes rows of tokens, then shuffled shards of activations, and last a file that marks it as complete. An
interrupted preparation continues where it stopped and writes the same bytes.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from sae.activations.corpus import SPLITS, Corpus
from sae.activations.harvest import Harvest, shard_file
from sae.activations.shards import Shards
from sae.model.hook_points import spliceable
from sae.model.hooked import Dtype, Model, Site
from sae.model.token_rows import Select, TokenRows
from sae.numerics.atomic_write import write_atomically
from sae.numerics.seeds import epoch_rows
from sae.registry import MissingFileError, UserError
from sae.source import LEFT_OUT, Batch, Progress, Source, SourceConfig, Split, Truth

NO_LOGITS = "no_logits"
"""The entry of ``source.json`` with the reason why the model's logits do not predict the next token, if so."""
NOT_NEXT_TOKEN = "the model's logits do not predict the next token"
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
    def hooks(self) -> dict[str, str]:
        """The hook point of each stored column of activations."""
        return {"acts": self.hook} | ({} if self.target is None else {"targets": self.target})

    def harvest(
        self, directory: Path, harvest: Harvest, splits: Mapping[str, Mapping[str, int]], progress: Progress
    ) -> Splits:
        """Writes the missing shards of every split; returns `splits` with the number of shards of each.

        Raises `UserError` if the disk has no room for them.
        """
        self.check_room(directory, sum(splits[s]["tokens"] for s in SPLITS), self.width(harvest.model))
        total, done, with_shards = sum(splits[s]["tokens"] for s in SPLITS), 0, Splits()
        progress(0, total, "tokens")
        for split in SPLITS:
            corpus = Corpus.open(directory, split, splits[split]["rows"], self.seed)
            with_shards[split] = {**splits[split], "shards": 0}
            stored = 0
            for n in harvest.shards(directory, split, corpus):
                done, stored = done + n, stored + n
                with_shards[split]["shards"] += 1
                progress(done, total, "tokens")
            if harvest.norm_limit is not None:
                left_out = splits[split]["tokens"] - stored
                with_shards[split] |= {"tokens": stored, LEFT_OUT: left_out}
        return with_shards

    def width(self, model: Model) -> int:
        """The width of the activations. Raises `UserError` if no dictionary can map `hook` to `target`."""
        d_in = model.width(self.hook)
        if self.target is not None:
            try:
                model.check_target(self.hook, self.target)
            except UserError as error:
                raise UserError(f"source.target: {error}") from None
        return d_in

    def check_room(self, directory: Path, n_vectors: int, d_in: int) -> None:
        """Raises `UserError` if the disk cannot hold the activations."""
        needed = n_vectors * d_in * len(self.hooks) * getattr(torch, self.store_dtype).itemsize
        written = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        free = shutil.disk_usage(directory).free
        if needed > free + written:
            raise UserError(
                f"source.{self.size}: {n_vectors:,} activations of width {d_in} in {self.store_dtype} need "
                f"{needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB free; ask for fewer or set a smaller store_dtype"
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


@contextmanager
def without_refused_rows(directory: Path) -> Generator[None]:
    """After a refusal of the text, removes the rows of tokens that were written: the corrected config has another
    folder, and the same one would write them again."""
    try:
        yield
    except UserError:
        if not (directory / "rows.json").is_file():
            for rows in directory.glob("rows-*.safetensors"):
                rows.unlink()
        raise


def model_versions() -> dict[str, str]:
    """The versions of the packages that run the models."""
    return {name.replace("-", "_"): version(name) for name in ("transformer-lens", "transformers")}


@dataclass(frozen=True, eq=False)
class KnownFeatures:
    """The features of a model whose activations are a known function of token and position."""

    truth: Truth
    """The features."""
    codes: Callable[[Int[Tensor, " batch"], Int[Tensor, " batch"]], Float[Tensor, "batch n_features"]]
    """The codes of the given tokens at the given positions."""


class Activations(Source):
    """Activations on disk; only the samples of a batch are held in memory."""

    def __init__(
        self,
        config: StreamedConfig,
        directory: Path,
        facts: Mapping[str, Any],
        select: Select,
        boot: Callable[[], Model],
        device: str,
        known: KnownFeatures | None = None,
    ) -> None:
        self.config, self.directory, self.facts, self.device = config, directory, facts, device
        self.select, self.boot, self.known = select, boot, known
        self.d_in = facts["d_in"]
        self.has_targets = config.target is not None
        self.truth = None if known is None else known.truth
        self.shards: dict[Split, Shards] = {s: self._open(s) for s in SPLITS}
        self.n_rows: Mapping[Split, int | None] = {s: shards.n_rows for s, shards in self.shards.items()}
        about_norms = facts.get(LEFT_OUT, {})
        self.norm_limit, self.left_out = about_norms.get("norm_limit"), about_norms.get("rows", {})

    def _open(self, split: Split) -> Shards:
        return Shards([shard_file(self.directory, split, k) for k in range(self.facts["splits"][split]["shards"])])

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        shards = self.shards[split]
        if split == "train":
            index = epoch_rows(step, size, shards.n_rows, self.config.seed)
        else:
            index = (step * size + np.arange(size)) % shards.n_rows
        acts = shards.rows(index, device=self.device)
        return Batch(acts, self._codes(shards, index), targets=self._targets(shards, index))

    def _codes(self, shards: Shards, index: NDArray[np.int64]) -> Tensor | None:
        if self.known is None:
            return None
        return self.known.codes(*(shards.rows(index, name, self.device).long() for name in ("token", "position")))

    def _targets(self, shards: Shards, index: NDArray[np.int64]) -> Tensor | None:
        return shards.rows(index, "targets", self.device) if self.has_targets else None

    def labelled(self) -> tuple[Batch, Batch] | None:
        if not self.config.has_labels():
            return None
        return self._labelled("choose"), self._labelled("test")

    def _labelled(self, split: Split) -> Batch:
        shards = Shards([self.directory / f"labels-{split}.safetensors"])
        index = np.arange(shards.n_rows)
        names = [name for name in shards.names if name.startswith("label.")]
        labels = {n.removeprefix("label."): shards.rows(index, n, self.device).long() for n in names}
        return Batch(shards.rows(index, device=self.device), labels=labels, targets=self._targets(shards, index))

    def tokens(self, split: Split) -> TokenRows:
        """The rows of tokens of a split, in shuffled order, so that the first rows are a random sample."""
        rows = self.facts["splits"][split]["rows"]
        corpus = Corpus.open(self.directory, split, rows, self.config.seed)
        return self.select(corpus.tokens(corpus.shuffled(0, rows)))

    @cached_property
    def _site(self) -> Site:
        return Site(self.config.hook, self.tokens("test"), self.boot, self.config.target, self.norm_limit)

    def model(self) -> Site | None:
        return None if self.no_model else self._site

    @property
    def no_model(self) -> str | None:
        """Why there is no :meth:`model` to splice a dictionary into; None if there is one."""
        target = self.config.target or self.config.hook
        if not spliceable(target):
            return f"an edit at {target} would not reach the model's residual stream"
        if NO_LOGITS in self.facts:
            return f"{NOT_NEXT_TOKEN}: {self.facts[NO_LOGITS]}"
        return None if "model" in self.config.provides else NOT_NEXT_TOKEN
