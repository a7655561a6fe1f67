"""Labelled texts through a model: the right vectors, documents that are not split, other corpora as a shift."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae.activations.disk_source import Activations
from sae.activations.labels import LabelledText, half_of, label_tokens
from sae.probing import TaskSettings, examples_of
from sae.probing.examples import Pooling, ProbeExamples
from sae.probing.texts import TextReader, read_together
from sae.probing.validation import splits
from sae.registry import UserError
from tests.streaming import build, words

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def source(tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Activations:
    folder = tmp_path_factory.mktemp("texts")
    given: dict[str, Any] = {"model": str(tiny_models["llama"]), "hook": HOOK, "separator": "|", "context": 16}
    return build(folder / "source", **given, text=str(words(folder / "text.txt", 200)), heldout_share=0.3)


def documents(folder: Path, n: int = 40, name: str = "tasks") -> Path:
    """Texts of four words, labelled by whether the last one is small; two texts for each document."""
    draw = np.random.default_rng(0)
    lines = ["text,group,small"]
    for i in range(n):
        numbers = draw.integers(0, 40, 4)
        lines.append(f"{' '.join(f'w{k}' for k in numbers)},g{i // 2},{int(numbers[-1] < 20)}")
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder / f"{name}.csv"


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_a_document_is_its_last_token_or_all_of_its_tokens_pooled(source: Activations, pooling: Pooling):
    texts = [LabelledText(text, text, (((0, len(text)), {"y": i % 2}),)) for i, text in enumerate(("w1 w2 w3", "w4"))]
    found = TextReader.like(source)(texts, pooling).read(lambda x: x)
    model = source.boot()
    for row, ids in zip(found, ([1, 4, 5, 6], [1, 7]), strict=True):  # <s> first, three special ids
        acts = model.activations(torch.tensor([ids]), torch.ones(1, len(ids)).bool(), HOOK)[0, 1:]
        pooled = {"last": acts[-1], "mean": acts.mean(0), "max": acts.amax(0)}[pooling]
        np.testing.assert_allclose(row, pooled.numpy(), rtol=1e-4, atol=1e-5)


def test_words_are_examples_of_their_own_with_labels_by_a_function(source: Activations):
    texts = ["w1 w2 w30", "w31 w4"]
    reader = TextReader.like(source)
    labelled = label_tokens(texts, reader.tokenizer, lambda text, start, end: {"large": int(text[start:end] > "w30")})
    found = reader(labelled)
    assert found.labels["large"].tolist() == [0, 0, 0, 1, 1]  # as words, "w4" > "w30"
    assert found.groups.tolist() == [0, 0, 0, 1, 1]


def test_rows_of_one_document_are_never_parted(source: Activations, tmp_path: Path):
    found = examples_of(source, TaskSettings(labels=(documents(tmp_path),), min_count=2))
    for part in (found["train"], found["test"]):
        _, count = part.groups.unique(return_counts=True)
        assert (count == 2).all()
        label = part.labels["small"].numpy() == 1
        for fit, judge in splits(label, part.groups.numpy()):
            assert not set(part.groups.numpy()[fit]) & set(part.groups.numpy()[judge])
    assert len(found["train"]) + len(found["test"]) == 40


def test_halves_are_those_of_the_source(source: Activations, tmp_path: Path):
    from sae.activations.labels import read_labelled

    file = documents(tmp_path)
    found = examples_of(source, TaskSettings(labels=(file,), min_count=2))
    wanted = [t for t in read_labelled(file) if half_of(t, source.config.seed) == "choose"]
    assert found["train"].labels["small"].tolist() == [t.spans[0][1]["small"] for t in wanted]


def test_several_files_are_tasks_of_their_own_and_share_documents(source: Activations, tmp_path: Path):
    files = documents(tmp_path, 40, "a"), documents(tmp_path, 30, "b")
    found = examples_of(source, TaskSettings(labels=files, min_count=1))
    train: ProbeExamples = found["train"]
    assert set(train.labels) == {"a.small", "b.small"}
    a, b = (train.labels[name] for name in ("a.small", "b.small"))
    assert ((a >= 0) ^ (b >= 0)).all()
    assert set(train.groups[b >= 0].tolist()) <= set(train.groups[a >= 0].tolist())  # the same documents


def test_another_corpus_is_a_shift(source: Activations, tmp_path: Path):
    other = tmp_path / "small.jsonl"
    other.write_text("".join(json.dumps({"text": f"w{i} w{i}", "labels": {"small": i % 2}}) + "\n" for i in range(9)))
    found = examples_of(
        source, TaskSettings(labels=(documents(tmp_path),), min_count=2, shift={"labels": [str(other)]})
    )
    assert found["shift"].labels["small"].tolist() == [i % 2 for i in range(9)]


def test_what_cannot_be_read_is_refused_in_one_line(source: Activations, tmp_path: Path):
    file = documents(tmp_path)
    with pytest.raises(UserError, match=r"probe.tasks.shift: .*for texts give \{labels"):
        examples_of(source, TaskSettings(labels=(file,), min_count=2, shift={"noise": 1}))
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv': does not exist"):
        examples_of(source, TaskSettings(labels=(tmp_path / "nowhere.csv",)))
    with pytest.raises(UserError, match=r"no labelled text fits"):
        read_together(TextReader.like(source), [[LabelledText("w1", "w1", ())]], "last")
