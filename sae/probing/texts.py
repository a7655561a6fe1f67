"""Labelled texts through a model, read where a source was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae.activations.disk_source import Activations
from sae.activations.harvest import Harvest
from sae.activations.labels import LabelledRows, LabelledText, locate, read_labelled
from sae.model.hooked import load_tokenizer
from sae.probing.examples import Pooling, ProbeExamples, joined
from sae.registry import UserError
from sae.sources.transformer import Config


@dataclass(frozen=True, eq=False)
class TextReader:
    """Reads texts as a source did: the same model, hook point, context and beginning of a row."""

    config: Config
    harvest: Harvest
    tokenizer: Any

    @classmethod
    def like(cls, source: Activations) -> TextReader:
        config = source.config
        assert isinstance(config, Config)
        harvest = Harvest(
            source.boot(), {"acts": config.hook}, source.select, config.store_dtype, 1, config.rows_at_once
        )
        return cls(config, harvest, load_tokenizer(config.model, config.revision))

    def __call__(self, texts: Sequence[LabelledText], pooling: Pooling = "last") -> ProbeExamples:
        """One example for each labelled span: its last token, or all of its tokens where they are to be pooled."""
        bos = None if self.config.bos == "none" else self.tokenizer.bos_token_id
        rows = locate(texts, self.tokenizer, self.config.context, bos)
        if len(rows.row) == 0:
            raise UserError("probe.tasks.labels: no labelled text is left; give more texts, or a longer source.context")
        documents = {name: i for i, name in enumerate(dict.fromkeys(text.group for text in texts))}
        of_text = torch.tensor([documents[text.group] for text in texts])
        acts, of = self._vectors(rows, pooling)
        return ProbeExamples(acts, rows.labels, of_text[rows.row.long()], of, pooling)

    def _vectors(self, rows: LabelledRows, pooling: Pooling) -> tuple[Tensor, Tensor]:
        """The vectors of every span one after another, and the span that each belongs to."""
        assert rows.first is not None
        first = rows.position if pooling == "last" else rows.first
        length = (rows.position - first + 1).long()
        of = torch.arange(len(length)).repeat_interleave(length)
        start = length.cumsum(0) - length
        position = first.long()[of] + torch.arange(len(of)) - start[of]
        row = rows.row.long()[of]
        at = torch.zeros_like(rows.tokens, dtype=torch.bool)
        at[row, position] = True
        place = torch.zeros_like(rows.tokens, dtype=torch.long)
        place[at] = torch.arange(int(at.sum()))
        return self.harvest.vectors(rows.tokens, at)["acts"].float()[place[row, position]], of


def read_files(files: Sequence[Path]) -> list[list[LabelledText]]:
    """The texts of each file; of several, every label has its file's name before its own."""
    found = [read_labelled(file) for file in files]
    if len(files) == 1:
        return found
    return [[_named(file.stem, text) for text in texts] for file, texts in zip(files, found, strict=True)]


def _named(stem: str, text: LabelledText) -> LabelledText:
    spans = ((span, {f"{stem}.{name}": v for name, v in marks.items()}) for span, marks in text.spans)
    return replace(text, spans=tuple(spans))


def read_together(reader: TextReader, files: Sequence[Sequence[LabelledText]], pooling: Pooling) -> ProbeExamples:
    """The examples of several files; texts of one document are one group wherever they stand."""
    kept = [texts for texts in files if texts]
    parts = [reader(texts, pooling) for texts in kept]
    documents: dict[str, int] = {}
    for i, texts in enumerate(kept):
        names = list(dict.fromkeys(text.group for text in texts))
        number = torch.tensor([documents.setdefault(name, len(documents)) for name in names])
        parts[i] = replace(parts[i], groups=number[parts[i].groups])
    return joined(parts)
