"""Texts with labels on words or on the whole text, for probes of models whose features are unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sae.activations.corpus import PADDING
from sae.activations.labels_csv import CsvText, read_labels_csv
from sae.activations.text import check_tokenizer
from sae.activations.text_files import json_lines, open_text
from sae.numerics.seeds import derive
from sae.registry import MissingFileError, UserError
from sae.source import Split

Span = tuple[int, int]


@dataclass(frozen=True)
class LabelledText:
    """A text with labelled spans of characters."""

    text: str
    """The text."""
    group: str
    """The document that the text belongs to; texts of one group are always in the same split."""
    spans: tuple[tuple[Span, Mapping[str, int]], ...]
    """Spans ``(start, end)`` of characters with their labels, name -> 0 or 1. The labels of a span belong to its last
    token; the span ``(0, len(text))`` is the whole text."""


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Rows of tokens with labelled positions."""

    tokens: Int[Tensor, "rows n_tokens"]
    """Token ids, :data:`~sae.activations.corpus.PADDING` at padding."""
    row: Int[Tensor, " labelled"]
    """The row of each labelled position."""
    position: Int[Tensor, " labelled"]
    """The index of each labelled position in its row."""
    labels: Mapping[str, Int[Tensor, " labelled"]]
    """The label of each position, by name."""
    first: Int[Tensor, " labelled"] | None = None
    """The position at which each labelled span begins, or the first one of its tokens that its row holds."""


def read_labelled(file: Path) -> list[LabelledText]:
    """Reads labelled texts from one of three formats:

    - .conllu: the part of speech of each word, as one label per class (``upos_NOUN``, ...);
    - .jsonl: lines ``{"text": ..., "labels": {name: 0 or 1}}``;
    - .csv, or .csv.zst: see :mod:`sae.activations.labels_csv`.

    Raises `MissingFileError` if there is no such file, and `UserError`, with the line, if it has another form.
    """
    if not file.is_file():
        raise MissingFileError(f"source.labels = {str(file)!r}: does not exist; correct the path")
    if file.suffix == ".conllu":
        return _one_vs_rest(list(_sentences(file)))
    if file.suffix == ".jsonl":
        return list(_records(file))
    if file.name.endswith((".csv", ".csv.zst")):
        return list(map(_whole, read_labels_csv(file)))
    raise UserError(f"source.labels = {str(file)!r}: not a .conllu, .jsonl or .csv file; give one of these")


def _whole(record: CsvText) -> LabelledText:
    """A text that is labelled as a whole."""
    return LabelledText(record.text, record.group, (((0, len(record.text.rstrip())), record.labels),))


def label_tokens(
    texts: Iterable[str], tokenizer: Any, label: Callable[[str, int, int], Mapping[str, int]]
) -> list[LabelledText]:
    """Labels every token of texts by a function.

    ``label(text, start, end)`` returns ``{name: 0 or 1}`` for the token ``text[start:end]``, or an empty mapping to
    leave the token out. Raises `UserError` if it returns other values, or not the same names for every token.
    """
    labelled: list[LabelledText] = []
    names: set[str] | None = None
    for text in texts:
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans: list[tuple[Span, Mapping[str, int]]] = []
        # A character of several tokens, one for each of its bytes, is one span.
        for start, end in dict.fromkeys(map(tuple, encoding["offset_mapping"])):
            marks = dict(label(text, start, end)) if end > start else {}
            if not marks:
                continue
            names = names or set(marks)
            if set(marks) != names or any(value not in (0, 1) for value in marks.values()):
                raise UserError(f"label: {marks} for {text[start:end]!r}; give 0 or 1, and the same names every time")
            spans.append(((start, end), {str(name): int(value) for name, value in marks.items()}))
        labelled.append(LabelledText(text, text, tuple(spans)))
    return labelled


def _records(file: Path) -> Iterator[LabelledText]:
    names: set[str] | None = None
    for n, record in json_lines(file):
        text, labels = record.get("text"), record.get("labels")
        if not isinstance(text, str) or not text.strip() or not isinstance(labels, dict) or not labels:
            raise UserError(f'{file}, line {n}: give {{"text": "...", "labels": {{"name": 0 or 1}}}}')
        marks = {str(name): value for name, value in labels.items()}
        names = names or set(marks)
        if any(value not in (0, 1) for value in marks.values()) or set(marks) != names:
            raise UserError(
                f"{file}, line {n}: labels must be 0 or 1, with the same names in every line; here "
                f"{_mistake(marks, names)}"
            )
        yield _whole(CsvText(text, text, {name: int(value) for name, value in marks.items()}))


def _mistake(marks: Mapping[str, Any], names: set[str]) -> str:
    """What is wrong with the labels of a text whose names should be `names`."""
    wrong = [f"{name} = {value!r}" for name, value in marks.items() if value not in (0, 1)]
    return ", ".join(wrong) or ", ".join(
        f"{n} is {'missing' if n in names else 'new'}" for n in sorted(names ^ set(marks))
    )


def _sentences(file: Path) -> Iterator[tuple[str, str, list[tuple[Span, str]]]]:
    """The text, document and words ``(span, upos)`` of each sentence of a CoNLL-U file.

    Words inside a multiword token (1-2 for "don't") have no separate characters and are left out, as are empty nodes
    (8.1).
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
    """The lines of a file and a blank line, which ends the last sentence."""
    with open_text(file, f"source.labels = {str(file)!r}") as lines:
        yield from lines
    yield "\n"


def _one_vs_rest(sentences: list[tuple[str, str, list[tuple[Span, str]]]]) -> list[LabelledText]:
    classes = sorted({upos for _, _, words in sentences for _, upos in words} - {"_"})
    labels = {upos: {f"upos_{c}": int(c == upos) for c in classes} for upos in classes}
    return [
        LabelledText(text, group, tuple((span, labels[upos]) for span, upos in words if upos in labels))
        for text, group, words in sentences
    ]


def half_of(text: LabelledText, seed: int) -> Split:
    """The split of a labelled text, ``choose`` or ``test``, by a hash of its group."""
    return "choose" if derive("labels", seed, text.group) % 2 == 0 else "test"


def locate(texts: Iterable[LabelledText], tokenizer: Any, context: int, bos: int | None, d_vocab: int) -> LabelledRows:
    """Tokenises each text into one row, with `bos` first if given, and finds the last token of each span.

    Texts longer than `context` lose their beginning. A span is left out if its last token was cut off, or extends into
    the next word, so that its activations belong to both. Raises `UserError` if the tokenizer gives no offsets, or
    ids that the model with its `d_vocab` ids lacks, or if a label is not 0 or 1, or is missing at a span.
    """
    if not tokenizer.is_fast:
        raise UserError(
            "source.labels: the model's tokenizer gives no character offsets; use a model with a fast tokenizer"
        )
    lead = [] if bos is None else [bos]
    rows: list[list[int]] = []
    located: list[tuple[int, int, Mapping[str, int], int]] = []
    for text in texts:
        encoding = tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        check_tokenizer(encoding["input_ids"], d_vocab)
        cut = max(0, len(encoding["input_ids"]) - (context - len(lead)))
        offsets = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        for (start, stop), labels in text.spans:
            inside = np.flatnonzero((offsets[:, 0] < stop) & (offsets[:, 1] > start))
            if len(inside) and inside[-1] >= cut and offsets[inside[-1], 1] <= stop:
                begin, end = (len(lead) + int(at) - cut for at in (max(inside[0], cut), inside[-1]))
                located.append((len(rows), end, labels, begin))
        rows.append(lead + encoding["input_ids"][cut:])
    tokens = torch.full((len(rows), max(map(len, rows), default=1)), PADDING, dtype=torch.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.int32)
    row, position, first = (torch.tensor([span[i] for span in located], dtype=torch.int32) for i in (0, 1, 3))
    names = sorted({name for _, _, labels, _ in located for name in labels})
    labels = {n: _column(n, [span[2].get(n) for span in located]) for n in names}
    return LabelledRows(tokens, row, position, labels, first)


def _column(name: str, values: Sequence[int | None]) -> Int[Tensor, " labelled"]:
    """A label of every span. A span without it is refused: it is unknown there, not a negative."""
    wrong = [value for value in values if value not in (0, 1)]
    if wrong:
        actual = "missing" if wrong[0] is None else repr(wrong[0])
        raise UserError(
            f"labels: {name!r}: {len(wrong)} of {len(values)} spans have no label 0 or 1, such as {actual}; give every "
            "span all labels, or label texts that lack some separately"
        )
    return torch.tensor(values, dtype=torch.int8)
