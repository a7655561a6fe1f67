"""Token ids that a model does not have are refused in one line where they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sae.activations.labels import LabelledText, locate
from sae.activations.text import Text
from sae.activations.text_chunks import Chunk
from sae.activations.tokeniser import TokenisedChunk, Tokeniser
from sae.registry import UserError
from sae.sources.transformer import Config


def quiet(done: int, total: int, unit: str) -> None: ...


def config(model: Path, file: Path, **settings: Any) -> Config:
    return Config(model=str(model), hook="blocks.0.hook_resid_post", text=str(file), column="ids", context=16,
                  heldout_share=0.3, **settings)  # fmt: skip


def written(file: Path, ids: list[Any]) -> Path:
    """A file of token ids whose second document begins with `ids`."""
    documents = [[3 + (i + j) % 40 for j in range(20)] for i in range(30)]
    documents[1] = [*ids, *documents[1]]
    file.write_text("\n".join(json.dumps({"ids": document}) for document in documents))
    return file


@pytest.mark.parametrize("wrong", [47, -1, -100, 2**40, -(2**70)])
def test_ids_that_the_model_does_not_have(tmp_path: Path, tiny_models: Mapping[str, Path], wrong: int):
    """An id of -100, which marks positions without a loss elsewhere, became token 0; others ended in tracebacks."""
    source = config(tiny_models["llama"], written(tmp_path / "a.jsonl", [5, wrong, wrong]))
    words = "source.column: document 2: 2 of 23 token ids are outside the model's 0 to 46, such as"
    with pytest.raises(UserError, match=f"{words} {wrong}; give ids of the model's tokenizer") as caught:
        source.prepare(tmp_path / "out", quiet, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [[True, False], [1.0], ["1"], [None], [[1]]])
def test_what_is_no_token_id(tmp_path: Path, tiny_models: Mapping[str, Path], wrong: list[Any]):
    """A column of booleans, such as an attention mask, was read as the tokens 0 and 1."""
    file = written(tmp_path / "a.jsonl", wrong)
    with pytest.raises(UserError, match=r"a.jsonl, line 2 is neither a string nor a list of token ids; choose"):
        config(tiny_models["llama"], file).prepare(tmp_path / "out", quiet, "cpu")


def test_the_ids_of_the_model_are_read(tmp_path: Path, tiny_models: Mapping[str, Path]):
    """The smallest and the largest id are no mistake, and a leading BOS is dropped as before."""
    source = config(tiny_models["llama"], written(tmp_path / "a.jsonl", [0, 46]))
    source.prepare(tmp_path / "out", quiet, "cpu")
    assert source.open(tmp_path / "out", "cpu").batch(0, 8).acts.shape == (8, 16)

    class Tokenizer:
        bos_token_id = 1

    read = [*Text(str(tmp_path / "a.jsonl"), column="ids").read()]
    done = tokenised(read, Tokenizer())
    begin = done.lengths[0]
    assert done.ids[begin : begin + 2].tolist() == [0, 46]
    assert tokenised([[1, 5], [1]], Tokenizer()).ids.tolist() == [5]


def tokenised(documents: list[Any], tokenizer: object) -> TokenisedChunk:
    return Tokeniser(Text("a.jsonl"), tokenizer, d_vocab=47, seed=0, heldout_share=0.1)(Chunk(documents, None))


class Larger:
    """A tokenizer with more tokens than its model."""

    is_fast, bos_token_id = True, None

    def __call__(self, text: str | list[str], **_: object) -> dict[str, Any]:
        ids = [60, 2, 61]
        return {"input_ids": ids if isinstance(text, str) else [ids] * len(text), "offset_mapping": [(0, 1)] * 3}


def test_a_tokenizer_that_is_not_the_models():
    """A tokenizer with more tokens than its model ended in an index error within the model."""
    words = "source.model: its tokenizer: 2 of 3 token ids are outside the model's 0 to 46, such as 60; use the"
    with pytest.raises(UserError, match=words):
        tokenised(["a"], Larger())
    with pytest.raises(UserError, match=words):
        locate([LabelledText("a", "a", (((0, 1), {"y": 1}),))], Larger(), 8, None, 47)


@pytest.mark.parametrize(("token", "settings"), [("bos", {}), ("eos", {"eos": True})])
def test_special_tokens_that_the_model_does_not_have(
    tmp_path: Path, tiny_models: Mapping[str, Path], token: str, settings: dict[str, Any]
):
    """A BOS that was added to a tokenizer and not to its model ended in an index error within the model."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_models["llama"], folder)
    tokens = json.loads((folder / "tokenizer.json").read_text())
    added = {"id": 99, "content": "<new>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}  # fmt: skip
    tokens["added_tokens"].append(added)
    tokens["model"]["vocab"]["<new>"] = 99
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    named = json.loads((folder / "tokenizer_config.json").read_text()) | {f"{token}_token": "<new>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    with pytest.raises(UserError, match=rf"source.{token}: the tokenizer's {token.upper()}: .*such as 99; set it to"):
        config(folder, written(tmp_path / "a.jsonl", []), **settings).prepare(tmp_path / "out", quiet, "cpu")
