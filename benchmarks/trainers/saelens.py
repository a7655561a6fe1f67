"""SAELens (Bloom, Tigges, Chanin): ``SAETrainer.step``, the body of its ``fit``, meant for loops of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.foreign import adopt
from benchmarks.trainers import Schedule, Setting
from sae.dictionary import Dictionary

REQUIRES = "sae_lens"
KINDS = ("standard", "topk", "batchtopk", "jumprelu")

ARCHITECTURES = {
    "relu": "standard", "topk": "topk", "batchtopk": "batchtopk", "jumprelu": "jumprelu", "gated": "gated",
    "matryoshka": "matryoshka", "matching_pursuit": "matching_pursuit",
}  # fmt: skip
"""Our architectures -> the equivalent kinds of this library."""
PENALTY_WEIGHTS = {"relu": 6.0, "gated": 4.0, "jumprelu": 4.0}
"""Architectures whose sparsity depends on the weight of a penalty -> the first weight of the search."""

HORIZON = 100_000
"""Number of steps that the schedules are made for; timed runs are far shorter."""


class Run:
    """The library's trainer, advanced step by step."""

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
    dictionary_settings: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """The trainer of a kind. `settings` go to the training config and `dictionary_settings` to the dictionary's; all
    others are at their defaults."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(setting.seed)
    config = SAETrainerConfig(
        total_training_samples=steps * setting.batch,
        train_batch_size_samples=setting.batch,
        device=setting.device,
        autocast=setting.dtype == "bfloat16",
        lr_end=0.0,  # required, but unused by the constant schedule
        logger=LoggingConfig(log_to_wandb=False),
        **settings,
    )
    return SAETrainer(cfg=config, sae=dictionary(kind, setting, dictionary_settings or {}), data_provider=data)


def dictionary(kind: str, setting: Setting, more: Mapping[str, Any]) -> Any:
    """The library's untrained dictionary of a kind, with `more` settings."""
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
    name, options = classes[kind]
    config = getattr(sae_lens, name + "Config")(
        d_in=setting.d_in, d_sae=setting.n_latents, device=setting.device, **options, **more
    )
    return getattr(sae_lens, name)(config)


def fit(setting: Setting, steps: int, lr: float, warm_up: float, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    """The tensors after a whole run, with warm-ups of a share `warm_up` of the steps."""
    warm = int(warm_up * steps)
    options = {"l1_warm_up_steps": warm}
    sae = trainer("standard", setting, steps, cycle(batches), options, lr=lr, lr_warm_up_steps=warm).fit()
    tensors = {name: getattr(sae, name).detach() for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    if not sae.cfg.apply_b_dec_to_input:  # ours always subtracts b_dec: the same codes with another b_enc
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    return tensors


def fit_dictionary(kind: str, setting: Setting, schedule: Schedule, batches: Sequence[Tensor]) -> Dictionary:
    """The dictionary after a whole run of ``fit``, saved for inference and loaded again."""
    import sae_lens

    warm = int(schedule.warm_up * schedule.steps)
    by_kind: dict[str, dict[str, Any]] = {
        "relu": {"l1_warm_up_steps": warm},
        "gated": {"l1_warm_up_steps": warm},
        "jumprelu": {"l0_coefficient": setting.l1, "l0_warm_up_steps": warm},
        "matryoshka": {"matryoshka_widths": list(setting.levels)},
    }
    rates = {"lr_warm_up_steps": warm}
    if schedule.lr is not None:
        rates |= {"lr": schedule.lr, "lr_decay_steps": int(schedule.decay * schedule.steps)}
    sae = trainer(ARCHITECTURES[kind], setting, schedule.steps, cycle(batches), by_kind.get(kind, {}), **rates).fit()
    with TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return adopt(sae_lens.SAE.load_from_disk(folder), setting.n_latents, batches[0])
