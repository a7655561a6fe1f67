"""dictionary_learning (Marks, Karvonen, Mueller): ``trainer.update(step, batch)``, the body of its ``trainSAE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.foreign import adopt
from benchmarks.trainers import Schedule, Setting
from sae.dictionary import Dictionary

REQUIRES = "dictionary_learning"
KINDS = ("standard", "topk", "batchtopk", "jumprelu")

ARCHITECTURES = {
    "relu": "standard", "topk": "topk", "batchtopk": "batchtopk", "jumprelu": "jumprelu", "gated": "gated",
    "matryoshka": "matryoshka",
}  # fmt: skip
"""Our architectures -> the equivalent kinds of this library."""
PENALTY_WEIGHTS = {"relu": 6.0, "gated": 4.0, "jumprelu": 10.0}
"""Architectures whose sparsity depends on the weight of a penalty -> the first weight of the search. JumpReLU's penalty
is on the distance from a target L0, and its weight trades that distance against the reconstruction error."""

HORIZON = 100_000
"""Number of steps that the schedules are made for; timed runs are far shorter."""


class Run:
    """The library's trainer and its current step."""

    stride = 1

    def __init__(self, kind: str, setting: Setting, batches: Sequence[Tensor]) -> None:
        self.kind, self.setting, self.batches = kind, setting, batches
        self.step = 0
        self.trainer = trainer_class(kind)(**arguments(kind, setting, HORIZON))

    def steps(self, n: int) -> None:
        for _ in range(n):
            with autocast(self.setting):
                self.trainer.update(self.step, self.batches[self.step % len(self.batches)])
            self.step += 1

    def l0(self) -> float:
        with torch.no_grad():
            x = self.batches[0]
            options = {"use_threshold": False} if self.kind in ("topk", "batchtopk") else {}
            codes = self.trainer.ae.encode(x, **options)
        return float((codes > 0).sum(-1).float().mean())


def build(kind: str, setting: Setting, batches: Sequence[Tensor]) -> Run:
    return Run(kind, setting, batches)


def trainer_class(kind: str) -> Any:
    """The trainer class of a kind."""
    from dictionary_learning import trainers

    if kind == "matryoshka":
        from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer

        return MatryoshkaBatchTopKTrainer
    names = {
        "standard": "StandardTrainer",
        "topk": "TopKTrainer",
        "batchtopk": "BatchTopKTrainer",
        "jumprelu": "JumpReluTrainer",
        "gated": "GatedSAETrainer",
    }
    return getattr(trainers, names[kind])


def arguments(kind: str, setting: Setting, steps: int) -> dict[str, Any]:
    """Arguments of a trainer that have to be set; all others are at their defaults."""
    shape = {"activation_dim": setting.d_in, "dict_size": setting.n_latents}
    labels = {"layer": 0, "lm_name": "none", "seed": setting.seed, "device": setting.device}
    return {"steps": steps, **shape, **labels, **sparsity(kind, setting)}


def sparsity(kind: str, setting: Setting) -> dict[str, Any]:
    """The arguments of a trainer that set how many latents are active."""
    match kind:
        case "standard" | "gated":
            return {"l1_penalty": setting.l1}
        case "jumprelu":
            return {"target_l0": float(setting.l0)}
        case "matryoshka":
            return {"k": setting.l0, "group_fractions": fractions(setting)}
        case _:
            return {"k": setting.l0}


def fractions(setting: Setting) -> list[float]:
    """The share of the latents that each level adds."""
    starts = (0, *setting.levels[:-1])
    return [(end - start) / setting.n_latents for start, end in zip(starts, setting.levels, strict=True)]


def autocast(setting: Setting) -> Any:
    """Mixed precision as in ``trainSAE(autocast_dtype=...)``."""
    enabled = setting.dtype != "float32"
    return torch.autocast(torch.device(setting.device).type, getattr(torch, setting.dtype), enabled=enabled)


def fit(setting: Setting, steps: int, lr: float, warm_up: float, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    """The tensors after a whole run of ``trainSAE``, with warm-ups of a share `warm_up` of the steps."""
    from dictionary_learning.training import trainSAE

    created: list[Any] = []

    class Standard(trainer_class("standard")):  # trainSAE does not return its trainers
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            created.append(self)

    rates = {"warmup_steps": int(warm_up * steps), "sparsity_warmup_steps": int(warm_up * steps), "lr": lr}
    config = {"trainer": Standard, **arguments("standard", setting, steps), **rates}
    data = (batches[step % len(batches)] for step in range(steps + 1))
    trainSAE(data, [config], steps, device=setting.device)
    ae = created[0].ae
    return {
        "W_enc": ae.encoder.weight.detach().T,
        "W_dec": ae.decoder.weight.detach().T,
        "b_enc": ae.encoder.bias.detach(),
        "b_dec": ae.bias.detach(),
    }


def fit_dictionary(kind: str, setting: Setting, schedule: Schedule, batches: Sequence[Tensor]) -> Dictionary:
    """The dictionary after a whole run of the trainer's own ``update``, which is the body of ``trainSAE``."""
    torch.manual_seed(setting.seed)  # JumpReluTrainer ignores its own seed
    name = ARCHITECTURES[kind]
    options = arguments(name, setting, schedule.steps)
    warm = int(schedule.warm_up * schedule.steps)
    options |= {"warmup_steps": warm}
    if kind in PENALTY_WEIGHTS:
        options |= {"sparsity_warmup_steps": warm}
    else:
        options |= {"threshold_start_step": schedule.steps // 3}
    if kind == "jumprelu":
        options |= {"sparsity_penalty": setting.l1}
    if schedule.lr is not None:
        # The library requires the decay to start after every warm-up.
        options |= {"lr": schedule.lr, "decay_start": max(int((1 - schedule.decay) * schedule.steps), warm + 1)}
    run = trainer_class(name)(**options)
    for step in range(schedule.steps):
        run.update(step, batches[step % len(batches)])
    return adopt(run.ae, setting.n_latents, batches[0])
