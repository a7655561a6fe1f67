"""Labelled texts run through a source's model, with activations from the source's hook point."""

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
from sae.activations.text_config import TextConfig
from sae.probing.examples import Pooling, ProbeExamples, joined
from sae.registry import UserError


@dataclass(frozen=True, eq=False)
class TextReader:
    """Converts labelled texts to probe examples with the model, hook point, context and BOS token of a source."""

    config: TextConfig
    """The source's settings."""
    harvest: Harvest
    """The model and what is recorded from it."""
    tokenizer: Any
    """The model's tokenizer."""

    @classmethod
    def like(cls, source: Activations) -> TextReader:
        """The reader with a source's settings."""
        config = source.config
        assert isinstance(config, TextConfig) and source.tokenizer is not None
        hooks = [{"acts": config.hook}]
        harvest = Harvest(source.boot(), hooks, source.select, config.store_dtype, 1, config.rows_at_once, config.fused)
        return cls(config, harvest, source.tokenizer())

    def __call__(self, texts: Sequence[LabelledText], pooling: Pooling = "last") -> ProbeExamples:
        """One example for each labelled span: its last token, or all of its tokens if they are pooled.

        Raises `UserError` if no labelled span fits in the context.
        """
        bos = None if self.config.bos == "none" else self.tokenizer.bos_token_id
        rows = locate(texts, self.tokenizer, self.config.context, bos, self.harvest.model.d_vocab)
        if len(rows.row) == 0:
            raise UserError("probe.tasks.labels: no labelled text fits; give more texts or a longer source.context")
        documents = {name: i for i, name in enumerate(dict.fromkeys(text.group for text in texts))}
        document_of_text = torch.tensor([documents[text.group] for text in texts])
        acts, of = self._vectors(rows, pooling)
        return ProbeExamples(acts, rows.labels, document_of_text[rows.row.long()], of, pooling)

    def _vectors(self, rows: LabelledRows, pooling: Pooling) -> tuple[Tensor, Tensor]:
        """The vectors of all spans in order, and the span that each belongs to."""
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
        return self.harvest.vectors(rows.tokens, at)[0]["acts"].float()[place[row, position]], of


def read_files(files: Sequence[Path]) -> list[list[LabelledText]]:
    """The texts of each file; with several files, labels are prefixed with the file's name."""
    texts_of_files = [read_labelled(file) for file in files]
    if len(files) == 1:
        return texts_of_files
    return [[_named(file.stem, text) for text in texts] for file, texts in zip(files, texts_of_files, strict=True)]


def _named(stem: str, text: LabelledText) -> LabelledText:
    spans = ((span, {f"{stem}.{name}": v for name, v in marks.items()}) for span, marks in text.spans)
    return replace(text, spans=tuple(spans))


def read_together(reader: TextReader, files: Sequence[Sequence[LabelledText]], pooling: Pooling) -> ProbeExamples:
    """The examples of several files; texts of one document form one group, in whichever files they are."""
    nonempty = [texts for texts in files if texts]
    parts = [reader(texts, pooling) for texts in nonempty]
    documents: dict[str, int] = {}
    for i, texts in enumerate(nonempty):
        names = list(dict.fromkeys(text.group for text in texts))
        number = torch.tensor([documents.setdefault(name, len(documents)) for name in names])
        parts[i] = replace(parts[i], groups=number[parts[i].groups])
    return joined(parts)
