"""A source of a model's activations: on disk, or without a cache from a stream for the training split."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae.activations.corpus import SPLITS, Corpus
from sae.activations.harvest import shard_file
from sae.activations.shards import Shards
from sae.activations.stream import SEGMENTS, Columns, Stream
from sae.activations.streamed_config import KEPT, NO_LOGITS, NOT_NEXT_TOKEN, StreamedConfig, harvest_of
from sae.activations.window_order import WindowOrder
from sae.model.hook_points import spliceable
from sae.model.hooked import Model
from sae.model.site import Site
from sae.model.token_rows import Select, TokenRows
from sae.numerics.memory import check_memory
from sae.numerics.seeds import derive, epoch_rows
from sae.source import LEFT_OUT, Batch, Source, Split, Truth


@dataclass(frozen=True, eq=False)
class KnownFeatures:
    """The features of a model whose activations are a known function of token and position."""

    truth: Truth
    """The features."""
    codes: Callable[[Int[Tensor, " batch"], Int[Tensor, " batch"]], Float[Tensor, "batch n_features"]]
    """The codes of the given tokens at the given positions."""


class Activations(Source):
    """Activations on disk, of which only the samples of a batch are held in memory; without a cache, those of the
    training split come from a stream."""

    def __init__(
        self,
        config: StreamedConfig,
        directory: Path,
        facts: Mapping[str, Any],
        select: Select,
        boot: Callable[[], Model],
        device: str,
        known: KnownFeatures | None = None,
        tokenizer: Callable[[], Any] | None = None,
    ) -> None:
        self.config, self.directory, self.facts, self.device = config, directory, facts, device
        self.select, self.boot, self.known, self.tokenizer = select, boot, known, tokenizer
        self.d_in = facts["d_in"]
        self.has_targets = config.target is not None
        self.truth = None if known is None else known.truth
        self.computes_ahead = facts["splits"]["train"]["shards"] == 0
        stored: list[Split] = [s for s in SPLITS if s != "train" or not self.computes_ahead]
        self.streams_with: Sequence[Activations] = [self]
        self.shards: dict[Split, Shards] = {s: self._open(s) for s in stored}
        self.n_rows: Mapping[Split, int | None] = {s: facts["splits"][s]["tokens"] for s in SPLITS}
        about_norms = facts.get(LEFT_OUT, {})
        self.norm_limit, self.left_out = about_norms.get("norm_limit"), about_norms.get("rows", {})

    def _open(self, split: Split) -> Shards:
        return Shards([shard_file(self.directory, split, k) for k in range(self.facts["splits"][split]["shards"])])

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        if split not in self.shards:
            return self._streamed(step * size, (step + 1) * size)
        shards = self.shards[split]
        if split == "train":
            index = epoch_rows(step, size, shards.n_rows, self.config.seed)
        else:
            index = (step * size + np.arange(size)) % shards.n_rows
        acts = shards.rows(index, device=self.device)
        return Batch(acts, self._codes(shards, index), targets=self._targets(shards, index))

    def _streamed(self, begin: int, end: int) -> Batch:
        columns = self.columns_of(self.stream.take(begin, end))
        codes = None if self.known is None else self.known.codes(columns["token"].long(), columns["position"].long())
        targets = columns["targets"].float() if self.has_targets else None
        return Batch(columns["acts"].float(), codes, targets=targets)

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
        corpus = self._corpus(split)
        return self.select(corpus.tokens(corpus.shuffled(0, len(corpus))))

    def _corpus(self, split: Split) -> Corpus:
        return Corpus.open(self.directory, split, self.facts["splits"][split]["rows"], self.config.seed)

    @cached_property
    def order(self) -> WindowOrder:
        """The order of the training samples of a source that is not cached."""
        shards = Shards([self.directory / KEPT])
        kept = shards.rows(np.arange(shards.n_rows), "kept").long().numpy()
        rows_per_window = max(1, self.config.window_tokens // self._corpus("train").width)
        return WindowOrder(kept, rows_per_window, derive("stream", self.config.seed))

    @property
    def stream(self) -> Stream:
        """The training activations of a source that is not cached, and of those that share its model's passes. Raises
        `UserError` if memory cannot hold them."""
        return self.streams_with[0]._stream

    @cached_property
    def _stream(self) -> Stream:
        corpus, sources = self._corpus("train"), self.streams_with
        check_memory(f"source.window_tokens = {self.config.window_tokens}", self._memory, self.device)
        harvest = harvest_of([source.config for source in sources], self.boot(), self.select, corpus.width)

        def compute(rows: NDArray[np.int64]) -> Iterator[Columns]:
            for part in corpus.tokens(rows).split(self.config.rows_at_once):
                kept = self.select(part).kept
                [vectors] = harvest.pieces(part, kept)
                known = {} if self.known is None else {"token": part[kept], "position": kept.nonzero()[:, 1].int()}
                yield {f"{i}.{name}": acts for i, each in enumerate(vectors) for name, acts in each.items()} | known

        def empty(n: int) -> Columns:
            names = () if self.known is None else ("token", "position")
            columns = {name: torch.empty(n, dtype=torch.int32, device=self.device) for name in names}
            for i, source in enumerate(sources):
                for name in source.config.hooks:
                    dtype = getattr(torch, source.config.store_dtype)
                    columns[f"{i}.{name}"] = torch.empty(n, source.d_in, dtype=dtype, device=self.device)
            return columns

        return Stream(self.order, compute, empty, self.device, self.processes, self.config.rows_at_once)

    def columns_of(self, streamed: Columns) -> dict[str, Tensor]:
        """The columns of this source among those of its stream."""
        own = f"{self.streams_with.index(self)}."
        return {name.removeprefix(own): c for name, c in streamed.items() if name.startswith(own) or "." not in name}

    @contextmanager
    def reading(self, n_samples: int) -> Generator[None]:
        if not self.computes_ahead:
            yield
            return
        owner = self.streams_with[0]
        owner.stream.end = n_samples
        try:
            yield
        finally:
            if "_stream" in vars(owner):
                owner.stream.close()
                del owner._stream

    def forecast(self, n_samples: int) -> str:
        if not self.computes_ahead:
            return ""
        sources = len(self.streams_with)
        hooks = self.config.hook if sources == 1 else f"{sources} hook points in one pass"
        return (
            f"{hooks}: the model runs over {n_samples:,} tokens while training reads them, "
            f"{n_samples / self.order.n_samples:.1f} times the text; they take {self._memory / 1e9:.2g} GB of memory"
        )

    @property
    def _memory(self) -> int:
        """The most bytes of activations that the stream holds at once, for each of several processes about its
        share."""
        largest = max(self.order.segment_size(segment) for segment in range(self.order.n_windows + 1))
        largest = -(-largest // self.processes.size)
        return SEGMENTS * largest * sum(source.config.bytes_each(source.d_in) for source in self.streams_with)

    def figures(self) -> Mapping[str, float]:
        owner = self.streams_with[0]
        return owner.stream.figures() if "_stream" in vars(owner) else {}

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


def share_stream(sources: Sequence[Activations]) -> None:
    """Makes sources that differ in their hook points only share one stream, so that the model runs once for all."""
    for source in sources:
        source.streams_with = sources
