"""Files in every third-party format, written by hand after its description, each with a plain forward pass.

Nothing here uses the library's readers or writers: tensors are saved with torch, numpy and safetensors as the original
trainers save them, and the expected function is written out separately in float64.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D, M, K = 6, 16, 3
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


class Made(NamedTuple):
    """A file in a third-party format, how to load it, and the codes and reconstruction it must give."""

    path: Path
    forward: Forward
    options: Mapping[str, Any] = {}
    codes: Callable[[Tensor], Tensor] = lambda z: z
    """Converts the codes of the loaded dictionary to those of the forward pass."""


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers; the same for the same shape and seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 * seed + sum(shape)))


def parts(seed: int = 0) -> dict[str, Tensor]:
    """W_enc [d, m], W_dec [m, d], b_enc, b_dec and a threshold."""
    return {
        "W_enc": numbers(D, M, seed=seed),
        "W_dec": numbers(M, D, seed=seed + 1),
        "b_enc": numbers(M, seed=seed + 2),
        "b_dec": numbers(D, seed=seed + 3),
        "threshold": numbers(M, seed=seed + 4).abs(),
    }


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_safe(file: Path, tensors: Mapping[str, Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, file)


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def top_k(p: Tensor, k: int) -> Tensor:
    """Keeps the k largest values of each row, one row after the other."""
    out = torch.zeros_like(p)
    for row, into in zip(p, out, strict=True):
        for j in sorted(range(len(row)), key=lambda j: -float(row[j]))[:k]:
            into[j] = row[j]
    return out


def doubled(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() for name, value in t.items()}


def centred(t: Mapping[str, Tensor], act: Callable[[Tensor], Tensor]) -> Forward:
    t = doubled(t)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        z = act((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
        return z, z @ t["W_dec"] + t["b_dec"]

    return forward


def uncentred(t: Mapping[str, Tensor], act: Callable[[Tensor], Tensor]) -> Forward:
    t = doubled(t)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        z = act(x @ t["W_enc"] + t["b_enc"])
        return z, z @ t["W_dec"] + t["b_dec"]

    return forward


def jump(t: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    threshold = t["threshold"].double()
    return lambda p: torch.where(p > threshold, p, torch.zeros_like(p)).clamp_min(0)


def standardised(inside: Forward) -> Forward:
    """Applies a forward pass to standardised rows (mean and unbiased deviation), and converts the result back."""

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        mu = x.mean(-1, keepdim=True)
        std = ((x - mu).square().sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
        z, x_hat = inside((x - mu) / (std + 1e-5))
        return z, x_hat * std + mu

    return forward


def in_their_units(z: Tensor) -> Tensor:
    return z[..., :M] / z[..., M : M + 1]


def saelens(folder: Path) -> Made:
    t = parts()
    del t["threshold"]
    write_safe(folder / "sae_weights.safetensors", t)
    write_json(folder / "cfg.json", {"architecture": "standard", "d_in": D, "d_sae": M, "dtype": "float32",
               "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none",
               "reshape_activations": "none", "metadata": {"sae_lens_version": "6.54.12",
               "hook_name": "h"}})  # fmt: skip
    save_file({"sparsity": torch.zeros(M)}, folder / "sparsity.safetensors")
    (folder / "trainer_state.pt").write_bytes(b"\x80\x02cposix\nsystem\nq\x00.")
    return Made(folder, centred(t, relu))


def saelens_gated(folder: Path) -> Made:
    t = parts()
    own = {"b_gate": numbers(M, seed=8), "b_mag": numbers(M, seed=9), "r_mag": numbers(M, seed=10)}
    write_safe(folder / "sae_weights.safetensors", {n: t[n] for n in ("W_enc", "W_dec", "b_dec")} | own)
    write_json(folder / "cfg.json", {"architecture": "gated", "d_in": D, "d_sae": M, "normalize_activations": "none",
               "apply_b_dec_to_input": False, "metadata": {"sae_lens_version": "6.0.0"}})  # fmt: skip
    w = doubled(t | own)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        gate = x @ w["W_enc"] + w["b_gate"] > 0
        z = gate * relu(x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"])
        return z, z @ w["W_dec"] + w["b_dec"]

    return Made(folder, forward)


def saelens_topk_rescaled(folder: Path) -> Made:
    t = parts()
    del t["threshold"]
    write_safe(folder / "sae_weights.safetensors", t)
    write_json(folder / "cfg.json", {"architecture": "topk", "d_in": D, "d_sae": M, "k": K,
               "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": True,
               "normalize_activations": "layer_norm", "metadata": {"sae_lens_version": "6.1.0"}})  # fmt: skip
    w = doubled(t)
    norm = w["W_dec"].norm(dim=-1)

    def inside(x: Tensor) -> tuple[Tensor, Tensor]:
        z = top_k(relu(((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm), K)
        return z, (z / norm) @ w["W_dec"] + w["b_dec"]

    return Made(folder, standardised(inside), codes=in_their_units)


def saelens_skip(folder: Path) -> Made:
    d_out = 4
    t = {"W_enc": numbers(D, M), "b_enc": numbers(M), "W_dec": numbers(M, d_out), "b_dec": numbers(d_out),
         "threshold": numbers(M, seed=4).abs(), "W_skip": numbers(d_out, D)}  # fmt: skip
    write_safe(folder / "sae_weights.safetensors", t)
    write_json(folder / "cfg.json", {"architecture": "jumprelu_skip_transcoder", "d_in": D, "d_sae": M, "d_out": d_out,
               "apply_b_dec_to_input": False, "normalize_activations": "none",
               "metadata": {"sae_lens_version": "6.1.0", "hook_name_out": "there"}})  # fmt: skip
    inside, skip = uncentred(t, jump(t)), t["W_skip"].double()

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        z, y = inside(x)
        return z, y + x @ skip.T

    return Made(folder, forward)


def dictionary_learning(folder: Path) -> Made:
    t = parts()
    state = {"bias": t["b_dec"], "encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"],
             "decoder.weight": (t["W_dec"] / t["W_dec"].norm(dim=-1, keepdim=True)).T.contiguous()}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoder", "activation_dim": D, "dict_size": M, "lr": 1e-3, "layer": 2, "lm_name": "m"}
    write_json(folder / "config.json", {"trainer": trainer, "buffer": {"ctx_len": 128}})
    return Made(folder, centred(t | {"W_dec": state["decoder.weight"].T}, relu))


def dictionary_learning_batchtopk(folder: Path) -> Made:
    t = parts()
    state = {"b_dec": t["b_dec"], "encoder.weight": t["W_enc"].T, "encoder.bias": t["b_enc"],
             "k": torch.tensor(K).int(), "decoder.weight": t["W_dec"].T, "threshold": torch.tensor(1.25)}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt", _use_new_zipfile_serialization=False)
    write_json(folder / "config.json", {"trainer": {"dict_class": "BatchTopKSAE", "k": K}})
    return Made(folder, centred(t, jump({"threshold": torch.tensor(1.25)})))


def dictionary_learning_matryoshka(folder: Path) -> Made:
    t = parts()
    folder.mkdir(parents=True, exist_ok=True)
    own = {"k": torch.tensor(K).int(), "threshold": torch.tensor(-1.0), "group_sizes": torch.tensor([4, M - 4])}
    torch.save({n: t[n] for n in ("W_enc", "W_dec", "b_enc", "b_dec")} | own, folder / "ae.pt")
    return Made(folder, centred(t, relu))


def dictionary_learning_checkpoint(folder: Path) -> Made:
    t, factor = parts(), 3.0
    own = {n: t[n] for n in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = {"state": {0: {"exp_avg": t["W_enc"]}}, "param_groups": [{"lr": 1.0}]}
    checkpoint = {"step": 7, "ae": own, "optimizer": optimizer, "norm_factor": factor}
    torch.save(checkpoint | {"config": {"dict_class": "JumpReluAutoEncoder"}}, folder / "ae.pt")
    inside = uncentred(t, jump(t))

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        z, x_hat = inside(x / factor)
        return z * factor, x_hat * factor

    return Made(folder, forward)


def sparsify(folder: Path) -> Made:
    t = parts()
    write_safe(folder / "layers.2" / "sae.safetensors", {"encoder.weight": t["W_enc"].T, "encoder.bias": t["b_enc"],
               "W_dec": t["W_dec"], "b_dec": t["b_dec"]})  # fmt: skip
    write_json(folder / "layers.2" / "cfg.json", {"expansion_factor": 8, "num_latents": M, "k": K, "d_in": D,
               "normalize_decoder": True, "signed": False, "old_key": 1})  # fmt: skip
    return Made(folder / "layers.2", centred(t, lambda p: top_k(relu(p), K)))


def sparsify_skip(folder: Path) -> Made:
    t, skip = parts(), numbers(D, D, seed=9)
    write_safe(folder / "sae.safetensors", {"encoder.weight": t["W_enc"].T, "encoder.bias": t["b_enc"],
               "W_dec": t["W_dec"], "b_dec": t["b_dec"], "W_skip": skip})  # fmt: skip
    write_json(
        folder / "cfg.json", {"activation": "topk", "num_latents": 0, "expansion_factor": M / D, "k": K, "d_in": D}
    )
    write_json(folder / "cfg.json", {"activation": "topk", "num_latents": M, "k": K, "d_in": D, "transcode": True,
               "skip_connection": True})  # fmt: skip
    inside = uncentred(t, lambda p: top_k(relu(p), K))

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        z, y = inside(x)
        return z, y + x @ skip.double().T

    return Made(folder, forward)


def openai(folder: Path) -> Made:
    t = parts()
    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"pre_bias": t["b_dec"], "latent_bias": t["b_enc"],
                             "encoder.weight": t["W_enc"].T.contiguous(),
                             "decoder.weight": t["W_dec"].T,  # column by column, as theirs are
                             "stats_last_nonzero": torch.zeros(M).long(), "latents_activation_frequency": torch.ones(M),
                             "latents_mean_square": torch.ones(M), "activation": "TopK",
                             "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}  # fmt: skip
    torch.save(state, folder / "5.pt")
    return Made(folder / "5.pt", standardised(centred(t, lambda p: top_k(relu(p), K))), codes=in_their_units)


def openai_tied(folder: Path) -> Made:
    t = parts()
    folder.mkdir(parents=True, exist_ok=True)
    state = {"pre_bias": t["b_dec"], "latent_bias": t["b_enc"], "encoder.weight": t["W_enc"].T.contiguous(),
             "activation": "Identity"}  # fmt: skip
    torch.save(state, folder / "v1.pt")
    return Made(
        folder / "v1.pt", centred(t | {"W_dec": t["W_enc"].T}, lambda p: p), codes=lambda z: z[:, :M] - z[:, M:]
    )


def gemma_scope(folder: Path) -> Made:
    t = parts()
    place = folder / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    place.mkdir(parents=True)
    np.savez(place / "params.npz", **{n: v.numpy() for n, v in t.items()})
    return Made(place, uncentred(t, jump(t)))


def gemma_scope_embedding(folder: Path) -> Made:
    t = parts()
    place = folder / "gemma-scope-2b-pt-res" / "embedding" / "width_4k"
    place.mkdir(parents=True)
    np.savez_compressed(place / "params.npz", **{n: np.asfortranarray(v.numpy()) for n, v in t.items()})
    root = D**0.5
    return Made(place, uncentred(t | {"W_enc": t["W_enc"] / root, "W_dec": t["W_dec"] * root}, jump(t)))


def llama_scope(folder: Path) -> Made:
    t, norm, threshold = parts(), {"in": 5.0, "out": 7.0}, 0.4
    write_json(folder / "hyperparams.json", {"d_model": D, "d_sae": M, "act_fn": "jumprelu", "top_k": 50,
               "jump_relu_threshold": threshold, "norm_activation": "dataset-wise", "hook_point_in": "a",
               "sparsity_include_decoder_norm": True, "dataset_average_activation_norm": norm,
               "hook_point_out": "a"})  # fmt: skip
    write_safe(folder / "checkpoints" / "final.safetensors", {"encoder.weight": t["W_enc"].T,
               "encoder.bias": t["b_enc"], "decoder.weight": t["W_dec"].T, "decoder.bias": t["b_dec"]})  # fmt: skip
    w, a, c = doubled(t), D**0.5 / norm["in"], D**0.5 / norm["out"]

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        # Llama Scope's inference mode: biases over the factors, decoder times a / c, threshold on p times decoder norm.
        W_dec = w["W_dec"] * a / c
        p = x @ w["W_enc"] + w["b_enc"] / a
        z = p * (p * W_dec.norm(dim=-1) > threshold)
        return z, z @ W_dec + w["b_dec"] / c

    return Made(folder, forward)


def llama_scope_r1(folder: Path) -> Made:
    t, norm = parts(), {"in": 5.0, "out": 5.0}
    write_json(folder / "config.json", {"d_model": D, "expansion_factor": M / D, "act_fn": "jumprelu",
               "dataset_average_activation_norm": norm, "norm_activation": "dataset-wise", "hook_point_in": "a",
               "hook_point_out": "a", "sparsity_include_decoder_norm": False})  # fmt: skip
    write_safe(folder / "sae_weights.safetensors", {"encoder.weight": t["W_enc"].T, "encoder.bias": t["b_enc"],
               "decoder.weight": t["W_dec"].T, "decoder.bias": t["b_dec"],
               "log_jumprelu_threshold": t["threshold"].log()})  # fmt: skip
    inside, a = uncentred(t, jump(t)), D**0.5 / 5.0

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        z, x_hat = inside(x * a)
        return z / a, x_hat / a

    return Made(folder, forward)


def llamascopium(folder: Path) -> Made:
    t, norms = parts(), {"blocks.1.hook_in": 4.0, "blocks.1.hook_out": 9.0}
    write_json(folder / "config.json", {"sae_type": "sae", "d_model": D, "act_fn": "jumprelu",
               "norm_activation": "dataset-wise", "hook_point_in": "blocks.1.hook_in",
               "hook_point_out": "blocks.1.hook_out", "sparsity_include_decoder_norm": True})  # fmt: skip
    scalars = {f"dataset_average_activation_norm.{h}": torch.tensor(n) for h, n in norms.items()}
    own = {"W_E": t["W_enc"], "b_E": t["b_enc"], "W_D": t["W_dec"], "b_D": t["b_dec"]}
    own["activation_function.log_jumprelu_threshold"] = t["threshold"].log()
    write_safe(folder / "sae_weights.safetensors", own | scalars)
    w, a, c = doubled(t), D**0.5 / 4.0, D**0.5 / 9.0

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        p = (x * a) @ w["W_enc"] + w["b_enc"]
        z = p * (p * w["W_dec"].norm(dim=-1) > w["threshold"])
        return z / a, (z @ w["W_dec"] + w["b_dec"]) / c

    return Made(folder, forward)


def llamascopium_topk(folder: Path) -> Made:
    t = parts()
    write_json(folder / "config.json", {"sae_type": "sae", "d_model": D, "act_fn": "topk", "top_k": K,
               "norm_activation": "token-wise", "hook_point_in": "a", "hook_point_out": "a",
               "sparsity_include_decoder_norm": True})  # fmt: skip
    write_safe(folder / "sae_weights.safetensors", {"W_E": t["W_enc"].bfloat16(), "b_E": t["b_enc"].bfloat16(),
               "W_D": t["W_dec"].bfloat16(), "b_D": t["b_dec"].bfloat16()})  # fmt: skip
    w = doubled({n: v.bfloat16() for n, v in t.items()})
    length = w["W_dec"].norm(dim=-1)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        norm = x.norm(dim=-1, keepdim=True) / D**0.5
        z = top_k(relu(((x / norm) @ w["W_enc"] + w["b_enc"]) * length), K)
        return z, ((z / length) @ w["W_dec"] + w["b_dec"]) * norm

    return Made(folder, forward, codes=in_their_units)


def classes(*names: str) -> dict[str, type]:
    """Classes with the names of sparse_coding's, in a module that pickle finds while it writes."""
    module = types.ModuleType("autoencoders.learned_dict")
    made = {name: type(name, (), {"__module__": module.__name__}) for name in names}
    vars(module).update(made)
    sys.modules["autoencoders"] = types.ModuleType("autoencoders")
    sys.modules[module.__name__] = module
    return made


def forget_classes() -> None:
    for name in ("autoencoders", "autoencoders.learned_dict"):
        sys.modules.pop(name, None)


def learned_dicts(folder: Path) -> Made:
    cls = classes("TiedSAE", "UntiedSAE")
    E, b, t, s = numbers(M, D), numbers(M), numbers(D), numbers(D, seed=5).abs() + 0.5
    R = torch.linalg.qr(numbers(D, D, seed=6)).Q
    tied, older, untied = cls["TiedSAE"](), cls["TiedSAE"](), cls["UntiedSAE"]()
    vars(tied).update(encoder=E, encoder_bias=b, norm_encoder=True, n_feats=M, activation_size=D,
                      center_trans=t, center_rot=R, center_scale=s)  # fmt: skip
    vars(older).update(encoder=E, encoder_bias=b, n_feats=M, activation_size=D)
    vars(untied).update(encoder=E, decoder=numbers(M, D, seed=7), encoder_bias=b, n_feats=M, activation_size=D)
    settings = [{"l1_alpha": a, "dict_size": M} for a in (1e-4, 1e-3, 1e-2)]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(list(zip([older, tied, untied], settings, strict=True)), folder / "learned_dicts.pt")
    forget_classes()
    w = E.double() / E.double().norm(dim=-1, keepdim=True)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        c = torch.stack([(R.double() @ (row - t)) * s for row in x])
        z = relu(c @ w.T + b)
        return z, torch.stack([R.double().T @ (row / s) for row in z @ w]) + t

    return Made(folder, forward, {"index": 1})


def learned_dicts_untied(folder: Path) -> Made:
    made = learned_dicts(folder)
    decoder = numbers(M, D, seed=7).double()
    t = {"W_enc": numbers(M, D).T, "b_enc": numbers(M), "b_dec": torch.zeros(D),
         "W_dec": decoder / decoder.norm(dim=-1, keepdim=True)}  # fmt: skip
    return Made(made.path / "learned_dicts.pt", uncentred(t, relu), {"name": "2,l1_alpha=0.01,dict_size=16"})


def overcomplete(folder: Path) -> Made:
    t, log = parts(), torch.tensor(0.3)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"encoder.final_block.0.weight": t["W_enc"].T, "encoder.final_block.0.bias": t["b_enc"],
                "dictionary._weights": t["W_dec"], "dictionary.multiplier": log,
                "thresholds": t["threshold"].log()}, folder / "model.pt")  # fmt: skip
    w = doubled(t)
    rows = w["W_dec"] / w["W_dec"].norm(dim=1, keepdim=True) * log.double().exp()
    return Made(
        folder, uncentred({"W_enc": t["W_enc"], "b_enc": t["b_enc"], "W_dec": rows, "b_dec": torch.zeros(D)}, jump(t))
    )


def bussmann(folder: Path) -> Made:
    t = parts()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        {n: t[n] for n in ("W_enc", "W_dec", "b_enc", "b_dec")} | {"threshold": torch.tensor(0.6)}, folder / "sae.pt"
    )
    write_json(folder / "config.json", {"act_size": str(D), "dict_size": str(M), "sae_type": "global-matryoshka-topk",
               "top_k": str(K), "input_unit_norm": "True", "model_name": "gpt2-small", "seq_len": "128",
               "hook_point": "blocks.8.hook_resid_pre", "dtype": "torch.float32"})  # fmt: skip
    t["b_enc"] = torch.zeros(M)  # the file has it, but the model does not add it
    return Made(folder, standardised(centred(t, jump({"threshold": torch.tensor(0.6)}))), codes=in_their_units)


def bussmann_topk(folder: Path) -> Made:
    t = parts()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({n: t[n] for n in ("W_enc", "W_dec", "b_enc", "b_dec")}, folder / "sae.pt")
    write_json(
        folder / "config.json",
        {"act_size": D, "dict_size": M, "sae_type": "topk", "top_k": K, "input_unit_norm": False},
    )
    return Made(folder, centred(t | {"b_enc": torch.zeros(M)}, lambda p: top_k(relu(p), K)))


def nanda(folder: Path) -> Made:
    t = parts()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({n: t[n].half() for n in ("W_enc", "W_dec", "b_enc", "b_dec")}, folder / "25.pt")
    write_json(folder / "25_cfg.json", {"dict_mult": 8, "d_mlp": D, "seq_len": 128})
    return Made(folder, centred({n: v.half() for n, v in t.items()}, relu))


MADE: dict[str, Callable[[Path], Made]] = {
    f.__name__: f
    for f in (
        *(saelens, saelens_gated, saelens_topk_rescaled, saelens_skip),
        *(dictionary_learning, dictionary_learning_batchtopk, dictionary_learning_matryoshka),
        dictionary_learning_checkpoint,
        *(sparsify, sparsify_skip, openai, openai_tied, gemma_scope, gemma_scope_embedding),
        *(llama_scope, llama_scope_r1, llamascopium, llamascopium_topk),
        *(learned_dicts, learned_dicts_untied, overcomplete, bussmann, bussmann_topk, nanda),
    )
}
