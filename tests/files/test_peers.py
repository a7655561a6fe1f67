"""Files of other libraries load here and files saved here load there, with equal outputs of their classes on the same
activations. Each part runs where its library is installed, and all of them with `make peers`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae
from benchmarks.trainers.overcomplete import give_back_colormaps
from sae.dictionaries.batchtopk import BatchTopK
from sae.dictionaries.gated import Gated
from sae.dictionaries.jumprelu import JumpReLU
from sae.dictionaries.matching_pursuit import MatchingPursuit
from sae.dictionaries.relu import Relu
from sae.dictionaries.standardised import Standardised
from sae.dictionaries.topk import TopK
from sae.dictionaries.transcoder import Transcoder

D, M = 12, 30


@pytest.fixture
def x() -> Tensor:
    """Activations like those of a residual stream: correlated, not centred, with one dimension of larger scale."""
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(200, D, generator=g) @ torch.randn(D, D, generator=g)
    rows[:, 3] *= 8
    return rows + 3 * torch.randn(D, generator=g)


@pytest.fixture
def real_rows(shared_data: Path) -> Tensor:
    """Activations of a small language model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shared_data / "models" / "stories260k"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = (shared_data / "text" / "tinystories_valid.txt").read_text()[:6000]
    tokens = torch.tensor([tokenizer(text)["input_ids"][:512]])
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(tokens, output_hidden_states=True).hidden_states[3][0, 1:]


def randomised(module: Any, seed: int = 1, spread: float = 0.4) -> Any:
    """Replaces the initial parameters by random ones, so that no bias is zero and no weights are tied."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            p.copy_(torch.randn(p.shape, generator=g) * spread)
            if "threshold" in name:
                p.abs_()
    return module


def close(a: Tensor, b: Tensor) -> None:
    """Asserts that two tensors are equal up to 1e-6 of the largest element."""
    assert a.shape == b.shape
    off = float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1e-30))
    assert off < 1e-6, off


# SAELens

saelens = pytest.mark.peer("sae_lens")


def lens_sae(architecture: str, **settings: Any) -> Any:
    from sae_lens.registry import get_sae_class

    cls, config = get_sae_class(architecture)
    made = cls(config(d_in=settings.pop("d_in", D), d_sae=M, **settings))
    if architecture == "matching_pursuit":
        randomised(made)
        made.W_dec.data /= made.W_dec.data.norm(dim=-1, keepdim=True)
        return made
    return randomised(made)


LENS = [
    ("standard", {}),
    ("standard", {"apply_b_dec_to_input": False}),
    ("standard", {"normalize_activations": "layer_norm"}),
    ("standard", {"normalize_activations": "constant_norm_rescale"}),
    ("jumprelu", {}),
    ("jumprelu", {"apply_b_dec_to_input": False, "normalize_activations": "layer_norm"}),
    ("gated", {}),
    ("gated", {"apply_b_dec_to_input": False}),
    ("topk", {"k": 4}),
    ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    ("topk", {"k": 4, "normalize_activations": "layer_norm", "rescale_acts_by_decoder_norm": True}),
    ("abstopk", {"k": 4}),
    ("abstopk", {"k": 4, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False}),
    ("matching_pursuit", {}),
    ("matching_pursuit", {"residual_threshold": 5.0, "max_iterations": 6, "apply_b_dec_to_input": False}),
    ("matching_pursuit", {"residual_threshold": 0.0, "max_iterations": 5, "stop_on_duplicate_support": False}),
    ("transcoder", {"d_out": D, "apply_b_dec_to_input": False}),
    ("transcoder", {"d_out": 7, "apply_b_dec_to_input": False}),
    ("skip_transcoder", {"d_out": D, "apply_b_dec_to_input": False}),
    ("skip_transcoder", {"d_out": 7, "apply_b_dec_to_input": False}),
    ("jumprelu_transcoder", {"d_out": 7, "apply_b_dec_to_input": False}),
    ("jumprelu_skip_transcoder", {"d_out": D, "apply_b_dec_to_input": False}),
]


@saelens
@pytest.mark.parametrize(("architecture", "settings"), LENS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_every_architecture_of_saelens_opens(architecture: str, settings: dict[str, Any], x: Tensor, tmp_path: Path):
    theirs = lens_sae(architecture, **settings)
    theirs.cfg.metadata.hook_name, theirs.cfg.metadata.prepend_bos = "blocks.1.hook_resid_post", True
    theirs.save_model(tmp_path)
    d = sae.load(tmp_path)
    assert d.card["source"] == {"hook": "blocks.1.hook_resid_post", "bos": "row"}
    with torch.no_grad():
        z, x_hat = theirs.encode(x), theirs(x)
    close(d.reconstruct(x), x_hat)
    own = d.encode(x)
    if isinstance(d, Standardised):
        close(d.decode(own), x_hat)
        own = own[:, : d.n_read] / own[:, d.n_read, None]
    if d.card.get("signed"):
        own = own[:, :M] - own[:, M:]
    close(own, z)
    if "skip" in architecture:
        close(d.decode(own), theirs.decode(z))
    sae.save(d, tmp_path / "native")
    assert torch.equal(sae.load(tmp_path / "native").reconstruct(x), d.reconstruct(x))


@saelens
@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk", "topk"])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("how", ["none", "expected_average_only_in", "covariance_whitening"])
def test_checkpoints_of_training_do_what_their_finished_form_does(
    architecture: str, rescale: bool, how: str, x: Tensor, tmp_path: Path
):
    """SAELens converts BatchTopK to JumpReLU when training ends, and folds norms and factors into the weights."""
    from sae_lens.registry import get_sae_training_class
    from safetensors.torch import save_file

    cls, config = get_sae_training_class(architecture)
    more = {"matryoshka_widths": [10, M]} if "matryoshka" in architecture else {}
    theirs = randomised(cls(config(d_in=D, d_sae=M, k=4, normalize_activations=how,
                                   rescale_acts_by_decoder_norm=rescale, **more)))  # fmt: skip
    if hasattr(theirs, "topk_threshold"):
        theirs.topk_threshold = torch.tensor(1.5, dtype=torch.float64)
    (tmp_path / "checkpoint").mkdir()
    theirs.save_model(tmp_path / "checkpoint")
    if how == "expected_average_only_in":
        (tmp_path / "checkpoint" / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.17}))
        theirs.fold_activation_norm_scaling_factor(0.17)
    if how == "covariance_whitening":
        matrix = torch.randn(D, D, dtype=torch.float64)
        parts = {"mean": x.mean(0).double(), "matrix": matrix, "inverse_matrix": torch.linalg.inv(matrix).contiguous()}
        save_file(parts, tmp_path / "checkpoint" / "activation_whitening.safetensors")
        theirs = theirs.double()
        theirs.dtype = torch.float64
        theirs.fold_activation_whitening(*parts.values())
        theirs.cfg.dtype = "float64"
    theirs.save_inference_model(tmp_path / "finished")
    d, finished = sae.load(tmp_path / "checkpoint"), sae.load(tmp_path / "finished")
    assert d.kind == {"batchtopk": "batchtopk", "topk": "topk"}.get(architecture, "matryoshka")
    a, b = (e.to(dtype=torch.float64).reconstruct(x.double()) for e in (d, finished))
    assert float((a - b).abs().max() / b.abs().max()) < 2e-5
    if how == "none":
        from sae_lens import SAE

        theirs_again = SAE.load_from_disk(tmp_path / "finished")
        close(d.reconstruct(x), theirs_again(x).detach())


@saelens
def test_saelens_config_of_before_version_6(x: Tensor, tmp_path: Path):
    from sae_lens import SAE

    theirs = lens_sae("topk", k=3)
    theirs.save_model(tmp_path)
    old = {"d_in": D, "d_sae": M, "dtype": "float32", "device": "cpu", "model_name": "gpt2", "context_size": 64,
           "hook_point": "blocks.0.hook_q", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3},
           "normalize_activations": False, "apply_b_dec_to_input": False, "prepend_bos": False}  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    d, theirs = sae.load(tmp_path), SAE.load_from_disk(tmp_path)
    close(d.encode(x), theirs.encode(x).detach())
    assert d.card["source"] == {"model": "gpt2", "hook": "blocks.0.hook_q", "context": 64, "bos": "none"}


def ours() -> dict[str, sae.Dictionary]:
    """One dictionary of each kind that another format can store."""
    g = torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    rows = random(M, D)
    rows /= rows.norm(dim=-1, keepdim=True)
    parts = random(D, M), rows, random(M), random(D)
    threshold, zeros = random(M).abs(), torch.zeros(M)
    card = {"source": {"model": "gpt2", "hook": "blocks.2.hook_resid_pre", "context": 32, "bos": "row"}}
    out = random(D, M), random(M, 7), random(M), random(7)
    return {
        "relu": Relu(*parts, card=card),
        "gated": Gated(*parts, gain=random(M).exp(), shift=random(M), card=card),
        "topk": TopK(*parts, k=5, card=card),
        "jumprelu": JumpReLU(*parts, threshold=threshold, card=card),
        "batchtopk": BatchTopK(*parts, threshold=torch.full((M,), 0.7), card=card),
        "matching_pursuit": MatchingPursuit(rows.T.contiguous(), rows, zeros, random(D), k=4, card=card),
        "standardised": Standardised.over(TopK(*parts, k=5, card=card), "layer_norm", 1e-5),
        "transcoder": Transcoder(*out, reader="jumprelu", threshold=threshold, W_skip=random(D, 7), card=card),
        "skip": Transcoder(*parts, reader="topk", reader_settings={"k": 5}, W_skip=random(D, D), card=card),
    }


@saelens
@pytest.mark.parametrize("kind", [k for k in ours() if k != "skip"])
def test_saelens_opens_what_is_written_for_it(kind: str, x: Tensor, tmp_path: Path):
    from sae_lens import SAE

    d = ours()[kind]
    sae.save(d, tmp_path, format="saelens")
    theirs = SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        z, x_hat = theirs.encode(x), theirs(x)
    own = d.encode(x)
    close(own[:, :M] / own[:, M, None] if kind == "standardised" else own, z)
    close(d.reconstruct(x), x_hat)
    assert theirs.cfg.metadata.hook_name == "blocks.2.hook_resid_pre" and theirs.cfg.metadata.prepend_bos is True
    again = sae.load(tmp_path)
    close(again.reconstruct(x), d.reconstruct(x))
    assert again.card["source"] == d.card["source"]


# dictionary_learning

learning = pytest.mark.peer("dictionary_learning")


def learned(name: str) -> Any:
    from dictionary_learning import dictionary as those
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    made = {
        "AutoEncoder": lambda: those.AutoEncoder(D, M),
        "AutoEncoderNew": lambda: those.AutoEncoderNew(D, M),
        "GatedAutoEncoder": lambda: those.GatedAutoEncoder(D, M),
        "JumpReluAutoEncoder": lambda: those.JumpReluAutoEncoder(D, M),
        "AutoEncoderTopK": lambda: AutoEncoderTopK(D, M, 4),
        "BatchTopKSAE": lambda: BatchTopKSAE(D, M, 4),
        "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(D, M, 4, [10, M - 10]),
    }[name]()
    return randomised(made)


CLASSES = ["AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder", "AutoEncoderTopK",
           "BatchTopKSAE", "MatryoshkaBatchTopKSAE"]  # fmt: skip


def saved(module: Any, folder: Path, **more: Any) -> Path:
    """Saves a module as dictionary_learning's trainer does."""
    folder.mkdir()
    name = type(module).__name__
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": M, "k": 4, "layer": 3,
               "lm_name": "EleutherAI/pythia-70m", "submodule_name": "resid_post_layer_3"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128, "d_submodule": D}}))
    state = {k: v.cpu() for k, v in module.state_dict().items()}
    torch.save({"step": 5, "ae": state, "optimizer": {"state": {}}, **more} if more else state, folder / "ae.pt")
    return folder


@learning
@pytest.mark.parametrize("threshold", [-1.0, 2.0])
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_dictionary_learning_opens(name: str, threshold: float, x: Tensor, tmp_path: Path):
    from dictionary_learning.utils import load_dictionary

    theirs = learned(name)
    if "TopK" in name:
        theirs.threshold.fill_(threshold)
    folder = saved(theirs, tmp_path / "trainer_0")
    d, (theirs, _) = sae.load(folder), load_dictionary(str(folder), device="cpu")
    close(d.encode(x), theirs.encode(x).detach())
    close(d.decode(d.encode(x)), theirs(x).detach())
    assert d.card["source"]["model"] == "EleutherAI/pythia-70m" and d.card["source"]["context"] == 128


@learning
@pytest.mark.parametrize("name", ["AutoEncoder", "GatedAutoEncoder", "JumpReluAutoEncoder", "BatchTopKSAE"])
def test_a_checkpoint_of_dictionary_learning_is_in_units_of_its_factor(name: str, x: Tensor, tmp_path: Path):
    theirs = learned(name)
    if name == "AutoEncoder":
        theirs.normalize_decoder()
    if name == "BatchTopKSAE":
        theirs.threshold.fill_(1.0)
    d = sae.load(saved(theirs, tmp_path / "trainer_0", norm_factor=2.5))
    theirs.scale_biases(2.5)
    close(d.encode(x), theirs.encode(x).detach())
    close(d.decode(d.encode(x)), theirs(x).detach())


@learning
@pytest.mark.parametrize("kind", ["relu", "gated", "topk", "jumprelu", "batchtopk"])
def test_dictionary_learning_opens_what_is_written_for_it(kind: str, x: Tensor, tmp_path: Path):
    from dictionary_learning.utils import load_dictionary

    d = ours()[kind]
    sae.save(d, tmp_path, format="dictionary_learning")
    theirs, _ = load_dictionary(str(tmp_path), device="cpu")
    close(d.encode(x), theirs.encode(x).detach())
    close(d.decode(d.encode(x)), theirs(x).detach())
    close(sae.load(tmp_path).reconstruct(x), d.reconstruct(x))


# sparsify

sparsify = pytest.mark.peer("sparsify")


def coder(**settings: Any) -> Any:
    from sparsify import SparseCoder, SparseCoderConfig

    return randomised(SparseCoder(D, SparseCoderConfig(num_latents=M, k=4, **settings)))


def codes(theirs: Any, x: Tensor) -> Tensor:
    top = theirs.encode(x)
    return torch.zeros(len(x), M).scatter(1, top.top_indices, top.top_acts).detach()


@sparsify
@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_coders_of_sparsify_open(transcode: bool, skip: bool, x: Tensor, tmp_path: Path):
    theirs = coder(transcode=transcode, skip_connection=skip)
    theirs.save_to_disk(tmp_path / "layers.3.mlp")
    (tmp_path / "config.json").write_text(json.dumps({"model": "HuggingFaceTB/SmolLM2-135M", "ctx_len": 2048}))
    d = sae.load(tmp_path / "layers.3.mlp")
    close(d.encode(x), codes(theirs, x))
    close(d.reconstruct(x), theirs(x).sae_out.detach())
    assert d.card["source"] == {"hook": "layers.3.mlp", "model": "HuggingFaceTB/SmolLM2-135M", "context": 2048}


@sparsify
@pytest.mark.parametrize("kind", ["topk", "relu", "skip"])
def test_sparsify_opens_what_is_written_for_it(kind: str, x: Tensor, tmp_path: Path):
    from sparsify import SparseCoder

    d = ours()[kind]
    sae.save(d, tmp_path / "layers.0", format="sparsify")
    theirs = SparseCoder.load_from_disk(tmp_path / "layers.0")
    close(d.encode(x), codes(theirs, x))
    close(d.reconstruct(x), theirs(x).sae_out.detach())
    close(sae.load(tmp_path / "layers.0").reconstruct(x), d.reconstruct(x))


# overcomplete


@pytest.mark.peer("overcomplete")
@pytest.mark.parametrize("how", ["relu", "topk", "jump", "multiplier", "tied", "untied"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_models_of_overcomplete_open(how: str, suffix: str, x: Tensor, tmp_path: Path):
    give_back_colormaps()
    from overcomplete import sae as those
    from safetensors.torch import save_file

    if how == "topk":
        theirs = those.TopKSAE(D, M, top_k=4)
    elif how == "jump":
        theirs = those.JumpSAE(D, M)
    else:
        theirs = those.SAE(D, M, dictionary_params={"use_multiplier": how == "multiplier"})
        theirs = theirs.tied(bias=True) if how == "tied" else theirs.untied() if how == "untied" else theirs
    randomised(theirs)
    theirs.eval()
    state = theirs.state_dict()
    file = tmp_path / f"sae.{suffix}"
    torch.save(state, file) if suffix == "pt" else save_file({k: v.clone() for k, v in state.items()}, file)
    d = sae.load(file, k=4 if how == "topk" else None)
    _, z, x_hat = theirs(x)
    close(d.encode(x), z.detach())
    close(d.decode(d.encode(x)), x_hat.detach())


@saelens
def test_on_rows_of_a_real_model_each_way_of_reading_agrees(real_rows: Tensor, tmp_path: Path):
    x, d_in = real_rows, real_rows.shape[1]
    for i, (architecture, settings) in enumerate([LENS[0], LENS[2], LENS[4], LENS[6], LENS[9], LENS[11], LENS[13]]):
        theirs = lens_sae(architecture, d_in=d_in, **settings)
        theirs.save_model(tmp_path / str(i))
        with torch.no_grad():
            close(sae.load(tmp_path / str(i)).reconstruct(x), theirs(x))
