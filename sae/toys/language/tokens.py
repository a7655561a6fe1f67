"""The tokenizer of a small language model, and its text as streams of tokens, one for each split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sae.activations.text import Text
from sae.activations.tokeniser import SPLITS, Tokeniser
from sae.model.loading import load_tokenizer
from sae.numerics.memory import check_memory
from sae.registry import LocalPath, Settings, UserError
from sae.source import Split

BOS = "<|endoftext|>"
"""The special token that begins rows and ends documents."""
FILES = ("tokenizer.json", "tokenizer_config.json")
N_BYTES = 256
_TIMES = 12
"""Bytes of memory for every byte of text."""
Streams = Mapping[Split, NDArray[np.int32]]
"""The tokens of the documents of each split, one document after the other."""


class TokenizerConfig(Settings):
    """Settings of the tokenizer."""

    n_tokens: int = Field(default=1024, gt=N_BYTES + 1)
    """Number of tokens, among them all bytes and the one that begins rows."""
    folder: LocalPath | None = None
    """A folder with a tokenizer to use in place of one that is trained on the text; `n_tokens` is then ignored."""

    def external_files(self) -> dict[str, Path]:
        """The files of the folder."""
        if self.folder is None:
            return {}
        if not self.folder.is_dir():
            raise UserError(f"source.tokenizer.folder = '{self.folder}': no such folder; correct the path")
        return {f"tokenizer/{file.name}": file for file in tokenizer_files(self.folder)}


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of the tokenizer in a folder."""
    files = (file for file in folder.iterdir() if "token" in file.name or file.name in OTHER_FILES)
    return sorted(file for file in files if file.is_file())


OTHER_FILES = ("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "added_tokens.json")
"""Files of tokenizers whose names do not say so."""


def make_tokenizer(config: TokenizerConfig, text: Text, folder: Path) -> Any:
    """The tokenizer, from the files that are put into `folder`.

    Trained on the whole text where no folder is given: byte-pair encoding (Sennrich et al. 2016) of bytes, so that
    every text can be written. The same text gives the same tokenizer. Raises `UserError` where a given tokenizer has no
    token to begin rows.
    """
    if config.folder is None:
        _train(config.n_tokens, _strings(text), folder)
        return load_tokenizer(str(folder))
    from transformers import AutoTokenizer

    try:
        given: Any = AutoTokenizer.from_pretrained(str(config.folder))
    except (OSError, ValueError) as error:
        raise UserError(f"source.tokenizer.folder = '{config.folder}': {' '.join(str(error).split())[:200]}") from None
    if given.bos_token_id is None:
        raise UserError(f"source.tokenizer.folder = '{config.folder}': it has no BOS to begin rows; give another")
    given.save_pretrained(str(folder))
    return load_tokenizer(str(folder))


def streams(text: Text, tokenizer: Any, seed: int, heldout_share: float) -> Streams:
    """The tokens of the text by split; every document is in the split that a source's is."""
    tokeniser = Tokeniser(text, tokenizer, len(tokenizer), seed, heldout_share)
    parts: dict[Split, list[NDArray[np.int32]]] = {split: [] for split in SPLITS}
    for chunk in text.open().chunks(None):
        done = tokeniser(chunk)
        if done.error is not None:
            raise done.error
        tokeniser.check(done.refused, 1 + len(done.lengths))
        for document, split in zip(np.split(done.ids, done.lengths.cumsum()[:-1]), done.splits.tolist(), strict=True):
            parts[SPLITS[split]].append(document)
    return {split: np.concatenate([np.empty(0, np.int32), *documents]) for split, documents in parts.items()}


def whole_stream(text: Text, tokenizer: Any) -> NDArray[np.int32]:
    """The tokens of all documents of a text."""
    return np.concatenate(list(streams(text, tokenizer, 0, 0.0).values()))


def _strings(text: Text) -> Iterable[str]:
    if text.path.is_file():
        check_memory(f"source.text = {text.name!r}", _TIMES * text.path.stat().st_size)
    for document in text.read():
        if not isinstance(document, str):
            raise UserError(
                f"source.text = {text.name!r}: lists of token ids; set source.tokenizer.folder to their tokenizer"
            )
        yield document


def _train(n_tokens: int, documents: Iterable[str], folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        special_tokens=[BOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.save(str(folder / FILES[0]))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": BOS}
    (folder / FILES[1]).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
