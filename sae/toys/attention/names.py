"""Which of two names was said once: ``... A ... B ... A ... end -> B``, a planted indirect-object task.

After BOS a row holds filler tokens, two different names, one of them again, and an end token, at which the answer is
the name that occurred once. Places are drawn anew in every row, and either name may come first, so that neither
positions nor the last or the first name give the answer. It has the form of 'When Mary and John went to the store,
John gave a drink to', where the last name is the one said twice, too (Wang et al. 2022, 'Interpretability in the Wild:
a Circuit for Indirect Object Identification in GPT-2 small').
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from sae.model.token_rows import NOTHING
from sae.numerics.seeds import generator
from sae.source import Split
from sae.toys.attention.task import LONGEST_ROW, Labels, TokenBatch, TokenTask


class Names(TokenTask):
    """Settings of the task of two names."""

    kind: Literal["names"] = "names"
    n_names: int = Field(16, gt=1)
    """Number of names."""
    n_fillers: int = Field(8, gt=0)
    """Number of filler tokens."""
    length: int = Field(16, ge=5, le=LONGEST_ROW)
    """Tokens per row, with BOS and the end token."""

    @property
    def n_tokens(self) -> int:
        return self.length

    @property
    def end(self) -> int:
        """The token at which the answer is asked for."""
        return self.n_names + self.n_fillers

    @property
    def bos(self) -> int:
        return self.end + 1

    @property
    def d_vocab(self) -> int:
        return self.bos + 1

    @property
    def d_vocab_out(self) -> int:
        return self.n_names

    def limit(self, split: Split) -> None:
        return None

    def batch(self, seed: int, split: Split, step: int, size: int) -> TokenBatch:
        draw = generator("names", seed, split, step)
        tokens = torch.randint(self.n_names, self.end, (size, self.length), generator=draw)
        tokens[:, 0], tokens[:, -1] = self.bos, self.end
        places = 1 + torch.rand(size, self.length - 2, generator=draw).argsort(1)[:, :3].sort(1).values
        first = torch.randint(self.n_names, (size, 1), generator=draw)
        second = (first + torch.randint(1, self.n_names, (size, 1), generator=draw)) % self.n_names
        again = torch.where(torch.rand(size, 1, generator=draw) < 0.5, first, second)
        return tokens.scatter(1, places, torch.cat([first, second, again], 1))

    def answers(self, tokens: TokenBatch) -> TokenBatch:
        return torch.where(self._at_end(tokens), self._names(tokens)[0][:, None], NOTHING)

    def labels(self, tokens: TokenBatch) -> Labels:
        """At the end token: ``once`` and ``twice``, the names that occurred so often, and ``once_first``, whether the
        first name is the one that occurred once."""
        once, twice = self._names(tokens)
        first = tokens.gather(1, (tokens < self.n_names).int().argmax(1, keepdim=True))[:, 0]
        known = {"once": once, "twice": twice, "once_first": (first == once).to(tokens)}
        at_end = self._at_end(tokens)
        return {name: torch.where(at_end, label[:, None], NOTHING) for name, label in known.items()}

    def _at_end(self, tokens: TokenBatch) -> Bool[Tensor, "rows n_tokens"]:
        return (torch.arange(self.length) == self.length - 1).expand_as(tokens)

    def _names(self, tokens: TokenBatch) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
        """The name that occurs once in each row, and the one that occurs twice."""
        counts = torch.nn.functional.one_hot(tokens, self.d_vocab).sum(1)[:, : self.n_names]
        return (counts == 1).int().argmax(1), (counts == 2).int().argmax(1)

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        names, fillers = tuple(range(self.n_names)), tuple(range(self.n_names, self.end))
        return {"names": names, "fillers": fillers, "end": (self.end,), "BOS": (self.bos,)}

    def places(self) -> Mapping[str, tuple[int, ...]]:
        return {"BOS": (0,), "names and fillers": tuple(range(1, self.length - 1)), "end": (self.length - 1,)}
