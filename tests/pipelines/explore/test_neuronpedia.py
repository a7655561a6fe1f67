"""``sae explore --export neuronpedia``: the files have the format's entries, and their numbers are the dictionary's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sae
from pipelines.explore.neuronpedia import _extent
from sae.dictionaries.relu import Relu
from sae.numerics.seeds import generator

Call = Callable[..., tuple[int, str, str]]
HOOK, CONTEXT, N_LATENTS = "blocks.1.hook_resid_post", 24, 131
FEATURE = {
    "feature_index", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
    "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson", "correlated_features_indices",
    "correlated_features_l1", "correlated_features_pearson", "neg_str", "neg_values", "pos_str", "pos_values",
    "frac_nonzero", "freq_hist_data_bar_values", "freq_hist_data_bar_heights", "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values", "n_prompts_total", "n_tokens_in_prompt", "dataset", "decoder_weights_dist",
    "activations", "vector",
}  # fmt: skip
"""The entries of ``NeuronpediaDashboardFeature`` in SAEDashboard 0.8, and below those of an activation and a batch."""
ACTIVATION = {"bin_min", "bin_max", "bin_contains", "tokens", "values", "qualifying_token_index"}
BATCH = {"model_id", "layer", "sae_set", "sae_id_suffix", "features"}
DEAD = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of a random model with made-up text, and a dictionary one latent of which never fires."""
    folder = tmp_path_factory.mktemp("neuronpedia")
    source = {"kind": "transformer", "model": "random:gpt2-tiny", "text": "random:words", "hook": HOOK}
    source |= {"context": CONTEXT, "n_tokens": 500, "n_heldout_tokens": 900}
    lines = [f"{name} = {json.dumps(value)}" for name, value in source.items()]
    head = f'name = "np"\nruntime = {{device = "cpu", threads = 1, out = "{folder / "runs"}"}}\n'
    (folder / "c.toml").write_text(head + 'baselines = {kinds = ["pca"]}\n[source]\n' + "\n".join(lines) + "\n")
    W = torch.randn(N_LATENTS, 64, generator=generator("neuronpedia"))
    W = W / W.norm(dim=1, keepdim=True)
    bias = torch.full((N_LATENTS,), -0.4)
    bias[DEAD] = -1e6
    sae.save(Relu(20 * W.T.contiguous(), W, bias, torch.zeros(64)), folder / "d")
    return folder


def features_of(out: Path) -> list[dict[str, Any]]:
    files = sorted(out.glob("batch-*.json"), key=lambda f: int(f.stem.removeprefix("batch-")))
    batches = [json.loads(f.read_text(encoding="utf-8")) for f in files]
    assert all(set(batch) == BATCH for batch in batches)
    return [feature for batch in batches for feature in batch["features"]]


@pytest.mark.slow
def test_all_latents_in_several_files(call: Call, folder: Path):
    code, told, warned = call("explore", folder / "d", folder / "c.toml", "--export", "neuronpedia")
    out = folder / "runs" / "np-neuronpedia"
    assert code == 0 and told.strip() == f"files: {out}", warned
    assert sorted(f.name for f in out.iterdir()) == [
        "batch-0.json", "batch-1.json", "run_settings.json", "skipped_indexes.json"
    ]  # fmt: skip
    first = json.loads((out / "batch-0.json").read_text())
    assert (first["model_id"], first["layer"], first["sae_set"]) == ("random:gpt2-tiny", 1, "np")
    features = features_of(out)
    assert [f["feature_index"] for f in features] == list(range(N_LATENTS)) and len(first["features"]) == 128
    assert all(set(f) == FEATURE for f in features)
    d = sae.load(folder / "d")
    for feature in features[:DEAD]:
        check_feature(feature, d)
    assert json.loads((out / "skipped_indexes.json").read_text())["skipped_indexes"] == []


def check_feature(feature: dict[str, Any], d: sae.Dictionary) -> None:
    """The numbers of a latent are those of its row, and those of its activations agree with each other."""
    row = d.W_dec[feature["feature_index"]]
    assert feature["neuron_alignment_values"] == [round(v, 3) for v in row.topk(3).values.tolist()]
    assert sum(feature["logits_hist_data_bar_heights"]) == 512 and len(feature["pos_str"]) == len(feature["neg_str"])
    assert feature["pos_values"] == sorted(feature["pos_values"], reverse=True) and feature["pos_values"][-1] > 0
    assert feature["neg_values"] == sorted(feature["neg_values"]) and feature["neg_values"][-1] < 0
    n = sum(feature["freq_hist_data_bar_heights"])
    assert n > 0 and feature["frac_nonzero"] == pytest.approx(n / (feature["n_prompts_total"] * (CONTEXT - 1)), rel=0.1)
    shares = {a["bin_min"]: a["bin_contains"] for a in feature["activations"] if a["bin_min"] >= 0}
    assert 0 < sum(shares.values()) <= feature["frac_nonzero"] + 1e-4
    strongest = feature["activations"][0]
    assert (strongest["bin_min"], strongest["bin_contains"]) == (-1, -1)
    for activation in feature["activations"]:
        assert set(activation) == ACTIVATION and len(activation["tokens"]) == len(activation["values"]) <= CONTEXT - 1
        value = activation["values"][activation["qualifying_token_index"]]
        low, high = (
            (-1, strongest["bin_max"]) if activation["bin_min"] < 0 else (activation["bin_min"], activation["bin_max"])
        )
        assert low - 2e-3 <= value <= high + 2e-3 and value > 0
    assert max(strongest["values"]) == strongest["bin_max"]


def test_some_latents_and_the_rest_are_skipped(call: Call, folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "run_settings.json").write_text("{}")  # the folder of an older export is replaced
    (out / "batch-9.json").write_text("{}")
    words = ("--export", "neuronpedia", "--latents", f"3,{DEAD},17", "--tokens", 400, "--pages", out)
    code, told, warned = call("explore", folder / "d", folder / "c.toml", *words)
    assert code == 0 and told.strip() == f"files: {out}", warned
    assert sorted(f.name for f in out.iterdir()) == ["batch-0.json", "run_settings.json", "skipped_indexes.json"]
    first, dead, last = features_of(out)
    assert [f["feature_index"] for f in (first, dead, last)] == [3, DEAD, 17]
    for feature in (first, last):
        check_feature(feature, sae.load(folder / "d"))
    assert dead["activations"] == [] and dead["frac_nonzero"] == 0 and dead["freq_hist_data_bar_heights"] == []
    assert dead["correlated_neurons_indices"] == [] and len(dead["neuron_alignment_indices"]) == 3
    skipped = json.loads((out / "skipped_indexes.json").read_text())["skipped_indexes"]
    assert skipped == [j for j in range(N_LATENTS) if j not in (3, DEAD, 17)]
    settings = json.loads((out / "run_settings.json").read_text())
    assert settings["n_tokens_in_prompt"] == CONTEXT and settings["n_prompts_total"] == first["n_prompts_total"]
    assert str(folder) not in json.dumps(settings), "files to publish name no local folders"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--export", "neuronpedia", "--pages", "HERE"], ["exists and was not written", "--pages"]),
        (["--export", "neuronpedia", "--neurons"], ["--neurons", "--export"]),
        (["--export", "elsewhere"], ["--export", "neuronpedia"]),
    ],
)
def test_mistakes_are_told_in_one_line(call: Call, folder: Path, arguments: list[str], words: list[str]):
    given = [str(folder / "d") if a == "HERE" else a for a in arguments]
    code, printed, warned = call("explore", folder / "d", folder / "c.toml", *given)
    assert code == 2 and printed == "" and warned.count("\n") == 1, (printed, warned)
    assert all(word in warned for word in words), warned


def test_a_source_without_tokens_is_refused_before_any_work(call: Call, tiny_file: Path, folder: Path, tmp_path: Path):
    words = ("--export", "neuronpedia", "--out", tmp_path / "runs")
    code, _, warned = call("explore", folder / "d", tiny_file, *words)
    assert code == 2 and "'independent' has no tokens" in warned and not (tmp_path / "runs").exists()


def test_the_part_of_a_window_that_is_shown():
    nan = float("nan")
    assert _extent([-1, 5, 6, 7, -1], [nan, nan, 0.0, 2.0, nan], 3) == (2, 4)
    assert _extent([5, 6, 7], [1.0, 0.0, nan], 0) == (0, 3)
