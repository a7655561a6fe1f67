"""SAELens (Bloom, Tigges, Chanin): ``SAETrainer.step``, the body of its ``fit`` that it offers to outside loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.foreign import adopt
from benchmarks.trainers import Course, Setting
from sae.dictionary import Dictionary

REQUIRES = "sae_lens"
KINDS = ("standard", "topk", "batchtopk", "jumprelu")

LEARNS = {
    "relu": "standard", "topk": "topk", "batchtopk": "batchtopk", "jumprelu": "jumprelu", "gated": "gated",
    "matryoshka": "matryoshka", "matching_pursuit": "matching_pursuit",
}  # fmt: skip
"""Our architectures, and the kinds that are the same here."""
WEIGHED = {"relu": 6.0, "gated": 4.0, "jumprelu": 4.0}
"""Those whose sparsity is set by the weight of a penalty, and where a search for it begins."""

HORIZON = 100_000


class Run:
    """The library's trainer."""

    stride = 1

    def __init__(self, kind: str, setting: Setting, batches: Sequence[Tensor]) -> None:
        self.setting, self.batches = setting, batches
        self.trainer = trainer(kind, setting, HORIZON, cycle(batches))

    def steps(self, n: int) -> None:
        for _ in range(n):
            self.trainer.maybe_reset_sparsity()
            self.trainer.step(next(self.trainer.data_provider))
            self.trainer.n_training_steps += 1

    def l0(self) -> float:
        with torch.no_grad():
            codes = self.trainer.sae.encode(self.batches[0])
            codes = codes.to_dense() if codes.is_sparse else codes
        return float((codes > 0).sum(-1).float().mean())


def build(kind: str, setting: Setting, batches: Sequence[Tensor]) -> Run:
    return Run(kind, setting, batches)


def trainer(
    kind: str,
    setting: Setting,
    steps: int,
    data: Iterator[Tensor],
    own: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """The trainer of a kind; `settings` are the training configuration's and `own` the dictionary's, all else is
    left at its default."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(setting.seed)
    config = SAETrainerConfig(
        total_training_samples=steps * setting.batch,
        train_batch_size_samples=setting.batch,
        device=setting.device,
        autocast=setting.dtype == "bfloat16",
        lr_end=0.0,  # asked for, and not used by the constant schedule
        logger=LoggingConfig(log_to_wandb=False),
        **settings,
    )
    return SAETrainer(cfg=config, sae=dictionary(kind, setting, own or {}), data_provider=data)


def dictionary(kind: str, setting: Setting, more: Mapping[str, Any]) -> Any:
    import sae_lens

    classes = {
        "standard": ("StandardTrainingSAE", {"l1_coefficient": setting.l1}),
        "topk": ("TopKTrainingSAE", {"k": setting.l0}),
        "batchtopk": ("BatchTopKTrainingSAE", {"k": float(setting.l0)}),
        "jumprelu": ("JumpReLUTrainingSAE", {}),
        "gated": ("GatedTrainingSAE", {"l1_coefficient": setting.l1}),
        "matryoshka": ("MatryoshkaBatchTopKTrainingSAE", {"k": float(setting.l0)}),
        "matching_pursuit": ("MatchingPursuitTrainingSAE", {"max_iterations": setting.l0}),
    }
    name, own = classes[kind]
    config = getattr(sae_lens, name + "Config")(
        d_in=setting.d_in, d_sae=setting.n_latents, device=setting.device, **own, **more
    )
    return getattr(sae_lens, name)(config)


def fit(setting: Setting, steps: int, lr: float, warm_up: float, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    """A whole run, with warm-ups of the given share of the steps; the trained tensors."""
    warm = int(warm_up * steps)
    own = {"l1_warm_up_steps": warm}
    sae = trainer("standard", setting, steps, cycle(batches), own, lr=lr, lr_warm_up_steps=warm).fit()
    tensors = {name: getattr(sae, name).detach() for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    if not sae.cfg.apply_b_dec_to_input:  # ours subtracts b_dec first: the same codes with another b_enc
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    return tensors


def learn(kind: str, setting: Setting, course: Course, batches: Sequence[Tensor]) -> Dictionary:
    """A whole run by ``fit``; the dictionary as it is saved for inference and loaded again."""
    import sae_lens

    warm = int(course.warm_up * course.steps)
    own: dict[str, dict[str, Any]] = {
        "relu": {"l1_warm_up_steps": warm},
        "gated": {"l1_warm_up_steps": warm},
        "jumprelu": {"l0_coefficient": setting.l1, "l0_warm_up_steps": warm},
        "matryoshka": {"matryoshka_widths": list(setting.levels)},
    }
    asked = {"lr_warm_up_steps": warm}
    if course.lr is not None:
        asked |= {"lr": course.lr, "lr_decay_steps": int(course.decay * course.steps)}
    sae = trainer(LEARNS[kind], setting, course.steps, cycle(batches), own.get(kind, {}), **asked).fit()
    with TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return adopt(sae_lens.SAE.load_from_disk(folder), setting.n_latents, batches[0])
