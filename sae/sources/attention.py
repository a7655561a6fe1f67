"""Activations of a small attention-only transformer, trained on an algorithmic task when the source is prepared.

The model is used like any other: through TransformerLens' Bridge, with rows of tokens, shuffled shards and splices.
Tasks: :mod:`sae.toys.attention.addition`, ``skip_trigram``, ``recent``, ``repeats``, ``names``. The model and its
equations: :mod:`sae.toys.attention.network`. Before attention the features are known, one per token and one per
position (:mod:`sae.toys.attention.embedding`); after it there are the labels of the task.
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
from sae.activations.disk_source import Activations, KnownFeatures
from sae.activations.harvest import Harvest
from sae.activations.labels import LabelledRows
from sae.activations.streamed_config import StreamedConfig, harvest_of, model_versions
from sae.model.hooked import Model
from sae.model.token_rows import NOTHING, TokenRows
from sae.numerics.memory import check_memory
from sae.registry import UserError
from sae.source import Progress, Source, Split
from sae.toys.attention.embedding import Embedding, groups_at
from sae.toys.attention.network import AttentionModelConfig
from sae.toys.attention.saved import AnyTask, load_toy, train_toy
from sae.toys.attention.task import TokenTask, defined
from sae.toys.attention.training import AttentionTrainingConfig

Positions = Literal["answers", "all"]


class Config(StreamedConfig):
    """Settings of a source of a toy transformer's activations."""

    kind: Literal["attention"] = "attention"
    size: ClassVar[str] = "n_rows"
    task: AnyTask
    """The task that the model is trained on."""
    model: AttentionModelConfig
    """The size and form of the model."""
    training: AttentionTrainingConfig = AttentionTrainingConfig()
    """How the model is trained."""
    n_rows: int = Field(10_000, gt=0)
    """The number of rows of tokens whose activations are used for training dictionaries."""
    n_heldout_rows: int = Field(2_000, gt=1)
    """The number of held-out rows, half for validation and half for testing; the model is not trained on them."""
    positions: Positions = "answers"
    """The positions whose activations are used: those with ``answers``, or ``all`` but BOS."""
    labels: tuple[str, ...] | None = Field(None, min_length=1)
    """The labels of the task to probe; default: all."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        for split, n in self._sizes().items():
            limit = self.task.limit(split)
            if limit is not None and n > limit:
                field, value = ("n_rows", n) if split == "train" else ("n_heldout_rows", self.n_heldout_rows)
                raise UserError(
                    f"{field} = {value}: needs {n} rows in the split {split!r}, but the task has {limit}; lower it"
                )
        known = self.task.labels(self.task.batch(0, "choose", 0, 1))
        unknown = [name for name in self.labels or () if name not in known]
        if unknown:
            raise UserError(
                f"labels: {unknown[0]!r} is not a label of task {self.task.kind!r}; choose from {', '.join(known)}"
            )
        return self

    def has_labels(self) -> bool:
        return not groups_at(self.hook)

    @property
    def provides(self) -> frozenset[str]:
        known = {"truth", "codes"} if groups_at(self.hook) and self.target is None else set[str]()
        return super().provides | known

    @property
    def select(self) -> AnswerPositions:
        """Marks the positions whose activations are used."""
        return AnswerPositions(self.task, self.positions)

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        """Trains the model, draws rows, stores the activations, and writes ``source.json`` last."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.finished(directory / "source.json"):
            return
        self._check_sizes()
        self._claim(directory)
        train_toy(directory, self.task, self.model, self.training, self.seed, progress, device)
        toy = load_toy(directory, device)
        d_in = self.width(toy.model)
        rows: dict[Split, Tensor] = {s: self.task.batch(self.seed, s, 0, n) for s, n in self._sizes().items()}
        splits = {s: {"rows": len(r), "tokens": int(self.select(r).kept.sum())} for s, r in rows.items()}
        for split in SPLITS:
            write_rows(directory, split, rows[split])
        [splits] = self.harvest([(self, directory)], toy.model, self.select, splits, progress)
        if self.has_labels():
            self._write_labels(directory, rows, harvest_of([self], toy.model, self.select, self.task.n_tokens))
        facts = {"d_in": d_in, "splits": splits, **self.storage(splits), "model_scores": dict(toy.scores)}
        self.record(directory / "source.json", {**facts, **model_versions()})

    def open(self, directory: Path, device: str) -> Source:
        facts = self.complete(directory)
        known = self._known(directory, facts, device) if "truth" in self.provides else None
        model = partial(_model, directory, device)
        return self.mark(Activations(self, directory, facts, self.select, model, device, known))

    def _check_sizes(self) -> None:
        """Raises `UserError` where this machine has too little memory for the rows, the model or its training."""
        task, model, batch = self.task, self.model, self.training.batch_size
        d_model, n_tokens, d_vocab = model.width(task), task.n_tokens, task.d_vocab + task.d_vocab_out
        for name, n in (("n_rows", self.n_rows), ("n_heldout_rows", self.n_heldout_rows)):
            check_memory(f"source.{name} = {n}", 8 * n * n_tokens)
        # Weights with both moments of Adam; the residual stream and the attention of a batch.
        check_memory(f"source.task: {d_vocab} tokens and answers, width {d_model}", 3 * 4 * d_vocab * d_model)
        layers = model.n_layers * model.n_heads * model.d_head
        shape = f"n_layers = {model.n_layers}, n_heads = {model.n_heads}, d_head = {model.d_head}, width {d_model}"
        check_memory(f"source.model: {shape}", 3 * 4 * 4 * layers * d_model)
        of_row = n_tokens * (d_model + model.n_heads * n_tokens)
        check_memory(f"source.training.batch_size = {batch}", 4 * batch * of_row)

    def _sizes(self) -> dict[Split, int]:
        half = self.n_heldout_rows // 2
        return {"train": self.n_rows, "choose": half, "test": self.n_heldout_rows - half}

    def _claim(self, directory: Path) -> None:
        """Records the settings before the model is trained. Raises `UserError` if the directory has other settings."""
        if not self.finished(directory / "begun.json"):
            self.record(directory / "begun.json", {})

    def _write_labels(self, directory: Path, rows: Mapping[Split, Tensor], harvest: Harvest) -> None:
        for split in ("choose", "test"):
            labels = self.task.labels(rows[split])
            at = defined(labels) & self.select(rows[split]).kept
            row, position = (index.int() for index in at.nonzero(as_tuple=True))
            names = self.labels or tuple(labels)
            columns = {name: labels[name][at].int() for name in names}
            labelled = LabelledRows(rows[split].int(), row, position, columns)
            harvest.labelled([directory / f"labels-{split}.safetensors"], labelled)

    def _known(self, directory: Path, facts: Mapping[str, Any], device: str) -> KnownFeatures:
        """The features of the embeddings, with their frequencies in the training split."""
        network, n = load_toy(directory).network, facts["splits"]["train"]["rows"]
        tokens = Corpus.open(directory, "train", n, self.seed).tokens(np.arange(n)).long()
        kept = self.select(tokens).kept
        active = {"token": tokens[kept], "position": kept.nonzero()[:, 1]}
        tables = {"token": network.W_E, "position": network.W_pos}
        groups = groups_at(self.hook)
        shares = {g: active[g].bincount(minlength=len(tables[g])) / len(active[g]) for g in groups}
        embedding = Embedding({g: tables[g] for g in groups}, shares, device)
        return KnownFeatures(embedding.truth, embedding.codes)


@dataclass(frozen=True)
class AnswerPositions:
    """Makes model input of a task's rows of tokens, with their answers."""

    task: TokenTask
    """The task that gives the answers."""
    positions: Positions
    """The positions that count: those with ``answers``, or ``all`` but BOS."""

    def __call__(self, tokens: Int[Tensor, "rows n_tokens"]) -> TokenRows:
        tokens = tokens.long()
        answers = self.task.answers(tokens)
        attended = torch.ones_like(tokens, dtype=torch.bool)
        not_bos = attended if self.task.bos is None else tokens != self.task.bos
        return TokenRows(tokens, attended, answers != NOTHING if self.positions == "answers" else not_bos, answers)


def _model(directory: Path, device: str) -> Model:
    return load_toy(directory, device).model
