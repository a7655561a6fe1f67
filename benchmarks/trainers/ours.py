"""Our own trainer: the generator that users iterate over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lines import note
from benchmarks.pool import Pool
from benchmarks.trainers import Schedule, Setting, pool_of
from sae.architecture import DictionaryConfig
from sae.dictionary import Dictionary
from sae.registry import config_class
from sae.training.config import TrainConfig
from sae.training.loop import train
from sae.training.state import Member

REQUIRES = "sae.dictionaries.{kind}"
KINDS = ("relu", "topk")

ARCHITECTURES = {
    kind: kind for kind in ("relu", "topk", "batchtopk", "jumprelu", "gated", "matryoshka", "matching_pursuit")
}
"""Our architectures -> themselves."""
PENALTY_WEIGHTS: Mapping[str, float] = {}
"""No weight has to be searched for: the L0 controller adjusts it during training."""

STRIDE = 10
HORIZON = 1_000_000
"""Number of steps that the schedules are made for; timed runs are far shorter."""

# Training to a target L0 takes small batches and a high learning rate, because the number of steps matters most.
REACH_BATCH = 512
REACH_LR = 3e-3
STRETCH = 20
"""Steps between two adjustments of l1."""
FIRST_L1 = 1.0
MOST_CHANGE = 1.03
"""Largest factor of one adjustment of l1."""
FALLING = 0.96
"""L0 counts as falling by itself below this multiple of its value before the last steps."""
MOST_STEPS = 10_000
TOLERANCE = 0.05
"""Accepted relative distance of L0 from its target."""
SETTLED = 5
"""Consecutive checks within the tolerance that end the training."""


class CheckpointFile(Mapping[str, Tensor]):
    """A checkpoint on disk as a mapping that reads each tensor on access and caches none."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as f:
            return f.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as f:
            return iter(list(f.keys()))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def measurements(self) -> dict[str, float]:
        """The measurements that were saved with it: l0, l1, ..."""
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as f:
            return {name: float(value) for name, value in (f.metadata() or {}).items()}


class Run:
    """A training run, advanced by iterating over its states."""

    stride = STRIDE

    def __init__(self, members: Sequence[Member], setting: Setting, batches: Sequence[Tensor]) -> None:
        self.members, self.setting, self.batches = members, setting, batches
        # A dictionary starts dense. Those steps, and their memory, are part of a training run too.
        self.training = self._train(None)
        self.state = next(self.training)
        if setting.checkpoint is not None:
            self.training.close()
            del self.state
            self.training = self._train(CheckpointFile(Path(setting.checkpoint)))
            self.state = next(self.training)

    def _train(self, resume: Mapping[str, Tensor] | None) -> Any:
        return train(self.members, Pool(self.batches), settings_of(self.setting), self.setting.device, resume)

    def steps(self, n: int) -> None:
        for _ in range(n // self.stride):
            self.state = next(self.training)

    def l0(self) -> float:
        records = self.state.records()
        return sum(float(r["l0"]) for r in records) / len(records)


def build(kind: str, setting: Setting, batches: Sequence[Tensor]) -> Run:
    return Run([(config_of(kind, setting), setting.seed)], setting, batches)


def config_of(kind: str, setting: Setting) -> DictionaryConfig:
    """Our dictionary of a kind, with the l1 or k of the setting."""
    sparsity = {"relu": {"l1": setting.l1}, "topk": {"k": setting.l0}}[kind]
    config = config_class("dictionaries", kind)(n_latents=setting.n_latents, **sparsity)
    assert isinstance(config, DictionaryConfig)
    return config


def settings_of(setting: Setting) -> TrainConfig:
    """The loop's defaults with a constant learning rate and a constant penalty.

    Resampling is off, because it is off in the defaults of all other libraries.
    """
    fixed = {"steps": HORIZON, "batch_size": setting.batch, "log_every": STRIDE, "n_scale": setting.batch}
    constant = {"warm_up": 0.0, "decay": 0.0, "penalty_warm_up": 0.0, "resample_every": 0}
    return TrainConfig(**{**fixed, **constant, **setting.extra})


def train_to_l0(file: str, least_steps: int, **setting: Any) -> dict[str, float]:
    """Trains an L1 dictionary on planted data until it has the target L0, saves its checkpoint to `file` and returns
    the measurements. An existing file is reused.

    Every 20 steps, l1 is changed by up to 3% if L0 is more than 5% away from its target, unless L0 is still falling by
    itself. Training ends after `least_steps` or more, when five checks in a row were within 5%.

    Raises `RuntimeError` if the target is not reached after `MOST_STEPS`.
    """
    target, saved = Setting(**setting), CheckpointFile(Path(file))
    if saved.file.is_file() and set(saved) == _checkpoint_names():
        return saved.measurements()
    batches = pool_of(target)
    variance = float(torch.stack([x.var(0).sum() for x in batches]).mean())
    small = min(REACH_BATCH, target.batch)
    source = Pool([piece for x in batches for piece in x.split(small) if len(piece) == small])
    fixed = {"batch_size": small, "lr": REACH_LR, "log_every": STRETCH // 10, "n_scale": 4096}
    settings = settings_of(target).model_copy(update=fixed)
    l1, settled, before = FIRST_L1, 0, float(target.n_latents)
    checkpoint: dict[str, Tensor] | None = None
    measured: dict[str, float] = {}
    while settled < SETTLED:
        member = (config_of("relu", replace(target, l1=l1)), target.seed)
        training = train([member], source, settings, target.device, checkpoint)
        seen: list[dict[str, float | int]] = []
        for state in training:
            seen += state.records()
            if state.step % STRETCH == 0:
                fvu = float(seen[-1]["mse"]) / variance / state.scaling.scale**2
                measured = {"steps": state.step, "fvu": fvu, "dead": float(seen[-1]["dead"])}
                checkpoint = state.checkpoint()
                break
        training.close()
        l0 = sum(float(r["l0"]) for r in seen) / len(seen)
        measured |= {"l0": l0, "l1": l1}
        excess, steps = l0 / target.l0, int(measured["steps"])
        near = abs(excess - 1) <= TOLERANCE
        settled = settled + 1 if near and steps >= least_steps else 0
        if steps % 200 == 0 or settled:
            note(f"  step {steps}: l0 {l0:.1f} of {target.l0}, l1 {l1:.3g}, fvu {measured['fvu']:.3f}")
        if steps >= MOST_STEPS and near:
            break
        if steps >= MOST_STEPS:
            raise RuntimeError(f"l0 is {l0:.1f} after {steps} steps; the target is {target.l0}")
        falling = excess > 1 and l0 < FALLING * before
        before = l0
        if not near and not falling:
            l1 *= min(max(excess**0.2, 1 / MOST_CHANGE), MOST_CHANGE)
    save(saved.file, checkpoint or {}, measured)
    return measured


def save(file: Path, checkpoint: Mapping[str, Tensor], measured: Mapping[str, float]) -> None:
    """Writes a checkpoint with its measurements as metadata."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in checkpoint.items()}
    save_file(tensors, file, metadata={name: repr(value) for name, value in measured.items()})


def _checkpoint_names() -> set[str]:
    """The names of the tensors in a checkpoint of this version; a file of another version is replaced."""
    small = Setting(d_in=4, n_latents=16, batch=8, l0=2)
    state = next(train([(config_of("relu", small), 0)], Pool([torch.randn(8, 4)]), settings_of(small)))
    return set(state.checkpoint())


def fit(setting: Setting, steps: int, lr: float, warm_up: float, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    """The tensors after a whole run with the loop's defaults and warm-ups of a share `warm_up` of the steps."""
    warm = {"warm_up": warm_up, "penalty_warm_up": warm_up}
    settings = TrainConfig(steps=steps, batch_size=setting.batch, lr=lr, input_scale="none", **warm, **setting.extra)
    *_, state = train([(config_of("relu", setting), setting.seed)], Pool(batches), settings, setting.device)
    return state.stack.member(0)


def fit_dictionary(kind: str, setting: Setting, schedule: Schedule, batches: Sequence[Tensor]) -> Dictionary:
    """The dictionary after a whole run with the loop's defaults, with k or a target L0 of `setting.l0`."""
    assert schedule.lr is not None, "lr = None: the loop's default is not tuned; set a learning rate"
    selects = kind in ("topk", "batchtopk", "matryoshka", "matching_pursuit")
    sparsity = {"k": setting.l0} if selects else {"l0": setting.l0}
    levels = {"levels": setting.levels} if kind == "matryoshka" else {}
    extra = dict(setting.extra)
    options = {name.partition(".")[2]: extra.pop(name) for name in list(extra) if name.startswith("dictionary.")}
    config = config_class("dictionaries", kind)(n_latents=setting.n_latents, **sparsity, **levels, **options)
    assert isinstance(config, DictionaryConfig)
    shares = {"warm_up": schedule.warm_up, "penalty_warm_up": schedule.warm_up, "decay": schedule.decay}
    common = {"steps": schedule.steps, "batch_size": setting.batch, "lr": schedule.lr, "input_scale": "none"}
    settings = TrainConfig(**{**common, **shares, **extra})
    *_, state = train([(config, setting.seed)], Pool(batches), settings, setting.device)
    return state.dictionaries()[0]
