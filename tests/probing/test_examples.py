"""Examples: pooling by hand, concatenation, and refused inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae.probing import ProbeExamples, TaskSettings, examples_of, joined, tasks_of
from sae.probing.examples import Pooling
from sae.registry import UserError
from sae.source import TensorSource
from sae.sources.code import Config as Code
from sae.sources.features import Config as Features
from sae.sources.independent import Config

CONFIG = Config(n_features=8, d_in=4, probability=0.2)


def texts(pooling: Pooling) -> ProbeExamples:
    """Two examples, of three vectors and of one."""
    acts = torch.tensor([[1.0, -2.0], [4.0, 0.0], [1.0, 5.0], [7.0, -7.0]])
    return ProbeExamples(acts, {"y": torch.tensor([1, 0])}, torch.tensor([0, 1]), torch.tensor([0, 0, 0, 1]), pooling)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("last", [[1, 5], [7, 0]]), ("mean", [[2, 5 / 3], [7, 0]]), ("max", [[4, 5], [7, 0]])],
)
def test_codes_are_pooled_after_they_are_encoded(pooling: Pooling, expected: list[list[float]]):
    torch.testing.assert_close(torch.from_numpy(texts(pooling).read(torch.relu)), torch.tensor(expected).float())


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_blocks_of_whole_examples_give_the_same(pooling: Pooling, monkeypatch: pytest.MonkeyPatch):
    """Blocks of at most four vectors; one example is longer than that."""
    of = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 3, 3, 4])
    acts = torch.randn(len(of), 3, generator=torch.Generator().manual_seed(0))
    examples = ProbeExamples(acts, {}, torch.arange(5), of, pooling)
    whole, seen = examples.read(torch.relu), list[int]()

    def encode(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x.relu()

    monkeypatch.setattr("sae.probing.examples.VECTORS_AT_ONCE", 4)
    assert (examples.read(encode) == whole).all()
    assert seen == [1, 4, 2, 4, 2, 1], "the first is to see the width"


def test_codes_beyond_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sae.numerics.memory.memory_of", lambda device: 15)
    with pytest.raises(UserError, match="max_rows: 2 rows of 2 codes: not enough memory"):
        texts("last").read(torch.relu)


def test_the_maximum_of_negative_columns_is_negative():
    assert texts("max").read(lambda x: -x - 10).tolist() == [[-11, -8], [-17, -3]]


def test_some_of_the_examples_keep_their_vectors():
    own = joined([texts("mean"), texts("mean")]).at(torch.tensor([0, 3]))
    assert own.of.tolist() == [0, 0, 0, 1] and len(own) == 2
    torch.testing.assert_close(own.read(lambda x: x), texts("mean").read(lambda x: x))


def test_what_a_file_does_not_label_is_not_known_of_its_examples():
    a, b = texts("last"), texts("last")
    both = joined([a, ProbeExamples(b.acts, {"z": torch.tensor([0, 1])}, b.groups, b.of)])
    assert both.labels["y"].tolist() == [1, 0, -1, -1] and both.labels["z"].tolist() == [-1, -1, 0, 1]
    (y, z) = tasks_of(both, both)
    assert y.train.index.tolist() == [0, 1] and z.train.index.tolist() == [2, 3]
    assert z.train.positive.tolist() == [False, True]


def test_examples_come_back_from_their_file(tmp_path: Path):
    texts("max").save(tmp_path / "a.safetensors")
    found = ProbeExamples.load(tmp_path / "a.safetensors")
    assert found.pooling == "max" and found.labels.keys() == {"y"}
    torch.testing.assert_close(found.read(lambda x: x), texts("max").read(lambda x: x))


def test_tasks_of_a_toy_are_features_that_are_active():
    source = CONFIG.build()
    found = examples_of(source, TaskSettings(n_tasks=3, max_rows=300))
    assert len(found["train"].labels) == 3 and len(found["train"]) == 300
    batch = source.batch(0, 300, "choose")
    assert batch.codes is not None
    for name, label in found["train"].labels.items():
        assert torch.equal(label.bool(), batch.codes[:, int(name.removeprefix("feature_"))] > 0)
    assert not torch.equal(found["train"].acts, found["test"].acts)


def test_a_shifted_toy_has_the_same_features_at_other_rates():
    found = examples_of(CONFIG.build(), TaskSettings(n_tasks=3, max_rows=2000, shift={"probability": 0.5}), CONFIG)
    for name in found["train"].labels:
        rate = {part: float(e.labels[name].float().mean()) for part, e in found.items()}
        assert abs(rate["train"] - 0.2) < 0.05 and abs(rate["shift"] - 0.5) < 0.05


def test_a_shift_that_changes_the_features_is_refused():
    with pytest.raises(UserError, match=r"probe.tasks.shift: changes the features' directions"):
        examples_of(CONFIG.build(), TaskSettings(max_rows=500, shift={"seed": 1}), CONFIG)


def test_labels_of_a_source_and_its_classes():
    x, y, c = torch.randn(600, 3), torch.arange(600) % 2, torch.arange(600) % 3
    found = examples_of(TensorSource(x, {"y": y, "c": c}, heldout=0.5), TaskSettings())
    assert set(found["train"].labels) == {"y", "c_0", "c_1", "c_2"}


def test_labels_of_a_nonlinear_code():
    config = Code.model_validate({"kind": "code", "code": {"kind": "scenario", "margin": 3.0}})
    found = examples_of(config.build(), TaskSettings())
    assert found["train"].labels and found["train"].labels.keys() == found["test"].labels.keys()


def test_a_source_without_labels_or_features_is_refused():
    with pytest.raises(UserError, match=r"neither labels nor known features; give probe.tasks.labels"):
        examples_of(TensorSource(torch.randn(100, 3)), TaskSettings())
    with pytest.raises(UserError, match=r"none of 8 properties has min_count = 400.*smaller min_count"):
        labels = {f"y{i}": torch.arange(600) % 2 for i in range(8)}
        examples_of(TensorSource(torch.randn(600, 3), labels, heldout=0.5), TaskSettings(min_count=400))


def test_features_that_are_not_represented_are_no_tasks():
    config = Features.model_validate(
        {"n_features": 3, "d_in": 2, "activity": {"kind": "independent", "probability": 0.3}}
    )
    assert set(examples_of(config.build(), TaskSettings(max_rows=400))["train"].labels) == {
        "feature_0",
        "feature_1",
        "feature_2",
    }


@pytest.mark.parametrize(
    ("labels", "groups", "words"),
    [
        ({"y": torch.zeros(3)}, None, r"y: shape \[3\] for 4 rows"),
        ({"y": torch.tensor([0, 1, 2, 0])}, None, r"y: values other than 1, 0 and -1"),
        ({"y": torch.zeros(4)}, torch.zeros(2), r"groups: shape \[2\] for 4 rows"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    labels: dict[str, torch.Tensor], groups: torch.Tensor | None, words: str
):
    with pytest.raises(UserError, match=words):
        ProbeExamples.each(torch.randn(4, 2), labels, groups)
    with pytest.raises(UserError, match=r"acts: .*give a finite matrix"):
        ProbeExamples.each(torch.full((4, 2), torch.nan), {})
