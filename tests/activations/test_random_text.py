"""Made-up text: a document is a function of its number, frequencies are as said, and a source needs no file."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from pipelines.config.config import parse
from sae.activations.random_text import DOCUMENTS_AT_ONCE, document, random_text
from sae.activations.text import Text
from tests.streaming import build


def test_reading_goes_on_at_any_position():
    chunks = list(islice(random_text().chunks(None), 3))
    assert [c.position for c in chunks] == [DOCUMENTS_AT_ONCE * n for n in (1, 2, 3)]
    later = next(iter(random_text().chunks(chunks[0].position)))
    assert later.documents == chunks[1].documents
    assert document(5) == chunks[0].documents[5] != document(6)
    assert list(islice(Text("random:words").read(), 2)) == [document(0), document(1)]


def test_words_are_as_frequent_as_their_rank_says():
    counts = Counter(word for n in range(300) for word in document(n).split(" "))
    (_, first), (_, second), (_, third) = counts.most_common(3)
    assert first / second == pytest.approx(2, rel=0.15) and first / third == pytest.approx(3, rel=0.15)


def test_a_source_needs_no_file(tmp_path: Path):
    source = build(
        tmp_path / "s", model="random:gpt2-tiny", text="random:words", hook="blocks.1.hook_resid_post", context=64,
        n_tokens=3000, n_heldout_tokens=600,
    )  # fmt: skip
    assert source.facts["splits"]["train"]["tokens"] >= 3000 and source.d_in == 64
    assert source.model() is not None


def test_it_must_end_somewhere():
    table = {"kind": "transformer", "model": "random:gpt2-tiny", "text": "random:words", "hook": "hook_embed"}
    with pytest.raises(ValueError, match=r"n_tokens is missing: text = 'random:words' has no end"):
        parse({"name": "x", "source": table, "baselines": {"kinds": ["pca"]}})
