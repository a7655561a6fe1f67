"""Files in third-party formats load with one call, and compute what the plain forward pass in ``made.py`` computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sae
from sae.dictionaries.topk import TopK
from sae.encoders.fista import Fista

from .made import MADE, D, M, parts, write_json, write_safe


def rows(n: int = 60) -> Tensor:
    g = torch.Generator().manual_seed(7)
    return (torch.randn(n, D, generator=g) * 4 + torch.randn(D, generator=g)).double()


@pytest.mark.parametrize("name", MADE)
def test_every_format_computes_what_it_says(name: str, tmp_path: Path):
    made, x = MADE[name](tmp_path / name), rows()
    d = sae.load(made.path, **made.options)
    z, x_hat = made.forward(x)
    own = made.codes(d.encode(x.float()).double())
    assert float((own - z).abs().max() / z.abs().max()) < 1e-6
    assert float((d.reconstruct(x.float()) - x_hat).abs().max() / x_hat.abs().max()) < 1e-6
    assert bool(((own != 0) == (z != 0)).all()) and float((z != 0).double().mean()) > 0.05
    assert float(d.encode(x.float()).min()) >= 0


@pytest.mark.parametrize("name", MADE)
def test_the_file_itself_opens_like_its_folder(name: str, tmp_path: Path):
    made = MADE[name](tmp_path / name)
    (weights,) = [
        f
        for f in (tmp_path / name).rglob("*")
        if f.suffix in (".pt", ".npz", ".safetensors") and f.name not in ("sparsity.safetensors", "trainer_state.pt")
    ]
    folder, file = sae.load(made.path, **made.options), sae.load(weights, **made.options)
    assert torch.equal(folder.W_enc, file.W_enc) and file.settings() == folder.settings() and file.card == folder.card


@pytest.mark.parametrize("name", MADE)
def test_what_was_opened_is_saved_in_our_own_form(name: str, tmp_path: Path):
    made, x = MADE[name](tmp_path / name), rows().float()
    d = sae.load(made.path, **made.options)
    sae.save(d, tmp_path / "own")
    e = sae.load(tmp_path / "own")
    assert type(e) is type(d) and e.card == d.card and e.settings() == d.settings()
    assert torch.equal(e.encode(x), d.encode(x)) and torch.equal(e.reconstruct(x), d.reconstruct(x))


def test_what_is_known_of_the_source_has_one_name_in_all_formats(tmp_path: Path):
    sources = {name: sae.load((made := f(tmp_path / name)).path, **made.options).card for name, f in MADE.items()}
    assert sources["gemma_scope"]["source"]["model"] == "google/gemma-2-2b"
    assert sources["gemma_scope"]["source"]["hook"] == "blocks.20.hook_resid_post"
    assert sources["gemma_scope_embedding"]["source"]["hook"] == "hook_embed"
    assert sources["bussmann"]["source"] == {"model": "gpt2-small", "hook": "blocks.8.hook_resid_pre", "context": 128}
    assert sources["saelens"]["source"]["hook"] == "h" and sources["saelens_skip"]["source"]["target"] == "there"
    assert sources["llamascopium"]["source"] == {"hook": "blocks.1.hook_in", "target": "blocks.1.hook_out"}
    assert sources["sparsify"]["source"]["hook"] == "layers.2"
    assert all(str(tmp_path) not in json.dumps(card) for card in sources.values()), "no path of this disk"


def test_one_of_several_is_chosen_by_index_name_or_path(tmp_path: Path):
    made = MADE["learned_dicts"](tmp_path)
    with pytest.raises(
        ValueError, match=r"choose one of 3 by name or index: 0,l1_alpha=0.0001,dict_size=16, 1,"
    ) as told:
        sae.load(tmp_path)
    assert "\n" not in str(told.value)
    by_index, by_name = sae.load(tmp_path, index=1), sae.load(tmp_path, name="1")
    by_path = sae.load(f"{tmp_path}/learned_dicts.pt#1,l1_alpha=0.001,dict_size=16")
    assert torch.equal(by_index.W_enc, by_name.W_enc) and torch.equal(by_index.W_enc, by_path.W_enc)
    assert not torch.equal(by_index.W_enc, sae.load(made.path, index=-1).W_enc)
    for wrong in ({"index": 3}, {"name": "l1"}):
        with pytest.raises(ValueError, match=r"(no 3|none is 'l1'); choose one of 3"):
            sae.load(tmp_path, **wrong)


def test_a_run_of_several_trainers_offers_them(tmp_path: Path):
    for i in (0, 1, 10, 2):
        MADE["dictionary_learning"](tmp_path / "run" / f"trainer_{i}")
    with pytest.raises(
        ValueError, match="choose one of 4 by name or index: trainer_0, trainer_1, trainer_2, trainer_10"
    ):
        sae.load(tmp_path / "run")
    assert sae.load(tmp_path / "run", name="trainer_10").card["config"]["trainer"]["layer"] == 2
    assert sae.load(f"{tmp_path}/run#trainer_2").kind == "relu"


def test_several_files_of_a_folder_are_offered_and_its_companions_are_not(tmp_path: Path):
    MADE["nanda"](tmp_path)
    (tmp_path / "47.pt").write_bytes((tmp_path / "25.pt").read_bytes())
    torch.save({"optimizer": [1]}, tmp_path / "optimizer_0.pt")
    with pytest.raises(ValueError, match=r"choose one of 2 by name or index: 25\.pt, 47\.pt"):
        sae.load(tmp_path)
    assert sae.load(tmp_path, name="47.pt").kind == "relu" and sae.load(tmp_path / "25.pt").card["config"]["d_mlp"] == D


def test_the_same_tensors_of_two_classes_are_not_guessed(tmp_path: Path):
    made = MADE["dictionary_learning_batchtopk"](tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"ae\.pt: an AutoEncoderTopK or a BatchTopKSAE; its config\.json"):
        sae.load(made.path)


def saelens(tmp_path: Path, **change: object) -> Path:
    MADE["saelens"](tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    write_json(tmp_path / "cfg.json", {**config, **change})
    return tmp_path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "temporal"}, "architecture 'temporal' is not supported"),
        ({"architecture": "topk", "k": 99}, "k = 99: a whole number from 1 to n_latents = 16"),
        ({"architecture": "topk", "k": "3"}, "k = '3': a whole number from 1 to n_latents = 16"),
        ({"architecture": "jumprelu"}, "the tensor threshold is missing"),
        (
            {"architecture": "transcoder", "normalize_activations": "layer_norm"},
            "a transcoder with normalize_activations",
        ),
        ({"normalize_activations": "mean"}, "normalize_activations 'mean' is not supported"),
        ({"normalize_activations": "covariance_whitening"}, "activation_whitening.safetensors is missing"),
        ({"normalize_activations": "expected_average_only_in"}, "give scale = sqrt"),
    ],
)
def test_a_config_that_cannot_be_read_is_told_in_one_line(change: dict[str, object], words: str, tmp_path: Path):
    with pytest.raises(ValueError, match=words) as told:
        sae.load(saelens(tmp_path, **change))
    assert "\n" not in str(told.value) and "sae_weights.safetensors" in str(told.value)


def test_a_factor_that_the_files_leave_out_may_be_given(tmp_path: Path):
    folder, x = saelens(tmp_path, normalize_activations="expected_average_only_in"), rows().float()
    plain = MADE["saelens"](tmp_path / "plain")
    z, x_hat = plain.forward(x.double() * 0.5)
    d = sae.load(folder, scale=0.5)
    torch.testing.assert_close(d.encode(x).double(), z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(d.reconstruct(x).double(), x_hat * 2, rtol=1e-5, atol=1e-5)
    write_json(folder / "activation_scaler.json", {"scaling_factor": 0.5, "has_whitening": False})
    assert torch.equal(sae.load(folder).encode(x), d.encode(x))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"W_dec": torch.zeros(5, 5)}, r"W_enc has shape \(6, 16\); \(5, 5\) is expected|b_dec has shape"),
        ({"b_dec": torch.zeros(7)}, r"has shape \(7,\); \(6,\) is expected"),
        ({"b_enc": torch.zeros(M, dtype=torch.int64)}, "b_enc has the type torch.int64"),
        ({"b_enc": torch.full((M,), float("nan"))}, "b_enc holds NaN or infinite values"),
        ({"surprise": torch.zeros(2)}, "the tensor surprise does not belong to the architecture 'standard'"),
        ({"b_enc": None}, "the tensor b_enc is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, Tensor | None], words: str, tmp_path: Path):
    folder = saelens(tmp_path)
    tensors = {n: t for n, t in ({n: parts()[n] for n in ("W_enc", "W_dec", "b_enc", "b_dec")} | change).items()}
    save_file({n: t for n, t in tensors.items() if t is not None}, folder / "sae_weights.safetensors")
    with pytest.raises(ValueError, match=words) as told:
        sae.load(folder)
    assert "\n" not in str(told.value) and "sae_weights.safetensors" in str(told.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("openai", "activation 'Tanh' is not supported"),
        ("sparsify", "activation 'groupmax' is not supported"),
        ("bussmann", "sae_type 'quantile' is not supported"),
        ("llama_scope", "act_fn 'gelu' is not supported"),
    ],
)
def test_an_unknown_activation_is_named(name: str, words: str, tmp_path: Path):
    made = MADE[name](tmp_path)
    if name == "openai":
        state = torch.load(made.path)
        torch.save(state | {"activation": "Tanh"}, made.path)
    else:
        file = {"sparsify": "layers.2/cfg.json", "bussmann": "config.json", "llama_scope": "hyperparams.json"}[name]
        change = {
            "sparsify": {"activation": "groupmax"},
            "bussmann": {"sae_type": "quantile"},
            "llama_scope": {"act_fn": "gelu"},
        }
        write_json(tmp_path / file, json.loads((tmp_path / file).read_text()) | change[name])
    with pytest.raises(ValueError, match=words):
        sae.load(made.path)


def test_sparsify_counts_latents_by_expansion_where_their_number_is_0(tmp_path: Path):
    rows, bias = torch.ones(3 * D, D), torch.zeros(3 * D)
    tensors = {"encoder.weight": rows, "encoder.bias": bias, "W_dec": rows.clone(), "b_dec": torch.zeros(D)}
    write_safe(tmp_path / "sae.safetensors", tensors)
    write_json(tmp_path / "cfg.json", {"d_in": D, "k": 2, "num_latents": 0, "expansion_factor": 3})
    assert sae.load(tmp_path).n_latents == 3 * D
    write_json(tmp_path / "cfg.json", {"d_in": D, "k": 2, "num_latents": 0, "expansion_factor": 4})
    with pytest.raises(ValueError, match=r"encoder\.weight has shape \(18, 6\); cfg\.json expects \(24, 6\)"):
        sae.load(tmp_path)


def test_what_no_format_knows_is_said(tmp_path: Path):
    save_file({"a": torch.zeros(3), "b": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors: its tensors \(a, b\) match no supported format"):
        sae.load(tmp_path)
    crosscoder = {"W_enc": torch.zeros(2, D, M), "W_dec": torch.zeros(M, 2, D), "b_enc": torch.zeros(M),
                  "b_dec": torch.zeros(2, D)}  # fmt: skip
    torch.save(crosscoder, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="a crosscoder"):
        sae.load(tmp_path / "c.pt")
    (tmp_path / "shards" / "sae_weights.dcp").mkdir(parents=True)
    (tmp_path / "shards" / "sae_weights.dcp" / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"sharded checkpoints of torch\.distributed are not supported"):
        sae.load(tmp_path / "shards")
    (tmp_path / "lfs").mkdir()
    (tmp_path / "lfs" / "sae.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(ValueError, match="git lfs pull"):
        sae.load(tmp_path / "lfs")


@pytest.mark.parametrize("format", ["saelens", "dictionary_learning", "sparsify"])
def test_kinds_without_a_place_in_a_format_are_refused(format: str, tmp_path: Path):
    d = Fista.over(torch.eye(D), torch.zeros(D), l1=0.1)
    with pytest.raises(ValueError, match=f"format = '{format}': cannot store a 'fista' dictionary") as told:
        sae.save(d, tmp_path / "x", format=format)
    assert "\n" not in str(told.value) and not (tmp_path / "x").exists()


@pytest.mark.parametrize("format", ["native", "saelens", "dictionary_learning", "sparsify"])
def test_equal_dictionaries_give_equal_bytes(format: str, tmp_path: Path):
    t = parts()
    d = TopK(t["W_enc"], t["W_dec"], t["b_enc"], t["b_dec"], k=3, card={"source": {"hook": "h"}})
    for name in ("a", "b"):
        sae.save(d, tmp_path / name, format=format)
    files = sorted(f.name for f in (tmp_path / "a").iterdir())
    assert files == sorted(f.name for f in (tmp_path / "b").iterdir()) and not any(f.startswith(".") for f in files)
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert torch.equal(sae.load(tmp_path / "a").encode(rows().float()), d.encode(rows().float()))


def test_a_step_of_a_run_opens(tmp_path: Path):
    d = sae.load(MADE["nanda"](tmp_path / "n").path)
    sae.save(d, tmp_path / "train-0" / "dictionary")
    write_safe(tmp_path / "train-0" / "other.safetensors", {"x": torch.zeros(1)})
    assert torch.equal(sae.load(tmp_path / "train-0").W_enc, d.W_enc)
    assert torch.equal(sae.load(tmp_path / "train-0" / "dictionary" / "dictionary.json").W_enc, d.W_enc)
