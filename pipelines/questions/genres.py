"""Which latents are specific to a genre of text, and whether those of different genres share dimensions.

The measures and their controls are those of :mod:`sae.analysis.geometry.group_subspaces`. A genre is a file or a
sub-folder of a folder of texts; the model is run over its documents, which are not those of the source. Give texts that
the dictionary was not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from sae.activations.text import Text
from sae.activations.text_files import TEXT_KINDS, kind_of_file
from sae.analysis.geometry.group_subspaces import (
    LEAST_DIRECTIONS,
    GroupSubspaces,
    group_subspaces,
    specific_of_documents,
)
from sae.analysis.latents.given_text import GivenTextVectors, tokenizer_for
from sae.analysis.latents.group_rates import LEAST_DOCUMENTS, DocumentCounts
from sae.dictionary import Dictionary
from sae.numerics.seeds import generator
from sae.numerics.statistics import of_draws, of_share
from sae.registry import LocalPath, UserError


@dataclass(frozen=True, eq=False)
class _Counted:
    """How often latents fire in each document."""

    fired: Float[Tensor, "documents n_latents"]
    samples: Float[Tensor, " documents"]
    genre: Int[Tensor, " documents"]

    def permuted(self, draw: torch.Generator) -> _Counted:
        return _Counted(self.fired, self.samples, self.genre[torch.randperm(len(self.genre), generator=draw)])

    def specific(self, share: float, least: int) -> Int[Tensor, " n_latents"]:
        return specific_of_documents(self.fired, self.samples, self.genre, share, least)


class Config(QuestionConfig):
    """Settings of the question `genres`."""

    kind: Literal["genres"] = "genres"
    texts: LocalPath | None = None
    """A folder with a file or a sub-folder of texts for each genre, which has its name."""
    column: str = "text"
    """The column of records with the documents."""
    separator: str | None = None
    """The string between the documents of a text file; by default it is running text, as that of a source."""
    n_documents: int = Field(default=100, ge=LEAST_DOCUMENTS)
    """Largest number of documents of each genre, the first ones."""
    share: float = Field(default=0.9, gt=0.5, le=1)
    """Share of a latent's firing, for genres of equal size, that makes it specific to one."""
    least: int = Field(default=50, gt=0)
    """Smallest number of samples in which a latent fires."""
    rank: int = Field(default=8, gt=0)
    """Dimensions of a genre's subspace; no more than half as many as its specific latents."""
    halvings: int = Field(default=10, gt=0)
    """Number of divisions of the latents into halves."""
    permutations: int = Field(default=199, gt=1)
    """Number of permutations of the latents' genres, the control of subspaces."""
    draws: int = Field(default=100, gt=1)
    """Number of permutations of the documents' genres, the control of specific latents."""

    def answer(self, context: QuestionContext) -> Answer:
        d, hook = context.required_dictionary(), context.hook
        documents = self._documents()
        counted = self._counted(context, d, hook, list(documents.values()))
        names = list(documents)
        group = counted.specific(self.share, self.least)
        facts: dict[str, AnswerValue] = {
            "latents that fire often enough": int((counted.fired.sum(0) >= self.least).sum()),
        }
        tables = [self._specific_table(names, counted, group)]
        n_specific = [int((group == g).sum()) for g in range(len(names))]
        enough = [g for g, n in enumerate(n_specific) if n >= LEAST_DIRECTIONS]
        if len(enough) < 2:
            facts["subspaces"] = (
                f"not shown: {n_specific} latents are specific to the genres, {LEAST_DIRECTIONS} of two are needed; "
                "lower ask.genres.share or ask.genres.least, or give more text"
            )
        else:
            numbers = torch.full_like(group, -1)
            for number, g in enumerate(enough):
                numbers[group == g] = number
            found = group_subspaces(
                d.W_dec.detach().cpu(), numbers, self.rank, halvings=self.halvings, permutations=self.permutations,
                seed=self.seed,
            )  # fmt: skip
            facts |= {"latents of each half": found.half, "dimensions of each subspace": found.rank}
            tables += _subspace_tables([names[g] for g in enough], found)
        data = {name: (group == g).nonzero()[:, 0].tolist() for g, name in enumerate(names)}
        return Answer(tables, facts, {"latents": data})

    def _documents(self) -> Mapping[str, list[str]]:
        """The documents of each genre."""
        if self.texts is None:
            raise UserError(
                "ask.genres.texts is missing: give a folder with a file or a sub-folder of texts for each genre, with "
                "--set ask.genres.texts=FOLDER"
            )
        if not self.texts.is_dir():
            raise UserError(f"ask.genres.texts = '{self.texts}': no such folder; correct the path")
        entries = [path for path in sorted(self.texts.iterdir()) if path.is_dir() or kind_of_file(path)]
        if len(entries) < 2:
            raise UserError(
                f"ask.genres.texts = '{self.texts}': {len(entries)} genres; put two or more in it, each a sub-folder "
                f"or a file of {', '.join(TEXT_KINDS)}"
            )
        found: dict[str, list[str]] = {}
        for path in entries:
            given = Text(str(path), column=self.column, separator=self.separator).read()
            documents = [one for one in islice(given, self.n_documents) if isinstance(one, str)]
            if len(documents) < LEAST_DOCUMENTS:
                raise UserError(
                    f"ask.genres.texts: {path.name} has {len(documents)} documents of text; give at least "
                    f"{LEAST_DOCUMENTS}, or say where they end with ask.genres.separator"
                )
            found[path.name if path.is_dir() else path.name.split(".")[0]] = documents
        return found

    def _counted(self, context: QuestionContext, d: Dictionary, hook: str, documents: list[list[str]]) -> _Counted:
        model = context.model
        texts = [text for of_genre in documents for text in of_genre]
        genre = torch.tensor([g for g, of_genre in enumerate(documents) for _ in of_genre])
        vectors = GivenTextVectors(model, tokenizer_for(model), texts, d, hook)
        counts = DocumentCounts(d, len(texts))
        for piece in vectors.pieces():
            counts.add(piece.acts, vectors.document[piece.row])
        some = counts.samples > 0
        return _Counted(counts.fired[some], counts.samples[some], genre[some])

    def _specific_table(self, names: list[str], counted: _Counted, group: Int[Tensor, " n_latents"]) -> AnswerTable:
        draw = generator("genres", self.seed)
        null = torch.stack(
            [
                torch.bincount(counted.permuted(draw).specific(self.share, self.least) + 1, minlength=len(names) + 1)[
                    1:
                ]
                for _ in range(self.draws)
            ]
        )
        often = int((counted.fired.sum(0) >= self.least).sum())
        samples = torch.bincount(counted.genre, counted.samples).tolist()
        rows: list[list[AnswerValue]] = []
        for g, name in enumerate(names):
            n = int((group == g).sum())
            rows.append(
                [
                    name,
                    int((counted.genre == g).sum()),
                    int(samples[g]),
                    n,
                    of_share(n, often),
                    of_draws((null[:, g] / max(often, 1)).tolist()),
                ]
            )
        columns = ("genre", "documents", "samples", "specific latents", "share of latents", "permuted documents")
        return AnswerTable("latents that are specific to a genre", columns, rows)


def _subspace_tables(names: list[str], found: GroupSubspaces) -> list[AnswerTable]:
    measures = {
        "overlap of subspaces": found.subspaces,
        "squared cosine of two latents, mean": found.cosines,
        "|cosine| of the nearest latent, mean": found.nearest,
    }
    contrasts: list[list[AnswerValue]] = [
        [name, of.across, of.within, of.difference, of.difference_permuted, of.p] for name, of in measures.items()
    ]
    pairs: list[list[AnswerValue]] = [[name, *row] for name, row in zip(names, found.pairs.tolist(), strict=True)]
    columns = ("", "across genres", "within a genre", "difference", "with permuted genres", "p")
    return [
        AnswerTable("what the latents of genres share", columns, contrasts),
        AnswerTable("overlap of the subspaces of two genres, and of two halves of one", ("", *names), pairs),
    ]
