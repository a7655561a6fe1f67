"""Our own trainer, pulled from the generator that users pull it from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lines import note
from benchmarks.pool import Pool
from benchmarks.trainers import Course, Setting, pool_of
from sae.architecture import DictionaryConfig
from sae.dictionary import Dictionary
from sae.registry import config_class
from sae.training.config import TrainConfig
from sae.training.loop import train
from sae.training.state import Member

REQUIRES = "sae.dictionaries.{kind}"
KINDS = ("relu", "topk")

LEARNS = {kind: kind for kind in ("relu", "topk", "batchtopk", "jumprelu", "gated", "matryoshka", "matching_pursuit")}
WEIGHED: Mapping[str, float] = {}
"""Nothing is searched for here: a penalty's weight is controlled for the L0 that is asked for."""

STRIDE = 10
HORIZON = 1_000_000

# The way to the trained state: small batches and a high learning rate, since it is steps that train a dictionary;
# stretches of so many steps, after each of which l1 may be moved by a little.
REACH_BATCH = 512
REACH_LR = 3e-3
STRETCH = 20
FIRST_L1 = 1.0
MOST_CHANGE = 1.03
FALLING = 0.96
MOST_STEPS = 10_000
TOLERANCE = 0.05
SETTLED = 5


class Saved(Mapping[str, Tensor]):
    """A checkpoint on disk as a mapping that reads a tensor when it is asked for and keeps none."""

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

    def figures(self) -> dict[str, float]:
        """What was measured when it was saved: l0, l1, ..."""
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as f:
            return {name: float(value) for name, value in (f.metadata() or {}).items()}


class Run:
    """Training that is moved on by pulling states."""

    stride = STRIDE

    def __init__(self, members: Sequence[Member], setting: Setting, batches: Sequence[Tensor]) -> None:
        self.members, self.setting, self.batches = members, setting, batches
        # A dictionary begins dense. Those steps, and their memory, belong to a training run as well.
        self.training = self._train(None)
        self.state = next(self.training)
        if setting.checkpoint is not None:
            self.training.close()
            del self.state
            self.training = self._train(Saved(Path(setting.checkpoint)))
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
    own = {"relu": {"l1": setting.l1}, "topk": {"k": setting.l0}}[kind]
    config = config_class("sae.dictionaries", kind)(n_latents=setting.n_latents, **own)
    assert isinstance(config, DictionaryConfig)
    return config


def settings_of(setting: Setting) -> TrainConfig:
    """The loop's defaults, on a horizon that is never reached: a constant learning rate and a constant penalty.

    Resampling is off, since none of the other libraries' defaults resamples.
    """
    fixed = {"steps": HORIZON, "batch_size": setting.batch, "log_every": STRIDE, "n_scale": setting.batch}
    constant = {"warm_up": 0.0, "decay": 0.0, "penalty_warm_up": 0.0, "resample_every": 0}
    return TrainConfig(**{**fixed, **constant, **setting.extra})


def reach(file: str, least_steps: int, **setting: Any) -> dict[str, float]:
    """Trains an L1 dictionary from its random start on planted data until it fires as often as is asked for,
    saves its checkpoint as `file` and returns what was measured. A file that is there is used again.

    After a stretch that ends more than 5% off, l1 is moved by up to 3%, unless L0 is on its way down by itself.
    It is done once five stretches in a row, after `least_steps` or more, have ended within 5%.
    """
    wanted, saved = Setting(**setting), Saved(Path(file))
    if saved.file.is_file() and set(saved) == _names_in_a_checkpoint():
        return saved.figures()
    batches = pool_of(wanted)
    variance = float(torch.stack([x.var(0).sum() for x in batches]).mean())
    small = min(REACH_BATCH, wanted.batch)
    source = Pool([piece for x in batches for piece in x.split(small) if len(piece) == small])
    fixed = {"batch_size": small, "lr": REACH_LR, "log_every": STRETCH // 10, "n_scale": 4096}
    settings = settings_of(wanted).model_copy(update=fixed)
    l1, settled, before = FIRST_L1, 0, float(wanted.n_latents)
    checkpoint: dict[str, Tensor] | None = None
    figures: dict[str, float] = {}
    while settled < SETTLED:
        member = (config_of("relu", replace(wanted, l1=l1)), wanted.seed)
        training = train([member], source, settings, wanted.device, checkpoint)
        seen: list[dict[str, float | int]] = []
        for state in training:
            seen += state.records()
            if state.step % STRETCH == 0:
                fvu = float(seen[-1]["mse"]) / variance / state.scaling.scale**2
                figures = {"steps": state.step, "fvu": fvu, "dead": float(seen[-1]["dead"])}
                checkpoint = state.checkpoint()
                break
        training.close()
        l0 = sum(float(r["l0"]) for r in seen) / len(seen)
        figures |= {"l0": l0, "l1": l1}
        excess, steps = l0 / wanted.l0, int(figures["steps"])
        near = abs(excess - 1) <= TOLERANCE
        settled = settled + 1 if near and steps >= least_steps else 0
        if steps % 200 == 0 or settled:
            note(f"  step {steps}: l0 {l0:.1f} of {wanted.l0}, l1 {l1:.3g}, fvu {figures['fvu']:.3f}")
        if steps >= MOST_STEPS and near:
            break
        if steps >= MOST_STEPS:
            raise RuntimeError(f"l0 {l0:.1f} after {steps} steps, {wanted.l0} wanted")
        falling = excess > 1 and l0 < FALLING * before
        before = l0
        if not near and not falling:
            l1 *= min(max(excess**0.2, 1 / MOST_CHANGE), MOST_CHANGE)
    save(saved.file, checkpoint or {}, figures)
    return figures


def save(file: Path, checkpoint: Mapping[str, Tensor], figures: Mapping[str, float]) -> None:
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in checkpoint.items()}
    save_file(tensors, file, metadata={name: repr(value) for name, value in figures.items()})


def _names_in_a_checkpoint() -> set[str]:
    """What a checkpoint holds in this version of the library; a file of another version is made anew."""
    small = Setting(d_in=4, n_latents=16, batch=8, l0=2)
    state = next(train([(config_of("relu", small), 0)], Pool([torch.randn(8, 4)]), settings_of(small)))
    return set(state.checkpoint())


def fit(setting: Setting, steps: int, lr: float, warm_up: float, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    """A whole run with the loop's defaults and warm-ups of the given share of the steps; the trained tensors."""
    warm = {"warm_up": warm_up, "penalty_warm_up": warm_up}
    settings = TrainConfig(steps=steps, batch_size=setting.batch, lr=lr, input_scale="none", **warm, **setting.extra)
    *_, state = train([(config_of("relu", setting), setting.seed)], Pool(batches), settings, setting.device)
    return state.stack.member(0)


def learn(kind: str, setting: Setting, course: Course, batches: Sequence[Tensor]) -> Dictionary:
    """A whole run with the loop's defaults, to the L0 that is asked for."""
    assert course.lr is not None, "the loop's own learning rate is no recommendation: name one"
    selects = kind in ("topk", "batchtopk", "matryoshka", "matching_pursuit")
    aim = {"k": setting.l0} if selects else {"l0": setting.l0}
    levels = {"levels": setting.levels} if kind == "matryoshka" else {}
    extra = dict(setting.extra)
    own = {name.partition(".")[2]: extra.pop(name) for name in list(extra) if name.startswith("dictionary.")}
    config = config_class("sae.dictionaries", kind)(n_latents=setting.n_latents, **aim, **levels, **own)
    assert isinstance(config, DictionaryConfig)
    shares = {"warm_up": course.warm_up, "penalty_warm_up": course.warm_up, "decay": course.decay}
    common = {"steps": course.steps, "batch_size": setting.batch, "lr": course.lr, "input_scale": "none"}
    settings = TrainConfig(**{**common, **shares, **extra})
    *_, state = train([(config, setting.seed)], Pool(batches), settings, setting.device)
    return state.dictionaries()[0]
