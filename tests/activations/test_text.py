"""Documents from files and data sets, and their packing into rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.activations.corpus import PADDING, Packer, split_of
from sae.activations.text import Text, tokenised
from sae.activations.text_files import STRETCH
from sae.registry import UserError

DOCUMENTS = st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=12), max_size=8)


@given(DOCUMENTS, st.integers(2, 7), st.sampled_from(["row", "document", "none"]), st.booleans())
def test_packed_rows_are_full_and_say_the_text_in_order(
    documents: list[list[int]], context: int, bos_at: str, eos: bool
):
    packer = Packer(context, "packed", bos_at, 0, 1 if eos else None)  # pyright: ignore
    rows = [row for i, ids in enumerate(documents) for row in packer.add(i, ids)]
    lead = 1 if bos_at == "row" else 0
    assert all((row != PADDING).all() and row.shape == (2, context) and (row[0, :lead] == 0).all() for row in rows)
    flat = [(i, t) for i, ids in enumerate(documents)
            for t in [*([0] if bos_at == "document" else []), *ids, *([1] if eos else [])]]  # fmt: skip
    packed = [(int(d), int(t)) for row in rows for t, d in row[:, lead:].T]
    assert packed == flat[: len(packed)] and len(flat) - len(packed) < context - lead


@given(DOCUMENTS, st.integers(2, 7))
def test_documents_in_rows_of_their_own_are_whole_and_padded(documents: list[list[int]], context: int):
    packer = Packer(context, "document", "row", 0, None)
    rows = [row for i, ids in enumerate(documents) for row in packer.add(i, ids)]
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


def test_ids_lose_a_leading_bos_and_texts_are_tokenised_in_order():
    class Tokenizer:
        bos_token_id = 0

        def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
            return {"input_ids": [[len(t)] for t in texts]}

    documents = ["a", [0, 7, 0], "bbb", [8, 9]]
    assert list(tokenised(documents, Tokenizer(), d_vocab=10)) == [[1], [7, 0], [3], [8, 9]]


def test_the_split_of_a_document_is_a_fair_hash_of_its_tokens():
    splits = [split_of([i, 3], seed=0, heldout_share=0.2) for i in range(4000)]
    assert abs(splits.count("choose") - 400) < 80 and abs(splits.count("test") - 400) < 80
    assert splits == [split_of((i, 3), seed=0, heldout_share=0.2) for i in range(4000)]
    assert splits != [split_of([i, 3], seed=1, heldout_share=0.2) for i in range(4000)]
