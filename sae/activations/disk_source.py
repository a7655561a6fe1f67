"""Sources that a model is run for: rows of tokens first, then shuffled shards of activations, and last one file that
says that all is there. What is finished is never done again, and an interrupted source ends on the same bytes."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
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
from sae.model.hooked import Dtype, Model, Site, spliceable
from sae.model.token_rows import Select, TokenRows
from sae.numerics.atomic_write import write_atomically
from sae.numerics.seeds import epoch_rows
from sae.registry import MissingFileError, UserError
from sae.source import Batch, Progress, Source, SourceConfig, Split, Truth

Splits = dict[str, dict[str, int]]
"""How many rows, tokens (those that count) and, once harvested, shards each split has."""


class StreamedConfig(SourceConfig, ABC):
    """Settings of such a source. `hook` is any hook point of the model in TransformerLens' names; `target` is another
    one of the same width, behind `hook`, whose activations dictionaries are to give back: a transcoder, e.g. from
    ``blocks.2.mlp.hook_in`` to ``blocks.2.mlp.hook_out`` (None: those at `hook` itself).
    """

    stage: ClassVar[Literal["generate", "stream"]] = "stream"
    size: ClassVar[str] = "n_tokens"
    """The setting that says how many vectors there are."""
    hook: str
    target: str | None = None
    store_dtype: Dtype = "float32"
    shard_tokens: int = Field(2**18, gt=0)
    rows_at_once: int = Field(32, gt=0)

    @model_validator(mode="after")
    def _target_is_another(self) -> StreamedConfig:
        if self.target == self.hook:
            raise UserError(f"target = {self.target!r} is the hook itself; leave it out for an autoencoder")
        return self

    @abstractmethod
    def has_labels(self) -> bool:
        """Whether probes have something to read."""

    @property
    def provides(self) -> frozenset[str]:
        here = {
            "model": spliceable(self.target or self.hook),
            "labels": self.has_labels(),
            "targets": self.target is not None,
        }
        return frozenset(name for name, is_here in here.items() if is_here)

    @property
    def hooks(self) -> dict[str, str]:
        """The hook point of each column of vectors that is stored."""
        return {"acts": self.hook} | ({} if self.target is None else {"targets": self.target})

    def harvest(
        self, directory: Path, harvest: Harvest, splits: Mapping[str, Mapping[str, int]], progress: Progress
    ) -> Splits:
        """Runs the model over the rows of every split that is not in shards yet; the splits, with their shards."""
        self.check_room(directory, sum(splits[s]["tokens"] for s in SPLITS), self.width(harvest.model))
        total, done, found = sum(splits[s]["tokens"] for s in SPLITS), 0, Splits()
        for split in SPLITS:
            corpus = Corpus.open(directory, split, splits[split]["rows"], self.seed)
            found[split] = {**splits[split], "shards": 0}
            for n in harvest.shards(directory, split, corpus):
                done += n
                found[split]["shards"] += 1
                progress(done, total, "tokens")
        return found

    def width(self, model: Model) -> int:
        """The width of the vectors; a ``ValueError`` where no dictionary can map `hook` to `target`."""
        d_in = model.width(self.hook)
        if self.target is not None:
            try:
                model.check_target(self.hook, self.target)
            except ValueError as error:
                raise UserError(f"source.target: {error}") from None
        return d_in

    def check_room(self, directory: Path, n_vectors: int, d_in: int) -> None:
        """A ``ValueError`` before hours are spent where the disk cannot hold the vectors."""
        needed = n_vectors * d_in * len(self.hooks) * getattr(torch, self.store_dtype).itemsize
        there = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        free = shutil.disk_usage(directory).free
        if needed > free + there:
            raise UserError(
                f"source.{self.size}: {n_vectors:,} vectors of width {d_in} in {self.store_dtype} take "
                f"{needed / 1e9:,.1f} GB where {free / 1e9:,.1f} are free; ask for fewer or set a smaller store_dtype"
            )

    def record(self, file: Path, content: Mapping[str, Any]) -> None:
        """Writes down that a phase is done, with the settings it was done under; all of it or nothing."""
        write_atomically(file, (json.dumps({**content, "config": self.identity()}, indent=1) + "\n").encode())

    def finished(self, file: Path) -> dict[str, Any] | None:
        """What a phase wrote down when it was done, if it is."""
        if not file.is_file():
            return None
        content = json.loads(file.read_text())
        if content["config"] != self.identity():
            raise UserError(f"{file.parent}: it holds a source with other settings; choose another directory")
        return content

    def complete(self, directory: Path) -> dict[str, Any]:
        """What stands in ``source.json``; a ``FileNotFoundError`` where it is not written yet."""
        facts = self.finished(directory / "source.json")
        if not facts:
            raise MissingFileError(f"{directory}: the activations are not complete; prepare the source first")
        return facts

    def identity(self) -> dict[str, Any]:
        """The settings on which the files depend; `rows_at_once` is execution alone."""
        return self.model_dump(mode="json", exclude={"rows_at_once"})


def model_versions() -> dict[str, str]:
    """Of what runs the models."""
    return {name.replace("-", "_"): version(name) for name in ("transformer-lens", "transformers")}


@dataclass(frozen=True, eq=False)
class Known:
    """Known features of activations: the truth, and the codes that tokens and their positions make."""

    truth: Truth
    codes: Callable[[Int[Tensor, " batch"], Int[Tensor, " batch"]], Float[Tensor, "batch n_features"]]


class Activations(Source):
    """Activations on disk; nothing is held in memory but the rows of a batch."""

    def __init__(
        self,
        config: StreamedConfig,
        directory: Path,
        facts: Mapping[str, Any],
        select: Select,
        boot: Callable[[], Model],
        device: str,
        known: Known | None = None,
    ) -> None:
        self.config, self.directory, self.facts, self.device = config, directory, facts, device
        self.select, self.boot, self.known = select, boot, known
        self.d_in = facts["d_in"]
        self.has_targets = config.target is not None
        self.truth = None if known is None else known.truth
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
        every = np.arange(shards.n_rows)
        names = [name for name in shards.names if name.startswith("label.")]
        labels = {n.removeprefix("label."): shards.rows(every, n, self.device).long() for n in names}
        return Batch(shards.rows(every, device=self.device), labels=labels, targets=self._targets(shards, every))

    def tokens(self, split: Split) -> TokenRows:
        """The rows of tokens that a split's activations come from, in shuffled order: any first part is a sample."""
        rows = self.facts["splits"][split]["rows"]
        corpus = Corpus.open(self.directory, split, rows, self.config.seed)
        return self.select(corpus.tokens(corpus.shuffled(0, rows)))

    @cached_property
    def _site(self) -> Site:
        return Site(self.config.hook, self.tokens("test"), self.boot, self.config.target)

    def model(self) -> Site | None:
        return self._site if "model" in self.config.provides else None
