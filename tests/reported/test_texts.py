"""Texts as users have them: every common kind of file, line ends and marks of Windows, and one line for the others."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sae.activations.labels import read_labelled
from sae.activations.text import Text
from sae.activations.text_files import LONGEST_CELL, plain_documents
from sae.numerics import memory
from sae.registry import UserError
from sae.sources.transformer import Config

MARK = b"\xef\xbb\xbf"
DOCUMENTS = ["One, with a comma.\nAnd a line.", "Two \u00e9 \u4e2d", "NA", "007"]


def table(delimiter: str) -> bytes:
    text = io.StringIO()
    lines = csv.writer(text, delimiter=delimiter)
    lines.writerow(["id", "text"])
    lines.writerows(enumerate(DOCUMENTS))
    return text.getvalue().encode()


def lines_of_json() -> bytes:
    return "\n".join(json.dumps({"id": i, "text": d}) for i, d in enumerate(DOCUMENTS)).encode()


CONTENT: dict[str, bytes] = {
    "a.txt": "|".join(DOCUMENTS).encode(),
    "a.md": "|".join(DOCUMENTS).encode(),
    "a.jsonl": lines_of_json(),
    "a.ndjson": lines_of_json(),
    "lines.json": lines_of_json(),
    "strings.json": json.dumps(DOCUMENTS, indent=1).encode(),
    "records.json": json.dumps([{"text": d, "id": 1} for d in DOCUMENTS]).encode(),
    "a.csv": table(","),
    "a.tsv": table("\t"),
}


def silent(done: int, total: int, unit: str) -> None: ...


def read(file: Path, **options: Any) -> list[Any]:
    return list(Text(str(file), **{"separator": "|"} | options).read())


@pytest.mark.parametrize("form", ["plain", "marked", "compressed", "upper case", "a line before"])
@pytest.mark.parametrize("name", CONTENT)
def test_every_kind_of_file(tmp_path: Path, name: str, form: str):
    """.md, .json, .csv and .gz files were taken for data sets of the hub; a byte-order mark was part of the text, or
    made the first line invalid."""
    content = CONTENT[name]
    if form == "compressed":
        name, content = f"{name}.gz", gzip.compress(content)
    elif form == "marked":
        content = MARK + content
    elif form == "upper case":
        name = name.upper()
    elif form == "a line before" and name.endswith("json"):
        content = b"\n" + content
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == DOCUMENTS


def test_columnar_files(tmp_path: Path):
    from datasets import Dataset

    Dataset.from_dict({"text": DOCUMENTS}).to_parquet(str(tmp_path / "a.parquet"))
    assert read(tmp_path / "a.parquet") == DOCUMENTS


@pytest.mark.parametrize("name", ["a.md", "a.txt", "a.jsonl", "records.json"])
def test_folders_of_files(tmp_path: Path, name: str):
    """A folder of .md files was no data set, and the separator of a folder of .txt files was ignored."""
    (tmp_path / name).write_bytes(MARK + CONTENT[name])
    assert read(tmp_path) == DOCUMENTS


def test_a_folder_of_text_files_without_separator_is_a_line_a_document(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(MARK + b"one\ntwo\n\nthree")
    assert read(tmp_path, separator=None) == ["one", "two", "three"]


@pytest.mark.parametrize("separator", ["\r\n---\r\n", "\n---\n", "\r---\r"])
@pytest.mark.parametrize("ends", ["\r\n", "\n", "\r"])
def test_line_ends_of_a_separator(tmp_path: Path, separator: str, ends: str):
    """A separator with the line ends of Windows was not found in any text, since reading changes line ends."""
    (tmp_path / "a.txt").write_bytes(f"one{ends}---{ends}two{ends}---{ends}three".encode())
    assert read(tmp_path / "a.txt", separator=separator) == ["one", "two", "three"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.conllu"])
def test_labelled_texts_with_a_mark(tmp_path: Path, name: str):
    """A mark at the beginning of a .jsonl file of labels was refused, and one of a .conllu file was read as text."""
    content = {
        "a.csv": "text,y\na,1\n",
        "a.jsonl": '{"text": "a", "labels": {"y": 1}}',
        "a.conllu": "1\ta\ta\tNOUN\t_\t_\t_\t_\t_\t_\n",
    }
    (tmp_path / name).write_bytes(MARK + content[name].replace("\n", "\r\n").encode())
    [labelled] = read_labelled(tmp_path / name)
    assert labelled.text == "a" and set(labelled.spans[0][1].values()) == {1}


def test_a_long_text_in_a_table(tmp_path: Path):
    """The csv module refuses a text of more than 131,072 characters."""
    (tmp_path / "a.csv").write_text(f"text\n{'word ' * 40_000}\n")
    assert read(tmp_path / "a.csv") == ["word " * 40_000]
    assert csv.field_size_limit() == LONGEST_CELL


def test_files_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first document of a compressed file comes before the rest is decompressed."""
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"word " * 10 + b"|" + b"word\n" * 10**6))
    blocks: list[int] = []
    decompress = gzip.GzipFile.read1

    def counted(file: gzip.GzipFile, size: int = -1) -> bytes:
        blocks.append(size)
        return decompress(file, size)

    monkeypatch.setattr(gzip.GzipFile, "read1", counted)
    documents = plain_documents(tmp_path / "a.txt.gz", "a", "|")
    assert next(documents) == "word " * 10 and 0 < len(blocks) < 10


WRONG: dict[str, tuple[str, bytes, str]] = {
    "kind": ("a.pdf", b"%PDF", r"not a kind of file that is read; give \.txt, \.md, \.jsonl.* or a \.gz of one"),
    "no kind": ("corpus", b"text", "not a kind of file that is read"),
    "other compression": ("a.txt.zst", b"text", "not a kind of file that is read"),
    "empty": ("a.txt", b"", "it has no text; give one that has"),
    "blank": ("a.md", b" \n\n ", "it has no text; give one that has"),
    "empty lines": ("a.jsonl", b"", "it has no text"),
    "empty list": ("a.json", b"[]", "it has no text"),
    "empty json": ("a.json", b"", "it has no text"),
    "empty table": ("a.csv", b"", "it has no text"),
    "header alone": ("a.csv", b"text\n", "it has no text"),
    "not gz": ("a.jsonl.gz", b"{}", "not a whole .gz file"),
    "cut gz": ("a.txt.gz", gzip.compress(b"word " * 9999)[:-20], "not a whole .gz file"),
    "latin": ("a.csv", "text\ncaf\u00e9\n".encode("latin-1"), "not UTF-8 text"),
    "utf-16": ("a.txt", "text".encode("utf-16"), "not UTF-8 text .*save it with the encoding UTF-8"),
    "no column": ("a.csv", b"story\nonce\n", "source.column = 'text': .*line 2 has no such column; choose from story"),
    "cells": ("a.csv", b"text\na,b\n", "line 2: 2 cells, but the header has 1"),
    "object": ("a.json", b'{"data": ["a"]}', "source.column = 'text': .*choose from data"),
    "number": ("a.json", b"[1]", "entry 1 is neither a string nor an object"),
    "no json": ("a.json", b"[1, ", "not a JSON list; give a list of strings or of objects, or a .jsonl file"),
    "deep json": ("a.json", b"[" * 10**5, "not a JSON list"),
    "deep line": ("a.jsonl", b'{"text":' + b"[" * 10**5, "line 1: not a JSON object"),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_line_for_files_that_cannot_be_read(tmp_path: Path, case: str):
    """They were taken for data sets of the hub, or ended in a traceback."""
    name, content, words = WRONG[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)


def test_a_huge_list_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.json").write_text(json.dumps(DOCUMENTS))
    monkeypatch.setattr(memory, "memory_of", lambda device: 10)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(UserError, match=r"a\.json': not enough memory"):
        read(tmp_path / "a.json")


def test_an_empty_folder(tmp_path: Path):
    with pytest.raises(UserError, match="an empty folder; give one with files such as"):
        read(tmp_path)


def test_splits_of_a_saved_data_set(tmp_path: Path):
    """The splits of a data set that was saved with save_to_disk were not read, and text_split had no effect."""
    from datasets import Dataset, DatasetDict

    one, two = (Dataset.from_dict({"text": [each]}) for each in ("one", "two"))
    DatasetDict({"train": one, "test": two}).save_to_disk(str(tmp_path / "splits"))
    one.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "a.txt").write_text("one")
    assert read(tmp_path / "splits") == ["one"] and read(tmp_path / "splits", split="test") == ["two"]
    assert read(tmp_path / "saved") == ["one"]
    for name, words in (
        ("splits", "source.text_split = 'valid': .* has the splits train, test"),
        ("saved", "source.text_split = 'valid': .* was saved without splits; leave it out"),
        ("a.txt", "source.text_split = 'valid': a file has no splits; leave it out"),
    ):
        with pytest.raises(UserError, match=words):
            read(tmp_path / name, split="valid")


FEW: dict[str, tuple[str, dict[str, Any], str]] = {
    "one": ("w1 w2\nw3 w4\n" * 20, {}, r"one document was found.*set source.separator .*\(\"\\n\" for one a line\)"),
    "several": ("w1 w2\nw3 w4\n" * 3, {"separator": "\n"}, "6 documents were found, and .* none is in the split"),
    "wrong": ("w1 w2\nw3 w4\n", {"separator": "|"}, r"separator = '\|': it does not occur in .* between documents"),
    "literal": ("w1 w2\nw3 w4\n", {"separator": r"\n"}, r"does not occur.*\\n is a line end between double quotes"),
}


@pytest.mark.parametrize("case", FEW)
def test_too_few_documents(tmp_path: Path, tiny_models: Mapping[str, Path], case: str):
    """A text that is one document was refused with '0 tokens for the split choose; change heldout_share'."""
    text, settings, words = FEW[case]
    (tmp_path / "a.txt").write_text(text)
    base: dict[str, Any] = {"model": str(tiny_models["llama"]), "hook": "blocks.0.hook_resid_post", "context": 8}
    with pytest.raises(UserError, match=words) as error:
        Config(**base, text=str(tmp_path / "a.txt"), **settings).prepare(tmp_path / "out", silent, "cpu")
    assert "\n" not in str(error.value)


def test_a_data_set_that_is_a_program_is_one_line(tmp_path: Path):
    """The error of the package that loads data sets was called a bug of ours."""
    folder = tmp_path / "stories"
    folder.mkdir()
    (folder / "stories.py").write_text("import datasets\n")
    with pytest.raises(UserError, match="the data set is a program that loads it, which the package datasets no"):
        next(iter(Text(str(folder)).read()))
