"""Texts that the user gives: their tokens, and a model's activations on them in the form of held-out activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sae.activations.corpus import PADDING, PositionSelection
from sae.activations.packing import Packer
from sae.analysis.latents.reading import HeldOutVectors, Keep, Piece
from sae.analysis.latents.words import Words, words_of
from sae.dictionary import Dictionary, card_table
from sae.model.hooked import Model
from sae.model.loading import load_tokenizer
from sae.model.token_rows import TokenRows
from sae.numerics.norms import within_norm
from sae.registry import UserError
from sae.source import LEFT_OUT

ROWS_AT_ONCE = 32
"""Rows of tokens of one forward pass."""
LONGEST = 1024
"""Tokens in a row where neither a dictionary's card nor the model says how many."""


@dataclass(frozen=True, eq=False)
class TokenisedTexts:
    """The tokens of texts, one row for each; a notebook shows them apart, with their numbers."""

    ids: Int[Tensor, "texts n_tokens"]
    """Token ids; -1 beyond the end of a shorter text."""
    words: Words = field(repr=False)
    """From an id to the text that the token adds."""

    def rows(self) -> list[list[tuple[int, str]]]:
        """The id and the text of every token, for each text."""
        return [[(i, self.words(i)) for i in row if i != PADDING] for row in self.ids.tolist()]

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return "\n".join("|".join(word for _, word in row) for row in self.rows())

    def _repr_html_(self) -> str:
        shades = ("rgba(90, 140, 220, 0.18)", "rgba(220, 150, 60, 0.22)")
        lines: list[str] = []
        for row in self.rows():
            cells = (
                f'<span title="token {i}, position {at}" style="background: {shades[at % 2]}; white-space: pre-wrap">'
                f"{escape(word)}</span>"
                for at, (i, word) in enumerate(row)
            )
            lines.append(f"<p>{''.join(cells)} <small>{len(row)} tokens</small></p>")
        return "".join(lines)


def tokens(model: Any, texts: str | Sequence[str], bos: bool = True) -> TokenisedTexts:
    """The tokens of one text or several, as a model reads them.

    `model` is a :class:`sae.model.hooked.Model`, a TransformerLens Bridge, or the name of a model, of which then only
    the tokenizer is loaded. `bos`: whether each text begins with BOS, where the tokenizer has one; other special tokens
    are not added. Print the result, or show it in a notebook; ``ids`` has the numbers ``[texts, n_tokens]``.

    Raises `UserError` where there is no tokenizer or a text is no text.
    """
    tokenizer = tokenizer_for(model)
    found = token_ids(tokenizer, texts)
    first = [tokenizer.bos_token_id] if bos and tokenizer.bos_token_id is not None else []
    rows = [[*first, *ids] for ids in found]
    width = max(map(len, rows))
    padded = [[*row, *[PADDING] * (width - len(row))] for row in rows]
    return TokenisedTexts(torch.tensor(padded, dtype=torch.int64), words_of(tokenizer))


def tokenizer_for(model: Any) -> Any:
    """The tokenizer of a model, a Bridge, or the name of a model. Raises `UserError` where there is none."""
    if isinstance(model, str):
        return load_tokenizer(model)
    if isinstance(model, Model):
        return load_tokenizer(model.name, model.revision)
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise UserError(f"model: {type(model).__name__} without a tokenizer; give a Model, or the name of a model")
    return tokenizer


def hook_of(d: Dictionary, hook: str | None) -> str:
    """The hook point that is given, or else that of the dictionary's card. Raises `UserError` where it names none."""
    hook = hook or card_table(d.card, "source").get("hook")
    if not isinstance(hook, str):
        raise UserError("hook is missing: the dictionary's card names none; give the hook point it was trained on")
    return hook


def token_ids(tokenizer: Any, texts: Any) -> list[list[int]]:
    """The token ids of one text or several, without special tokens. Raises `UserError` where one is no text."""
    given: list[Any] = [texts] if isinstance(texts, str) else list(texts)
    if not given:
        raise UserError("texts: there is none; give a text, or a list of texts")
    if wrong := [one for one in given if not isinstance(one, str)]:
        raise UserError(f"texts: {type(wrong[0]).__name__} {repr(wrong[0])[:40]}; give a text, or a list of texts")
    return [list(ids) for ids in tokenizer(given, add_special_tokens=False)["input_ids"]]


class GivenTextVectors(HeldOutVectors):
    """A model's activations on given texts, at the positions and in rows of the length that a dictionary was trained
    on, according to its card; without one, no special token and no first position, and rows as long as the texts."""

    def __init__(self, model: Model, tokenizer: Any, texts: str | Sequence[str], d: Dictionary, hook: str) -> None:
        source = card_table(d.card, "source")
        model.check_hook(hook)
        if (width := model.width(hook)) != d.d_in:
            raise UserError(
                f"hook = {hook!r}: width {width}, but the dictionary takes {d.d_in}; give the hook point that it was "
                "trained on"
            )
        found = token_ids(tokenizer, texts)
        ids = [one for one in found if one]
        if not ids:
            raise UserError("texts: no token in any of them; give texts that are not empty")
        self.model, self.hook, self.like = model, hook, d.W_dec
        self.limit = card_table(d.card, LEFT_OUT).get("norm_limit")
        self.select = PositionSelection.of(tokenizer, bool(source.get("drop_position_0", True)))
        bos = None if source.get("bos", "row") == "none" else tokenizer.bos_token_id
        longest = max(map(len, ids)) + (bos is not None)
        self.context = max(2, min(longest, int(source.get("context", LONGEST)), model.n_ctx or longest))
        packer = Packer(self.context, "document", "row", bos, None)
        lengths = np.array([len(one) for one in ids], dtype=np.int64)
        flat = np.concatenate([np.array(one, dtype=np.int32) for one in ids])
        packed = packer.add(np.array([i for i, one in enumerate(found) if one]), flat, lengths)
        self.tokens = torch.from_numpy(packed[:, 0].copy())
        self.document = torch.from_numpy(packed[:, 1, 0].astype(np.int64))  # the text that each row is of
        self.n_vectors = int(self.select(self.tokens).kept.sum())

    def pieces(self, keep: Keep | None = None) -> Iterator[Piece]:
        for begin in range(0, len(self.tokens), ROWS_AT_ONCE):
            rows = self.select(self.tokens[begin : begin + ROWS_AT_ONCE])
            row, position = rows.kept.nonzero(as_tuple=True)
            passes = torch.ones_like(row, dtype=torch.bool)
            if keep is not None:
                passes = torch.from_numpy(keep((row + begin).numpy(), position.numpy()))
            if not bool(passes.any()):
                continue
            row, position = row[passes], position[passes]
            run, which = row.unique(return_inverse=True)  # the model is run over rows of which something is kept
            acts = self.model.activations(rows.tokens[run], rows.attended[run], self.hook)
            x = acts[which.to(acts.device), position.to(acts.device)].to(self.like)
            if isinstance(self.limit, float):
                within = within_norm(x, self.limit).cpu()
                x, row, position = x[within.to(x.device)], row[within], position[within]
            if len(row):
                yield Piece(x, row + begin, position, "test", rows.tokens[row, position])

    def text(self, rows: Int[Tensor, " rows"]) -> TokenRows:
        return self.select(self.tokens[rows])
