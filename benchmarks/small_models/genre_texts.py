"""Texts of three genres, and a model's activations on them.

The genres are stories (the text of the program), an encyclopaedia (``wikitext2_valid.txt`` next to it) and source code
(modules of Python's standard library), of equal size. Documents are articles, modules, and stretches of stories; a
fifth of the documents of each genre is held out from models, probes and dictionaries.
"""

from __future__ import annotations

import json
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.small_models import Trained, inputs_of
from sae.activations.corpus import PositionSelection
from sae.model.token_rows import TokenRows
from sae.numerics.atomic_write import write_atomically
from sae.numerics.seeds import derive, generator
from sae.registry import UserError
from sae.toys.language.network import LanguageNetwork

GENRES = ("stories", "encyclopaedia", "code")
OTHER_TEXT = "wikitext2_valid.txt"
SIZE = 900_000
"""Characters of each genre."""
STORIES = 12_000
"""Characters of a stretch of stories that counts as one document, about as much as an article or a module has."""
MODULE_BYTES = (2_000, 30_000)
"""Least and largest size of a module of the standard library, so that there are many."""
HELDOUT = 0.2
"""Share of documents that are held out."""
N_ROWS = {"train": 400, "heldout": 300}
"""Rows of 127 tokens of each genre: that probes and dictionaries are fitted to, and that everything is measured on."""


class Document(NamedTuple):
    """A document of a genre."""

    genre: int
    """The index of its genre."""
    name: str
    """The name of a module or the title of an article."""
    text: str
    """Its text."""

    @property
    def split(self) -> str:
        """The split that it is in, by a hash."""
        return "heldout" if derive("genres", self.name, self.text) / 2**63 < HELDOUT else "train"


def documents(stories: Path) -> list[Document]:
    """The documents of all genres. Raises `UserError` where the encyclopaedia is not next to the stories."""
    other = stories.parent / OTHER_TEXT
    if not other.is_file():
        raise UserError(f"text = {str(stories)!r}: no {OTHER_TEXT} next to it; put WikiText-2's validation text there")
    texts = [_stories(stories.read_text(encoding="utf-8")), _articles(other.read_text(encoding="utf-8")), _modules()]
    found: list[Document] = []
    for genre, of_genre in enumerate(texts):
        order = sorted(of_genre.items(), key=lambda named: derive("order", named[0]))
        size = 0
        for name, text in order:
            if size + len(text) <= SIZE:
                found.append(Document(genre, name, text))
                size += len(text)
    return found


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows of tokens of documents, and a model's activations at the kept ones."""

    rows: TokenRows
    """The rows."""
    x: Float[Tensor, "n d"]
    """Activations."""
    document: Int[Tensor, " n"]
    """The document of each sample."""
    genre: Int[Tensor, " documents"]
    """The genre of each document, -1 for one without a row."""

    @property
    def y(self) -> Int[Tensor, " n"]:
        """The genre of each sample."""
        return self.genre[self.document]

    def permuted(self, draw: torch.Generator) -> Samples:
        """The same samples with the genres of documents permuted."""
        genre, some = self.genre.clone(), (self.genre >= 0).nonzero()[:, 0]
        genre[some] = genre[some[torch.randperm(len(some), generator=draw)]]
        return Samples(self.rows, self.x, self.document, genre)


def _stories(text: str) -> dict[str, str]:
    parts, piece = list[str](), ""
    for paragraph in text.split("\n\n"):
        piece += paragraph + "\n\n"
        if len(piece) >= STORIES:
            parts.append(piece)
            piece = ""
    return {f"stories {i}": part for i, part in enumerate(parts)}


def _articles(text: str) -> dict[str, str]:
    """Articles begin with `` = Title = `` between blank lines; those of their sections have more signs."""
    parts = re.split(r"(?m)^ = ([^=\n]+) = *\n", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _modules() -> dict[str, str]:
    library = Path(sysconfig.get_path("stdlib"))
    low, high = MODULE_BYTES
    files = [file for file in library.glob("*.py") if low <= file.stat().st_size <= high]
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def written(found: list[Document], folder: Path) -> Path:
    """Files of the training documents and of the held-out ones, interleaved, and the held-out ones of each genre."""
    folder.mkdir(parents=True, exist_ok=True)
    mixed = sorted(found, key=lambda d: derive("mixture", d.name))
    parts = {f"{split}.jsonl": [d for d in mixed if d.split == split] for split in N_ROWS}
    for g, name in enumerate(GENRES):
        parts[f"by-genre/{name}.jsonl"] = [d for d in mixed if d.split == "heldout" and d.genre == g]
    for name, part in parts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_atomically(folder / name, "".join(json.dumps({"text": d.text}) + "\n" for d in part).encode())
    return folder


def samples(trained: Trained, network: LanguageNetwork, found: list[Document], split: str) -> Samples:
    """As many rows of each genre, of BOS and the tokens of one document."""
    width, draw = trained.settings.model.n_ctx - 1, generator("rows", split)
    tokens: list[Tensor] = []
    document: list[Tensor] = []
    genre = torch.full((len(found),), -1)
    for g in range(len(GENRES)):
        of_genre: list[tuple[Tensor, Tensor]] = []
        for i, one in enumerate(found):
            if one.genre == g and one.split == split:
                ids = torch.tensor(trained.tokenizer(one.text, add_special_tokens=False, verbose=False)["input_ids"])
                n = len(ids) // width
                of_genre.append((ids[: n * width].view(n, width), torch.full((n,), i)))
        rows, of_rows = (torch.cat(parts) for parts in zip(*of_genre, strict=True))
        kept = torch.randperm(len(rows), generator=draw)[: N_ROWS[split]]
        tokens.append(rows[kept])
        document.append(of_rows[kept])
        genre[of_rows[kept]] = g
    every = torch.cat(tokens)
    rows = PositionSelection.of(trained.tokenizer, True)(
        torch.cat([torch.full((len(every), 1), trained.bos), every], 1)
    )
    of_samples = torch.cat(document)[rows.kept.nonzero()[:, 0]]
    # The residual stream after the last layer.
    x = torch.cat([*inputs_of(network.ln_final, network, rows, 64)])
    return Samples(rows, x, of_samples, genre)
