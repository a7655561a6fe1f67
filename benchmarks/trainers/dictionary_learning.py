"""dictionary_learning (Marks, Karvonen, Mueller): ``trainer.update(step, batch)``, the body of its ``trainSAE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.foreign import adopt
from benchmarks.trainers import Course, Setting
from sae.dictionary import Dictionary

REQUIRES = "dictionary_learning"
KINDS = ("standard", "topk", "batchtopk", "jumprelu")

LEARNS = {
    "relu": "standard", "topk": "topk", "batchtopk": "batchtopk", "jumprelu": "jumprelu", "gated": "gated",
    "matryoshka": "matryoshka",
}  # fmt: skip
"""Our architectures, and the kinds that are the same here."""
WEIGHED = {"relu": 6.0, "gated": 4.0, "jumprelu": 10.0}
"""Those whose sparsity is set by the weight of a penalty, and where a search for it begins. JumpReLU's penalty is that
of missing a target, and the weight is how much of the reconstruction is given up for it."""

HORIZON = 100_000


class Run:
    """The library's trainer and where it stands."""

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
            own = {"use_threshold": False} if self.kind in ("topk", "batchtopk") else {}
            codes = self.trainer.ae.encode(x, **own)
        return float((codes > 0).sum(-1).float().mean())


def build(kind: str, setting: Setting, batches: Sequence[Tensor]) -> Run:
    return Run(kind, setting, batches)


def trainer_class(kind: str) -> Any:
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
    """What the trainers ask for; all else is left at its default."""
    own: dict[str, dict[str, Any]] = {
        "standard": {"l1_penalty": setting.l1},
        "topk": {"k": setting.l0},
        "batchtopk": {"k": setting.l0},
        "jumprelu": {"target_l0": float(setting.l0)},
        "gated": {"l1_penalty": setting.l1},
        "matryoshka": {"k": setting.l0, "group_fractions": fractions(setting)},
    }
    shape = {"activation_dim": setting.d_in, "dict_size": setting.n_latents}
    named = {"layer": 0, "lm_name": "none", "seed": setting.seed, "device": setting.device}
    return {"steps": steps, **shape, **named, **own[kind]}


def fractions(setting: Setting) -> list[float]:
    """The share of the latents that each level adds."""
    starts = (0, *setting.levels[:-1])
    return [(end - start) / setting.n_latents for start, end in zip(starts, setting.levels, strict=True)]


def autocast(setting: Setting) -> Any:
    """As ``trainSAE(autocast_dtype=...)`` does it."""
    on = setting.dtype != "float32"
    return torch.autocast(torch.device(setting.device).type, getattr(torch, setting.dtype), enabled=on)


def fit(setting: Setting, steps: int, lr: float, warm_up: float, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    """A whole run by ``trainSAE``, with warm-ups of the given share of the steps; the trained tensors."""
    from dictionary_learning.training import trainSAE

    kept: list[Any] = []

    class Standard(trainer_class("standard")):  # trainSAE keeps its trainers to itself
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            kept.append(self)

    warm = {"warmup_steps": int(warm_up * steps), "sparsity_warmup_steps": int(warm_up * steps), "lr": lr}
    config = {"trainer": Standard, **arguments("standard", setting, steps), **warm}
    data = (batches[step % len(batches)] for step in range(steps + 1))
    trainSAE(data, [config], steps, device=setting.device)
    ae = kept[0].ae
    return {
        "W_enc": ae.encoder.weight.detach().T,
        "W_dec": ae.decoder.weight.detach().T,
        "b_enc": ae.encoder.bias.detach(),
        "b_dec": ae.bias.detach(),
    }


def learn(kind: str, setting: Setting, course: Course, batches: Sequence[Tensor]) -> Dictionary:
    """A whole run by the trainer's own ``update``, which is the body of ``trainSAE``."""
    torch.manual_seed(setting.seed)  # JumpReluTrainer takes a seed and draws without it
    name = LEARNS[kind]
    asked = arguments(name, setting, course.steps)
    warm = int(course.warm_up * course.steps)
    asked |= {"warmup_steps": warm}
    if kind in WEIGHED:
        asked |= {"sparsity_warmup_steps": warm}
    else:
        asked |= {"threshold_start_step": course.steps // 3}
    if kind == "jumprelu":
        asked |= {"sparsity_penalty": setting.l1}
    if course.lr is not None:
        # The library wants the decay to begin after every warm-up.
        asked |= {"lr": course.lr, "decay_start": max(int((1 - course.decay) * course.steps), warm + 1)}
    run = trainer_class(name)(**asked)
    for step in range(course.steps):
        run.update(step, batches[step % len(batches)])
    return adopt(run.ae, setting.n_latents, batches[0])
