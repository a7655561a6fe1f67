"""Labels, true codes and targets that are NaN, negative or fractional are refused, with their name and number."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sae
from sae.activations.labels import LabelledText, locate, read_labelled
from sae.dictionaries.relu import Relu
from sae.metric import gather_evidence
from sae.probing import ProbeExamples, TaskSettings, examples_of
from sae.registry import UserError
from sae.source import Batch, Source, Split, TensorSource
from sae.sources.tensor import Config

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
GOOD = (torch.arange(60) % 2).float()
WRONG = {
    "nan": (math.nan, "such as nan"),
    "infinite": (math.inf, "such as inf"),
    "negative": (-1.0, "such as -1"),
    "fraction": (0.5, "such as 0.5"),
}


def spoiled(value: float) -> torch.Tensor:
    label = GOOD.clone()
    label[[3, 17, 40]] = value
    return label


def quiet(done: int, total: int, unit: str) -> None: ...


@pytest.mark.parametrize("name", WRONG)
def test_unknown_labels_are_not_negatives(tmp_path: Path, name: str):
    """NaN labels of a tensor source counted as negatives, and the probes' AUC fell without a word."""
    value, words = WRONG[name]
    save_file({"acts": X, "label.noun": spoiled(value)}, tmp_path / "x.safetensors")
    config = Config(file=tmp_path / "x.safetensors")
    message = f"noun.*: 3 of 60 entries are NaN, infinite, negative or fractional, {words}; give 0 or 1"
    with pytest.raises(UserError, match=f"x.safetensors: label.{message}") as caught:
        config.prepare(tmp_path / "out", quiet, "cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=f"labels: '{message}"):
        TensorSource(X, {"noun": spoiled(value)})
    with pytest.raises(UserError, match=f"labels: '{message}"):
        sae.score(Relu.tied(torch.eye(4)), X, labels={"noun": spoiled(value)})


class Foreign(Source):
    """A source of a user's own, whose labels and codes nothing has checked."""

    d_in = 4

    def __init__(self, labels: dict[str, torch.Tensor], codes: torch.Tensor | None = None) -> None:
        self.known, self.codes = labels, codes

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        return Batch(X[:size], codes=None if self.codes is None else self.codes[:size])

    def labelled(self) -> tuple[Batch, Batch] | None:
        return (Batch(X, labels=self.known),) * 2 if self.known else None


def test_labels_and_codes_of_foreign_sources_are_checked_where_they_enter():
    """NaN labels and codes of a source from outside the package counted as negatives and as inactive."""
    labels = Foreign({"noun": spoiled(math.nan)})
    codes = X.abs()
    codes[5, 2] = math.nan
    message = "source: label 'noun': 3 of 60"
    with pytest.raises(UserError, match=message):
        gather_evidence(labels, 60)
    with pytest.raises(UserError, match=message):
        examples_of(labels, TaskSettings())
    for wrong, what in ((codes, "NaN or infinite"), (-X.abs(), "negative")):
        message = f"source: codes: {what} values in [0-9]+ of"
        with pytest.raises(UserError, match=message):
            gather_evidence(Foreign({}, wrong), 60)
        with pytest.raises(UserError, match=message):
            examples_of(Foreign({}, wrong), TaskSettings())


def test_class_ids_booleans_and_whole_floats_are_labels():
    """Only what is no label is refused: every form in which labels were accepted still is."""
    forms = {"bool": GOOD.bool(), "byte": GOOD.to(torch.int8), "float": GOOD, "class": torch.arange(60) % 5}
    assert gather_evidence(TensorSource(X, forms), 10).labelled is not None


def test_activations_and_targets_are_finite():
    """A tensor source that was built in Python took NaN activations and targets."""
    wrong = X.clone()
    wrong[[1, 2], 0] = math.nan
    for acts, targets, name in ((wrong, None, "x"), (X, wrong, "y")):
        with pytest.raises(UserError, match=f"{name}: the activations contain NaN or infinite values in 2 of 60 rows"):
            TensorSource(acts, targets=targets)


def test_labels_of_another_shape(tmp_path: Path):
    """A column vector, or a single number, as a label ended in a traceback or was compared row by row."""
    for label in (GOOD[:, None], torch.tensor(1.0), GOOD[:59]):
        save_file({"acts": X, "label.noun": label.clone()}, tmp_path / "x.safetensors")
        with pytest.raises(UserError, match=r"label.noun: shape \[.*\], expected \[60\]"):
            Config(file=tmp_path / "x.safetensors").prepare(tmp_path, quiet, "cpu")


def test_probe_examples_name_the_number_of_wrong_labels():
    """The refusal of NaN labels did not say which and how many entries are wrong."""
    with pytest.raises(UserError, match=r"noun: values other than 1, 0 and -1 \(unknown\) in 3 of 60 .*such as nan"):
        ProbeExamples.each(X, {"noun": spoiled(math.nan)})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "prompt,target\na,x\nb,\nc,y\nd,\n", "line 3: target = '': 2 of 4 lines have no target"),
        ("a.csv", "prompt,target\na,1.0\nb,nan\nc,0.0\n", "line 3: target = 'nan': 1 of 3 lines have no target"),
        ("a.csv", "text,y,y\na,1,0\n", "line 1: 3 columns, of which several are called 'y'"),
        ("a.csv", "text,y\na,1\nb,nan\n", "line 3: y = 'nan'; a label must be 0 or 1"),
        ("a.jsonl", '{"text": "a", "labels": {"y": NaN}}', "line 1: labels must be 0 or 1, .*; here y = nan"),
        ("a.jsonl", '{"text": "a", "labels": {"y": -1}}', "line 1: labels must be 0 or 1, .*; here y = -1"),
        ("a.jsonl", '{"text": "a", "labels": {"y": null}}', "line 1: labels must be 0 or 1, .*; here y = None"),
        ("a.jsonl", '{"text": "a", "labels": {"y": 1}}\n{"text": "b", "labels": {"z": 1}}', "y is missing, z is new"),
    ],
)
def test_files_of_labelled_texts(tmp_path: Path, name: str, text: str, words: str):
    """An empty target of a .csv file was a class of its own, and of two columns of one name the last one counted."""
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_labelled(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_of_json_are_labels(tmp_path: Path):
    """true, 1 and 1.0 are the same label."""
    lines = [json.dumps({"text": "a", "labels": {"y": value}}) for value in (True, 1, 1.0, 0)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert [text.spans[0][1]["y"] for text in read_labelled(tmp_path / "a.jsonl")] == [1, 1, 1, 0]


class Words:
    """A tokenizer that has one token for each text."""

    is_fast = True

    def __call__(self, text: str, **_: object) -> dict[str, object]:
        return {"input_ids": [7], "offset_mapping": [(0, len(text))]}


@pytest.mark.parametrize(("marks", "words"), [({"z": 1}, "such as None|missing"), ({"y": -1}, "such as -1")])
def test_a_label_that_a_text_lacks_is_not_a_negative(marks: dict[str, int], words: str):
    """Of texts that were labelled in Python, one without a label counted as a negative."""
    texts = [LabelledText("a", "a", (((0, 1), {"y": 1}),)), LabelledText("b", "b", (((0, 1), marks),))]
    with pytest.raises(UserError, match=f"labels: 'y': 1 of 2 spans have no label 0 or 1.*({words})"):
        locate(texts, Words(), 8, None, 10)
