"""dictionary_learning (Marks, Karvonen, Mueller): ``trainer.update(step, batch)``, the body of its ``trainSAE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.trainers import Setting

REQUIRES = "dictionary_learning"
KINDS = ("standard", "topk", "batchtopk", "jumprelu")

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

    names = {
        "standard": "StandardTrainer",
        "topk": "TopKTrainer",
        "batchtopk": "BatchTopKTrainer",
        "jumprelu": "JumpReluTrainer",
    }
    return getattr(trainers, names[kind])


def arguments(kind: str, setting: Setting, steps: int) -> dict[str, Any]:
    """What the trainers ask for; all else is left at its default."""
    own: dict[str, dict[str, Any]] = {
        "standard": {"l1_penalty": setting.l1},
        "topk": {"k": setting.l0},
        "batchtopk": {"k": setting.l0},
        "jumprelu": {"target_l0": float(setting.l0)},
    }
    shape = {"activation_dim": setting.d_in, "dict_size": setting.n_latents}
    named = {"layer": 0, "lm_name": "none", "seed": setting.seed, "device": setting.device}
    return {"steps": steps, **shape, **named, **own[kind]}


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
