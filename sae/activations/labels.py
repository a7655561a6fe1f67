"""Text with labels on words or on whole texts, from files: what probes are scored on where no feature is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.activations.corpus import PADDING
from sae.activations.labels_csv import LabelledText, read_labels_csv
from sae.activations.text import json_lines
from sae.numerics.seeds import derive
from sae.registry import MissingFileError, UserError
from sae.source import Split

Span = tuple[int, int]


@dataclass(frozen=True)
class Labelled:
    """A text, the group that it must stay with (its document), and its labelled spans of characters.

    A span is labelled at the last token that lies in it; the span ``(0, len(text))`` is the whole text.
    """

    text: str
    group: str
    spans: tuple[tuple[Span, Mapping[str, int]], ...]


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Rows of tokens (:data:`~sae.activations.corpus.PADDING` where there is none), and the labelled positions in
    them; `first`
    is where each labelled span begins, so far as its row holds it."""

    tokens: Tensor
    row: Tensor
    position: Tensor
    labels: Mapping[str, Tensor]
    first: Tensor | None = None


def read_labelled(file: Path) -> list[Labelled]:
    """The labelled texts of a .conllu file (part of speech of each word, one label ``upos_NOUN`` and so on for
    each class), of a .jsonl file of ``{"text": ..., "labels": {name: 0 or 1}}``, or of a .csv file, see
    :mod:`sae.activations.labels_csv`.

    Raises ``FileNotFoundError`` or ``ValueError`` with one line naming the file and the line.
    """
    if not file.is_file():
        raise MissingFileError(f"source.labels: {file} does not exist")
    if file.suffix == ".conllu":
        return _one_vs_rest(list(_sentences(file)))
    if file.suffix == ".jsonl":
        return list(_records(file))
    if file.suffix == ".csv":
        return list(map(_whole, read_labels_csv(file)))
    raise UserError(f"source.labels: {file} is neither .conllu nor .jsonl nor .csv")


def _whole(record: LabelledText) -> Labelled:
    """A text that is labelled as a whole."""
    return Labelled(record.text, record.group, (((0, len(record.text.rstrip())), record.marks),))


def label_tokens(
    texts: Iterable[str], tokenizer: Any, label: Callable[[str, int, int], Mapping[str, int]]
) -> list[Labelled]:
    """Texts whose every token is labelled by a function: ``label(text, start, end)`` gives ``{name: 0 or 1}`` for
    the token that is ``text[start:end]``, an empty mapping where it is to be left out.

    Raises ``ValueError`` where it gives anything else, or other names for one token than for another.
    """
    found: list[Labelled] = []
    names: set[str] | None = None
    for text in texts:
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans: list[tuple[Span, Mapping[str, int]]] = []
        # A letter that is several tokens, one for each of its bytes, is one span.
        for start, end in dict.fromkeys(map(tuple, coded["offset_mapping"])):
            marks = dict(label(text, start, end)) if end > start else {}
            if not marks:
                continue
            names = names or set(marks)
            if set(marks) != names or any(value not in (0, 1) for value in marks.values()):
                raise UserError(f"label: {marks} for {text[start:end]!r}; give 0 or 1, and the same names every time")
            spans.append(((start, end), {str(name): int(value) for name, value in marks.items()}))
        found.append(Labelled(text, text, tuple(spans)))
    return found


def _records(file: Path) -> Iterator[Labelled]:
    names: set[str] | None = None
    for n, record in json_lines(file):
        text, labels = record.get("text"), record.get("labels")
        if not isinstance(text, str) or not text.strip() or not isinstance(labels, dict) or not labels:
            raise UserError(f'{file}, line {n}: give {{"text": "...", "labels": {{"name": 0 or 1}}}}')
        marks = {str(name): value for name, value in labels.items()}
        names = names or set(marks)
        if any(value not in (0, 1) for value in marks.values()) or set(marks) != names:
            raise UserError(f"{file}, line {n}: labels are 0 or 1, and the same names in every line")
        yield _whole(LabelledText(text, text, marks))


def _sentences(file: Path) -> Iterator[tuple[str, str, list[tuple[Span, str]]]]:
    """Text, document and words ``(span, upos)`` of each sentence of a CoNLL-U file.

    Words inside a multiword token (1-2 for "don't") have no characters of their own and are left out, as are
    empty nodes (8.1).
    """
    group, text, words, inside = "", "", list[tuple[Span, str]](), 0
    for n, line in enumerate(_lines(file), 1):
        if line.startswith("#"):
            if line.startswith("# newdoc"):
                group = line
        elif not line.strip():
            if words:
                yield text.rstrip(), group or text, words
            text, words, inside = "", list[tuple[Span, str]](), 0
        else:
            cells = line.rstrip("\n").split("\t")
            if len(cells) != 10:
                raise UserError(f"{file}, line {n}: a CoNLL-U line has 10 cells, not {len(cells)}")
            number, form, upos, misc = cells[0], cells[1], cells[3], cells[9]
            if "." in number or (number.isdigit() and int(number) <= inside):
                continue
            if "-" in number:
                inside = int(number.split("-")[1])
            else:
                words.append(((len(text), len(text) + len(form)), upos))
            text += form + ("" if "SpaceAfter=No" in misc else " ")


def _lines(file: Path) -> Iterator[str]:
    """The lines of a file and a blank one, so that the last sentence ends like the others."""
    with file.open(encoding="utf-8") as lines:
        yield from lines
    yield "\n"


def _one_vs_rest(sentences: list[tuple[str, str, list[tuple[Span, str]]]]) -> list[Labelled]:
    classes = sorted({upos for _, _, words in sentences for _, upos in words} - {"_"})
    marks = {upos: {f"upos_{c}": int(c == upos) for c in classes} for upos in classes}
    return [
        Labelled(text, group, tuple((span, marks[upos]) for span, upos in words if upos in marks))
        for text, group, words in sentences
    ]


def half_of(text: Labelled, seed: int) -> Split:
    """The split of a labelled text, by a hash of its document: sentences of one document never part."""
    return "choose" if derive("labels", seed, text.group) % 2 == 0 else "test"


def locate(texts: Iterable[Labelled], tokenizer: Any, context: int, bos: int | None) -> LabelledRows:
    """One row a text, with `bos` before it where given, and each span's last token.

    Texts beyond `context` lose their beginning. A span is left out where its last token reaches into the next
    word (its activations belong to both) or was cut off.
    """
    if not tokenizer.is_fast:
        raise UserError("source.labels: the model's tokenizer does not tell where its tokens lie in the text")
    lead = [] if bos is None else [bos]
    rows: list[list[int]] = []
    found: list[tuple[int, int, Mapping[str, int], int]] = []
    for text in texts:
        coded = tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        cut = max(0, len(coded["input_ids"]) - (context - len(lead)))
        offsets = np.asarray(coded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        for (start, stop), labels in text.spans:
            inside = np.flatnonzero((offsets[:, 0] < stop) & (offsets[:, 1] > start))
            if len(inside) and inside[-1] >= cut and offsets[inside[-1], 1] <= stop:
                begin, end = (len(lead) + int(at) - cut for at in (max(inside[0], cut), inside[-1]))
                found.append((len(rows), end, labels, begin))
        rows.append(lead + coded["input_ids"][cut:])
    tokens = torch.full((len(rows), max(map(len, rows), default=1)), PADDING, dtype=torch.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.int32)
    row, position, first = (torch.tensor([f[i] for f in found], dtype=torch.int32) for i in (0, 1, 3))
    names = sorted({name for _, _, labels, _ in found for name in labels})
    labels = {n: torch.tensor([f[2].get(n, 0) for f in found], dtype=torch.int8) for n in names}
    return LabelledRows(tokens, row, position, labels, first)
