"""A whole study on toys with known features: true features, controls, and invariances."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sae.dictionaries.relu import Relu
from sae.probing import (
    ProbeExamples,
    ProbeResult,
    StudySettings,
    TaskSettings,
    examples_of,
    read_results,
    study,
    write_results,
)
from sae.probing.controls import thresholds, untrained
from sae.registry import UserError
from sae.sources.independent import Config

CONFIG = Config(n_features=24, d_in=12, probability=0.1, values="constant", noise=0.05)
SOURCE = CONFIG.build()
QUICK = StudySettings(regimes=("standard",), probes=("lr",), k=(1, 4), n_settings=2, n_train=400, seeds=(0,))
TASKS = TaskSettings(n_tasks=3, max_rows=1500)
MEAN = dict[str, float]


@pytest.fixture(scope="module")
def examples() -> dict[str, ProbeExamples]:
    return examples_of(SOURCE, TASKS.model_copy(update={"shift": {"probability": 0.2, "noise": 0.3}}), CONFIG)


def truth_dictionary() -> Relu:
    """A dictionary that detects every feature by its projection, with a threshold at half of its value."""
    assert SOURCE.truth is not None
    directions = SOURCE.truth.directions
    return replace(Relu.tied(directions), b_enc=torch.full((len(directions),), -0.5))


def run(settings: StudySettings, examples: dict[str, ProbeExamples], d: Relu | None = None) -> list[ProbeResult]:
    shift = examples["shift"] if "shift" in settings.regimes else None
    return [r for part in study(settings, examples["train"], examples["test"], d, shift) for r in part]


def mean(results: list[ProbeResult], regime: str = "standard") -> MEAN:
    names = dict.fromkeys(r.method for r in results)
    return {n: float(np.mean([r.test_auc for r in results if (r.method, r.regime) == (n, regime)])) for n in names}


def test_one_latent_of_the_truth_does_what_all_neurons_do_and_an_untrained_dictionary_does_not(
    examples: dict[str, ProbeExamples],
):
    raw, own = mean(run(QUICK, examples)), mean(run(QUICK, examples, truth_dictionary()))
    assert own["latent"] > 0.93 and own["k1"] > 0.93
    assert own["k1"] > raw["lr"] - 0.05 and own["k1"] > raw["neurons_k1"] + 0.1
    assert own["untrained_k1"] < own["k1"] - 0.15 and own["untrained_k4"] < own["k4"] - 0.1


def test_the_codes_themselves_are_perfect(examples: dict[str, ProbeExamples]):
    """Identity: an input in which a column is the property."""
    train, test = (
        ProbeExamples.each(torch.stack([part.labels[name].float() for name in part.labels], dim=1), part.labels)
        for part in (examples["train"], examples["test"])
    )
    found = mean(run(QUICK, {"train": train, "test": test}))
    assert found["lr"] == found["neurons_k1"] == 1


def test_shuffled_labels_are_at_chance_within_their_spread(examples: dict[str, ProbeExamples]):
    settings = QUICK.model_copy(update={"seeds": tuple(range(10)), "k": (1,), "n_settings": 1})
    own = [r for r in run(settings, examples) if r.method == "shuffled"]
    spread = np.std([r.test_auc for r in own])
    assert len(own) == 30 and spread < 0.2  # a random direction has any AUC for a feature that it happens to lean on
    assert abs(np.mean([r.test_auc for r in own]) - 0.5) < 3 * spread / np.sqrt(30)


def test_neither_the_order_nor_the_scale_of_latents_counts(examples: dict[str, ProbeExamples]):
    d = truth_dictionary()
    order, scale = torch.randperm(24), torch.rand(24) * 10 + 0.1
    # A latent twice as large with a decoder row half as long has the same contribution.
    other = Relu(
        (d.W_enc * scale)[:, order].contiguous(), (d.W_dec / scale[:, None])[order], (d.b_enc * scale)[order], d.b_dec
    )
    settings = QUICK.model_copy(update={"penalties": ("l2",)})
    a, b = (
        {(r.task, r.method): r.test_auc for r in run(settings, examples, one) if r.reading == "codes"}
        for one in (d, other)
    )
    assert a.keys() == b.keys()
    for cell, value in a.items():
        assert abs(value - b[cell]) < 2e-3, cell


def test_a_study_is_a_function_of_its_settings(examples: dict[str, ProbeExamples]):
    assert run(QUICK, examples) == run(QUICK, examples)
    assert run(QUICK, examples) != run(QUICK.model_copy(update={"seeds": (1,)}), examples)


def test_the_shift_is_scored_with_the_probes_of_standard(examples: dict[str, ProbeExamples]):
    both = QUICK.model_copy(update={"regimes": ("standard", "shift")})
    found = run(both, examples)
    pairs = {(r.task, r.method): r for r in found if r.regime == "shift"}
    assert len(pairs) * 2 == len(found)
    for r in (r for r in found if r.regime == "standard"):
        moved = pairs[r.task, r.method]
        assert (moved.setting, moved.n, str(moved.val_auc)) == (r.setting, r.n, str(r.val_auc))
    assert mean(found, "shift")["lr"] < mean(found)["lr"]
    alone = run(QUICK.model_copy(update={"regimes": ("shift",)}), examples)
    assert [r for r in found if r.regime == "shift"] == alone


def test_a_shift_that_is_not_there_is_refused(examples: dict[str, ProbeExamples]):
    settings = QUICK.model_copy(update={"regimes": ("shift",)})
    with pytest.raises(UserError, match=r"probe.regimes: 'shift'.*leave it out"):
        next(study(settings, examples["train"], examples["test"]))


def test_rankers_beyond_the_first_are_tried_in_standard_alone(examples: dict[str, ProbeExamples]):
    settings = QUICK.model_copy(
        update={
            "regimes": ("standard", "scarcity"),
            "scarcity": (16,),
            "rankers": ("mean_difference", "random"),
            "k": (2,),
        }
    )
    found = run(settings, examples)
    assert {r.regime for r in found if r.method == "neurons_k2_random"} == {"standard"}
    assert {r.regime for r in found if r.method == "neurons_k2"} == {"standard", "scarcity"}


def test_the_table_comes_back_from_its_file(examples: dict[str, ProbeExamples], tmp_path: Path):
    settings = QUICK.model_copy(update={"regimes": ("scarcity",), "scarcity": (2, 4), "k": (1,)})
    found = run(settings, examples)
    write_results(found, tmp_path / "probes.csv")
    assert list(map(str, read_results(tmp_path / "probes.csv"))) == list(map(str, found))
    assert any(np.isnan(r.val_auc) and r.why == "prior" for r in found)


def test_an_untrained_dictionary_fires_as_often_as_the_trained_one():
    x = SOURCE.batch(0, 2000, "choose").acts
    d = truth_dictionary()
    control = untrained(d, x, 0)
    density = (d.encode(x) > 0).float().mean()
    own = (control.encode(x) > 0).float().mean(0)
    assert control.W_dec.shape == d.W_dec.shape and float((own - density).abs().max()) <= 1.01 / 2000
    assert torch.equal(untrained(d, x, 0).W_dec, control.W_dec) and not torch.equal(
        untrained(d, x, 1).W_dec, control.W_dec
    )


@pytest.mark.parametrize("density", [0.0, 0.25, 1.0])
def test_thresholds_leave_as_many_rows_above_as_they_are_asked_to(density: float):
    x = torch.randn(40, 3)
    assert ((x > thresholds(x, density)).sum(0) == round(40 * density)).all()


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="did you mean 'f_statistic'"):
        StudySettings(rankers=("f_statistics",))
    with pytest.raises(ValueError, match="one column at least"):
        StudySettings(k=(0, 1))
