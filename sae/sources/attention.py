"""Activations of a small attention-only transformer that is trained, here and now, on an algorithmic task.

The model is read by the path of any other: TransformerLens' Bridge, rows of tokens, shuffled shards, splices that
measure its loss. Tasks: :mod:`sae.toys.attention.addition`, ``skip_trigram``, ``recent``, ``repeats``; the model and
its
equations: :mod:`sae.toys.attention.network`. Before attention the features are known, one a token and one a position
(:mod:`sae.toys.attention.embedding`); behind it what is known are labels, the task's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor

from sae.activations.corpus import SPLITS, Corpus, write_rows
from sae.activations.disk_source import Activations, Known, StreamedConfig, model_versions
from sae.activations.harvest import Harvest
from sae.activations.labels import LabelledRows
from sae.model.hooked import Model
from sae.model.token_rows import NOTHING, TokenRows
from sae.registry import UserError
from sae.source import Progress, Source, Split
from sae.toys.attention.embedding import Embedding, groups_at
from sae.toys.attention.network import AttentionModelConfig
from sae.toys.attention.saved import AnyTask, load_toy, train_toy
from sae.toys.attention.task import TokenTask, defined
from sae.toys.attention.training import AttentionTrainingConfig

Positions = Literal["answers", "all"]


class Config(StreamedConfig):
    """Settings. Activations are those of `n_rows` rows of tokens, and of `n_heldout_rows` that neither model nor
    dictionary sees, half to choose on and half to score on; at the positions with ``answers``, or at ``all`` but BOS.
    `labels` names those of the task that are probed (None: all)."""

    kind: Literal["attention"] = "attention"
    size: ClassVar[str] = "n_rows"
    task: AnyTask
    model: AttentionModelConfig
    training: AttentionTrainingConfig = AttentionTrainingConfig()
    n_rows: int = Field(10_000, gt=0)
    n_heldout_rows: int = Field(2_000, gt=1)
    positions: Positions = "answers"
    labels: tuple[str, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _possible(self) -> Config:
        for split, n in self._sizes().items():
            limit = self.task.limit(split)
            if limit is not None and n > limit:
                field, given = ("n_rows", n) if split == "train" else ("n_heldout_rows", self.n_heldout_rows)
                raise UserError(f"{field} = {given}: the task has {limit} rows for {split!r} where {n} are wanted")
        known = self.task.labels(self.task.batch(0, "choose", 0, 1))
        unknown = [name for name in self.labels or () if name not in known]
        if unknown:
            raise UserError(f"labels: {unknown[0]!r} is no label of {self.task.kind!r}; it has {', '.join(known)}")
        return self

    def has_labels(self) -> bool:
        return not groups_at(self.hook)

    @property
    def provides(self) -> frozenset[str]:
        known = {"truth", "codes"} if groups_at(self.hook) and self.target is None else set[str]()
        return super().provides | known

    @property
    def select(self) -> AnswerPositions:
        return AnswerPositions(self.task, self.positions)

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        """Trains the model, draws rows, runs the model over them, and writes ``source.json`` last of all."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.finished(directory / "source.json"):
            return
        self._check_identity(directory)
        train_toy(directory, self.task, self.model, self.training, self.seed, progress, device)
        toy = load_toy(directory, device)
        d_in = self.width(toy.model)
        rows: dict[Split, Tensor] = {s: self.task.batch(self.seed, s, 0, n) for s, n in self._sizes().items()}
        splits = {s: {"rows": len(r), "tokens": int(self.select(r).kept.sum())} for s, r in rows.items()}
        for split in SPLITS:
            write_rows(directory, split, rows[split])
        shard_rows = max(1, self.shard_tokens // self.task.n_tokens)
        harvest = Harvest(toy.model, self.hooks, self.select, self.store_dtype, shard_rows, self.rows_at_once)
        splits = self.harvest(directory, harvest, splits, progress)
        if self.has_labels():
            self._write_labels(directory, rows, harvest)
        facts = {"d_in": d_in, "splits": splits, "model_scores": dict(toy.scores), **model_versions()}
        self.record(directory / "source.json", facts)

    def open(self, directory: Path, device: str) -> Source:
        facts = self.complete(directory)
        known = self._known(directory, facts, device) if "truth" in self.provides else None
        return Activations(self, directory, facts, self.select, partial(_model, directory, device), device, known)

    def _sizes(self) -> dict[Split, int]:
        half = self.n_heldout_rows // 2
        return {"train": self.n_rows, "choose": half, "test": self.n_heldout_rows - half}

    def _check_identity(self, directory: Path) -> None:
        """Marks the directory as this source's before the model is trained; a ``ValueError`` where it is another's."""
        if not self.finished(directory / "begun.json"):
            self.record(directory / "begun.json", {})

    def _write_labels(self, directory: Path, rows: Mapping[Split, Tensor], harvest: Harvest) -> None:
        for split in ("choose", "test"):
            labels = self.task.labels(rows[split])
            at = defined(labels) & self.select(rows[split]).kept
            row, position = (index.int() for index in at.nonzero(as_tuple=True))
            names = self.labels or tuple(labels)
            columns = {name: labels[name][at].int() for name in names}
            found = LabelledRows(rows[split].int(), row, position, columns)
            harvest.labelled(directory / f"labels-{split}.safetensors", found)

    def _known(self, directory: Path, facts: Mapping[str, Any], device: str) -> Known:
        """The features of the embeddings, with their shares among the training vectors."""
        network, n = load_toy(directory).network, facts["splits"]["train"]["rows"]
        tokens = Corpus.open(directory, "train", n, self.seed).tokens(np.arange(n)).long()
        kept = self.select(tokens).kept
        here = {"token": tokens[kept], "position": kept.nonzero()[:, 1]}
        tables = {"token": network.W_E, "position": network.W_pos}
        groups = groups_at(self.hook)
        shares = {g: here[g].bincount(minlength=len(tables[g])) / len(here[g]) for g in groups}
        embedding = Embedding({g: tables[g] for g in groups}, shares, device)
        return Known(embedding.truth, embedding.codes)


@dataclass(frozen=True)
class AnswerPositions:
    """Makes rows for the model of a task's rows of tokens, with the answers that are asked for."""

    task: TokenTask
    positions: Positions

    def __call__(self, tokens: Int[Tensor, "rows n_tokens"]) -> TokenRows:
        tokens = tokens.long()
        answers = self.task.answers(tokens)
        every = torch.ones_like(tokens, dtype=torch.bool)
        said = every if self.task.bos is None else tokens != self.task.bos
        return TokenRows(tokens, every, answers != NOTHING if self.positions == "answers" else said, answers)


def _model(directory: Path, device: str) -> Model:
    return load_toy(directory, device).model
