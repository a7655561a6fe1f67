"""The results that the README claims, reproduced from the shipped configs through the pipeline."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from pipelines import runner
from pipelines.commands import suggest
from pipelines.config.config import read_config
from pipelines.plan import plan
from pipelines.steps.progress import Board
from pipelines.steps.store import Store
from sae.source import Source
from sae.sources.features import Config as Features

pytestmark = pytest.mark.usefixtures("shapes_unchecked")
QUIET = Board(Console(quiet=True))
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def both_cores():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def scores(name: str, out: Path, *overrides: str) -> list[dict[str, str]]:
    config = read_config(CONFIGS / f"{name}.toml", overrides)
    steps = plan(config)
    runner.run(steps, Store(out), runner.execution(config.runtime), QUIET)
    with (Store(out).directory(steps[-1]) / "scores.csv").open() as f:
        return list(csv.DictReader(f))


def of(rows: list[dict[str, str]], score: str, **identity: Any) -> list[float]:
    return [float(r[score]) for r in rows if all(r[k] == str(v) for k, v in identity.items())]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_the_demo_shows_too_little_the_right_and_too_much_sparsity(tmp_path: Path):
    """The two ends and the middle of the sweep."""
    rows = scores("demo", tmp_path, "dictionary.n_latents=128", "dictionary.l1=[0.1, 2.0, 32.0]", "train.seeds=0")
    best = {l1: mean(of(rows, "mcc", method="relu", n_latents=128, l1=l1)) for l1 in (0.1, 2.0, 32.0)}
    error = {l1: mean(of(rows, "fvu", method="relu", n_latents=128, l1=l1)) for l1 in best}
    assert mean(of(rows, "mmcs_truth", method="relu", n_latents=128, l1=2.0)) >= 0.95
    assert best[2.0] > best[0.1] + 0.2 and best[2.0] > best[32.0], "too little, right, too much"
    assert error[0.1] < error[2.0] < error[32.0], "reconstruction ranks the sweep otherwise"
    baselines = {r["method"] for r in rows} - {"relu", "oracle"}
    assert baselines == {"random", "data_points", "neurons", "pca", "ica"}
    assert all(best[2.0] > max(of(rows, "mcc", method=b)) for b in baselines)


def corr_50() -> Source:
    [config] = read_config(CONFIGS / "suites" / "corr-50.toml", ["source.seed=0"]).sources
    assert isinstance(config, Features)
    return config.build()


def error_of_the_truth(source: Source, k: int) -> float:
    """Squared error of the true dictionary with only the k largest exact codes per sample, selected over the batch."""
    batch = source.batch(0, 20_000, "test")
    assert batch.codes is not None and source.truth is not None
    largest = batch.codes.flatten().topk(k * 20_000).values[-1]
    sparse = batch.codes * (batch.codes >= largest)
    return float((batch.acts - sparse @ source.truth.directions).square().sum(1).mean())


def test_below_its_l0_the_truth_reconstructs_as_badly_as_published():
    """'Sparse but wrong': the true dictionary limited to 5 of 11 active features has a squared error of 4.88."""
    source = corr_50()
    codes = source.batch(0, 20_000, "test").codes
    assert codes is not None and float((codes > 0).sum(1).float().mean()) == pytest.approx(11, abs=0.3)
    assert error_of_the_truth(source, 5) == pytest.approx(4.88, abs=0.15)


@pytest.mark.slow
@pytest.mark.usefixtures("both_cores")
def test_below_its_l0_a_wrong_dictionary_reconstructs_better_than_the_truth(tmp_path: Path):
    """'Sparse but wrong': BatchTopK at k = 5 learns a squared error of 2.73. About a minute on two cores."""
    overrides = ('dictionary=[{kind="batchtopk", n_latents=50, k=5}]', "baselines.kinds=[]", "train.seeds=0")
    [row] = scores("suites/corr-50", tmp_path, *overrides, "source.seed=0", "train.steps=4000", "train.lr=3e-3")
    source = corr_50()
    acts = source.batch(0, 20_000, "test").acts
    learned = float(row["fvu"]) * float(acts.var(0, correction=0).sum())
    assert learned == pytest.approx(2.73, abs=0.15) and error_of_the_truth(source, 5) > learned + 1.9
    assert float(row["mcc"]) < 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("both_cores")
def test_the_decoder_cosine_is_smallest_at_the_true_l0(tmp_path: Path):
    """'Sparse but wrong': the minimum of c_dec. About two minutes on two cores."""
    overrides = ["source.seed=0", "train.steps=2000", "train.lr=3e-3", "train.seeds=[0, 1]"]
    config = read_config(CONFIGS / "suites" / "corr-50.toml", overrides)
    [curve], _ = suggest.run(config, "batchtopk", [5, 7, 9, 11, 13, 16, 20], tmp_path, QUIET)
    assert curve.suggestion.l0 == pytest.approx(11.1, rel=0.15), suggest.sentence(curve)


@pytest.mark.slow
@pytest.mark.usefixtures("both_cores")
def test_sparsity_makes_a_child_absorb_its_parent(tmp_path: Path):
    """About two minutes on two cores."""
    rows = scores("suites/absorb-4", tmp_path, "source.seed=0", "dictionary.l1=0.1")
    tree, control = ([r for r in rows if kind in r["source"]] for kind in ("tree", "independent"))
    assert min(of(control, "mcc", method="relu")) > 0.99
    assert max(of(tree, "parent_recall_child", method="relu")) < 0.05
    assert min(of(tree, "parent_recall_alone", method="relu")) > 0.95
    assert of(tree, "absorption_full", method="relu") == pytest.approx([0.2] * 3, abs=0.02)
    assert of(tree, "parent_in_child", method="relu") == pytest.approx([0.5**0.5] * 3, abs=0.03)
    assert of(tree, "absorption_full", method="oracle") == [0]


@pytest.mark.slow
@pytest.mark.usefixtures("both_cores")
def test_sharkeys_toy_in_the_middle_of_the_grid(tmp_path: Path):
    """About eight minutes on two cores."""
    rows = scores("sharkey-small", tmp_path, "dictionary.l1=0.1")
    assert min(of(rows, "mcc", method="relu", n_latents=512)) >= 0.90
    assert min(of(rows, "mcc", method="relu", n_latents=1024)) >= 0.98
    at_512 = [mean(of(rows, "mcc", method=m, n_latents=512)) for m in ("random", "data_points")]
    pca, ica = (mean(of(rows, "mcc", method=m)) for m in ("pca", "ica"))
    assert at_512[0] < pca < at_512[1] < ica < mean(of(rows, "mcc", method="relu", n_latents=512))


@pytest.mark.slow
@pytest.mark.usefixtures("both_cores")
def test_refinement_recovers_directions_and_firing_together(tmp_path: Path):
    """About ten minutes on two cores: `python -m pytest -m slow -k recovers_directions`."""
    overrides = 'dictionary={kind="relu", n_latents=512, l1=0.1, decoder_bias=false, refine=true}'
    baselines = 'baselines.kinds=["random", {kind="oracle", encoder=["fista", "stagewise"]}]'
    encoders = 'encoder=["own", {kind="stagewise", rounds=2}, {kind="threshold", layer="learned"}]'
    rows = scores("suites/sharkey-512", tmp_path, overrides, baselines, encoders, "source.seed=0")
    refined = {"method": "relu+refine", "n_latents": 512}
    assert min(of(rows, "mcc", **refined)) >= 0.99
    assert min(of(rows, "f1", encoder="own", **refined)) >= 0.975
    assert min(of(rows, "f1", encoder="stagewise", **refined)) >= 0.95
    assert max(of(rows, "encoder_cost", encoder="stagewise", **refined)) < 3
    assert min(of(rows, "f1", encoder="threshold", **refined)) >= 0.85
    assert set(of(rows, "encoder_cost", encoder="threshold", **refined)) == {1.0}
    assert max(of(rows, "f1", method="relu", encoder="own")) < 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("both_cores")
def test_a_real_model_keeps_its_loss(tmp_path: Path, shared_data: Path):
    """About four minutes on two cores."""
    model, text = shared_data / "models" / "stories260k", shared_data / "text" / "tinystories_train.txt"
    rows = scores("tinystories-local", tmp_path, f"source.model={model}", f"source.text={text}", "dictionary.l1=1.3")
    assert min(of(rows, "ce_recovered_mean", method="relu")) >= 0.90
    assert max(of(rows, "l0", method="relu")) <= 20
    [neurons] = [r for r in rows if r["method"] == "neurons"]
    assert neurons["ce_spliced"] == neurons["ce_clean"] and float(neurons["fvu"]) < 1e-12
