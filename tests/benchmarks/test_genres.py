"""Texts of three genres, classifiers of genres, and planted genres."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from benchmarks.small_models import Models, genre_texts, genres
from benchmarks.small_models.genre_texts import GENRES, OTHER_TEXT, Document, Samples, documents
from sae.activations.corpus import PositionSelection
from sae.numerics.seeds import generator
from sae.registry import UserError

ARTICLE = " \n = Title {i} = \n \n " + "Text of an article . " * 120 + "\n \n = = Section = = \n \n More text . \n"


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    file = tmp_path / "stories.txt"
    file.write_text("\n\n".join(f"Story {i}. " + "One day it rained. " * 20 for i in range(400)))
    (tmp_path / OTHER_TEXT).write_text("".join(ARTICLE.replace("{i}", str(i)) for i in range(60)))
    return file


def test_documents_are_articles_modules_and_stretches_of_stories(stories: Path):
    found = documents(stories)
    of = {name: [d for d in found if d.genre == g] for g, name in enumerate(GENRES)}
    assert sorted(d.name for d in of["encyclopaedia"]) == sorted(f"Title {i}" for i in range(60))
    assert all("= = Section = =" in d.text for d in of["encyclopaedia"])
    assert sum(d.text.count("Story ") for d in of["stories"]) <= 400 and len(of["stories"]) > 10
    assert all(d.name.endswith(".py") for d in of["code"]) and len(of["code"]) > 20
    assert sum(len(d.text) for d in of["code"]) <= genre_texts.SIZE
    heldout = sum(d.split == "heldout" for d in found) / len(found)
    assert 0.1 < heldout < 0.3
    (stories.parent / OTHER_TEXT).unlink()
    with pytest.raises(UserError, match=r"no wikitext2_valid\.txt next to it"):
        documents(stories)


def test_files_keep_training_and_heldout_documents_apart(tmp_path: Path):
    found = [Document(i % 3, f"name {i}", f"text {i}") for i in range(90)]
    folder = genre_texts.written(found, tmp_path / "text")
    lines = {f: set((folder / f).read_text().splitlines()) for f in ("train.jsonl", "heldout.jsonl")}
    by_genre = [set((folder / "by-genre" / f"{name}.jsonl").read_text().splitlines()) for name in GENRES]
    assert not lines["train.jsonl"] & lines["heldout.jsonl"]
    assert sum(map(len, lines.values())) == 90 and set.union(*by_genre) == lines["heldout.jsonl"]


def test_discriminants_are_those_of_scikit_learn():
    draw = generator("discriminant")
    y = torch.arange(600) % 3
    x = torch.randn(600, 6, generator=draw) @ torch.randn(6, 6, generator=draw) + torch.randn(3, 6, generator=draw)[y]
    ours = genres.discriminant(x, y)
    theirs = LinearDiscriminantAnalysis(priors=[1 / 3] * 3).fit(x.double().numpy(), y.numpy())
    labels = (x.double() @ ours.weight + ours.bias).argmax(1)
    assert float((labels == torch.from_numpy(theirs.predict(x.double().numpy()))).double().mean()) > 0.99
    assert ours.accuracy(x, y) > genres.nearest_mean(x, y).accuracy(x, y) > 0.4


def test_the_nearest_mean_is_nearest():
    x, y = torch.randn(300, 5, generator=generator("nearest")), torch.arange(300) % 3
    means = torch.stack([x[y == g].mean(0) for g in range(3)])
    ours = genres.nearest_mean(x, y)
    assert torch.equal((x.double() @ ours.weight + ours.bias).argmax(1), torch.cdist(x, means).argmin(1))


def test_permuted_documents_keep_their_samples_together():
    document, genre = torch.arange(60) // 5, torch.arange(13) % 3
    genre[12] = -1
    rows = PositionSelection((), False)(torch.zeros(0, 2, dtype=torch.long))
    of = Samples(rows, torch.zeros(60, 2), document, genre)
    permuted = of.permuted(generator("permuted"))
    assert permuted.genre.sort().values.tolist() == genre.sort().values.tolist() and int(permuted.genre[12]) == -1
    assert not torch.equal(permuted.genre, genre)
    assert all(len(permuted.y[document == i].unique()) == 1 for i in range(12))


@pytest.mark.slow
def test_the_studies_have_facts(stories: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(genre_texts, "STORIES", 3000)
    monkeypatch.setattr(genres, "SEEDS", (0,))
    monkeypatch.setattr(genres, "DRAWS", 2)
    monkeypatch.setattr(genres, "N_RANDOM", 1024)
    for split in genre_texts.N_ROWS:
        monkeypatch.setitem(genre_texts.N_ROWS, split, 60)
    fit, settings = genres.sae.fit, {"n_latents": 64, "steps": 200}
    monkeypatch.setattr(genres.sae, "fit", lambda x, **given: fit(x, **{**given, **settings}))
    facts = list(genres.genres(Models(stories, stories, stories.parent / "out", {"steps": 30})))
    assert len({fact.claim for fact in facts}) == len(facts) > 20


@pytest.mark.slow
def test_planted_genres_that_use_dimensions_again_are_told_apart(stories: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(genres, "SEEDS", (0,))
    planted = [fact for fact in genres.genres_planted(Models(stories, stories, stories)) if "squared" in fact.claim]
    own, shared, again = (float(fact.measured.split("difference ")[1].split(" ")[0]) for fact in planted)
    assert own < -0.03 and abs(shared) < 0.01 and again > 0.02
