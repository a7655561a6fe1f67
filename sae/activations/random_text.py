"""Text without end that needs no download, for rehearsals: ``random:words``.

Documents of 200 words, drawn from a vocabulary of 5,000 made-up ones with frequencies proportional to 1/rank. Document
i is a function of i alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from sae.activations.text_chunks import Chunk, Reading
from sae.numerics.seeds import derive

RANDOM_WORDS = "random:words"
"""The name of the text."""
VOCABULARY_SIZE = 5_000
"""Words in the vocabulary."""
WORDS_PER_DOCUMENT = 200
"""Words in a document."""
DOCUMENTS_AT_ONCE = 256
"""Documents in a chunk."""


def random_text() -> Reading:
    """The text; a position is the number of a document."""
    return Reading([RANDOM_WORDS, 1], _chunks)


def _chunks(position: int | None) -> Iterator[Chunk]:
    for first in count(position or 0, DOCUMENTS_AT_ONCE):
        yield Chunk([document(first + i) for i in range(DOCUMENTS_AT_ONCE)], first + DOCUMENTS_AT_ONCE)


def document(number: int) -> str:
    """A document of the text."""
    words, cumulative = _vocabulary()
    draws = np.random.default_rng(derive("random text", number)).random(WORDS_PER_DOCUMENT)
    return " ".join(words[cumulative.searchsorted(draws)])


@cache
def _vocabulary() -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """The words and their cumulative probabilities."""
    draw = np.random.default_rng(derive("random words"))
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(draw.choice(letters, size)) for size in draw.integers(2, 10, VOCABULARY_SIZE)]
    weights = (1 / np.arange(1, VOCABULARY_SIZE + 1)).cumsum()
    return np.array(words, dtype=object), weights / weights[-1]
