"""Documents from files and data sets, and their packing into rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sae.activations.packing import PADDING, Packer
from sae.activations.text import Text
from sae.activations.text_chunks import Chunk, IdLists
from sae.activations.text_files import STRETCH
from sae.activations.tokeniser import Tokeniser, split_of
from sae.registry import UserError

DOCUMENTS = st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=12), max_size=8)


def packed(packer: Packer, documents: list[list[int]], at_once: int) -> list[NDArray[np.int32]]:
    """The rows of documents that are added so many at once."""
    rows = list[NDArray[np.int32]]()
    for begin in range(0, len(documents), at_once):
        part = documents[begin : begin + at_once]
        ids = np.array([i for document in part for i in document], dtype=np.int32)
        rows += [*packer.add(np.arange(begin, begin + len(part)), ids, np.array([len(d) for d in part], np.int64))]
    return rows


@given(DOCUMENTS, st.integers(2, 7), st.sampled_from(["row", "document", "none"]), st.booleans(), st.integers(1, 9))
def test_packed_rows_are_full_and_say_the_text_in_order(
    documents: list[list[int]], context: int, bos_at: str, eos: bool, at_once: int
):
    packer = Packer(context, "packed", bos_at, 0, 1 if eos else None)  # pyright: ignore
    rows = packed(packer, documents, at_once)
    lead = 1 if bos_at == "row" else 0
    assert all((row != PADDING).all() and row.shape == (2, context) and (row[0, :lead] == 0).all() for row in rows)
    flat = [(i, t) for i, ids in enumerate(documents)
            for t in [*([0] if bos_at == "document" else []), *ids, *([1] if eos else [])]]  # fmt: skip
    found = [(int(d), int(t)) for row in rows for t, d in row[:, lead:].T]
    assert found == flat[: len(found)] and len(flat) - len(found) < context - lead
    assert packer.left.T.tolist() == [[t, d] for d, t in flat[len(found) :]]


@given(DOCUMENTS, st.integers(2, 7), st.integers(1, 9))
def test_documents_in_rows_of_their_own_are_whole_and_padded(documents: list[list[int]], context: int, at_once: int):
    rows = packed(Packer(context, "document", "row", 0, None), documents, at_once)
    for i, ids in enumerate(documents):
        of_i = [row for row in rows if row[1, 0] == i]
        assert [int(t) for row in of_i for t in row[0, 1:] if t != PADDING] == ids
        assert all(set(row[1].tolist()) <= {i, PADDING} for row in of_i) and len(of_i) == -(-len(ids) // (context - 1))


def test_running_text_is_cut_at_blank_lines_and_loses_nothing(tmp_path: Path):
    file = tmp_path / "a.txt"
    paragraphs = [f"Paragraph {i} " + "word " * 80 + "\n \n" for i in range(40)]
    file.write_text("".join(paragraphs))
    pieces = list(Text(str(file)).read())
    assert "".join(map(str, pieces)) == "".join(paragraphs) and len(pieces) > 3
    assert all(STRETCH <= len(p) < STRETCH + 500 for p in pieces[:-1])


@pytest.mark.parametrize("separator", ["<|end|>", "\n\n", "x"])
def test_a_separator_separates_documents_and_is_dropped(tmp_path: Path, separator: str):
    file = tmp_path / "a.txt"
    file.write_text(separator.join(["one\nline", "two", "  ", "three\n"]))
    assert list(Text(str(file), separator=separator).read()) == ["one\nline", "two", "three\n"]


def test_json_lines_data_sets_and_token_ids(tmp_path: Path):
    from datasets import Dataset

    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps({"text": t, "ids": [5, 6]}) for t in ("one", "", "two")))
    assert list(Text(str(file)).read()) == ["one", "two"]
    assert list(Text(str(file), column="ids").read()) == [[5, 6]] * 3
    Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(str(tmp_path / "saved"))
    assert list(Text(str(tmp_path / "saved")).read()) == ["one", "two"]
    (tmp_path / "folder").mkdir()
    file.rename(tmp_path / "folder" / "train.jsonl")
    assert list(Text(str(tmp_path / "folder")).read()) == ["one", "two"]


def test_unreadable_text_is_one_line(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"story": "one", "id": 3}')
    for column, message in (
        ("text", "has no such column; choose from story, id"),
        ("id", "neither a string nor a list"),
    ):
        with pytest.raises(UserError, match=f"source.column = '{column}': .*{message}"):
            list(Text(str(file), column=column).read())
    latin = tmp_path / "a.txt"
    latin.write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt': not UTF-8 text"):
        list(Text(str(latin)).read())
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"source\.text = '.*': the data set cannot be loaded"):
        list(Text(str(tmp_path / "empty")).read())


class Lengths:
    """A tokenizer whose only token of a text is its length."""

    bos_token_id = 0

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[len(t)] for t in texts]}


def test_ids_lose_a_leading_bos_and_texts_are_tokenised_in_order():
    tokeniser = Tokeniser(Text("a.jsonl"), Lengths(), d_vocab=10, seed=0, heldout_share=0.1)
    done = tokeniser(Chunk(["a", [0, 7, 0], " ", "bbb", [], [0], [8, 9]], None))
    assert done.ids.tolist() == [1, 7, 0, 3, 8, 9] and done.lengths.tolist() == [1, 2, 1, 0, 2]
    lists = IdLists(np.array([0, 7, 0, 0, 8, 9]), np.array([3, 0, 1, 2]))
    done = tokeniser(Chunk(lists, None))
    assert done.ids.tolist() == [7, 0, 8, 9] and done.lengths.tolist() == [2, 0, 2]


def test_the_split_of_a_document_is_a_fair_hash_of_its_tokens():
    splits = [split_of([i, 3], seed=0, heldout_share=0.2) for i in range(4000)]
    assert abs(splits.count("choose") - 400) < 80 and abs(splits.count("test") - 400) < 80
    assert splits == [split_of((i, 3), seed=0, heldout_share=0.2) for i in range(4000)]
    assert splits != [split_of([i, 3], seed=1, heldout_share=0.2) for i in range(4000)]
