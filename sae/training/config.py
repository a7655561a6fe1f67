"""Settings of the training loop."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from sae.registry import VersionedSettings
from sae.training.engine import Precision
from sae.training.input_scaling import Scaling
from sae.training.stack import Start


def _centre(given: Any) -> Any:
    """Yes and no, as they were once given."""
    return {True: "mean", False: "none"}[given] if isinstance(given, bool) else given


class TrainConfig(VersionedSettings):
    """Settings of the training loop. Shares (`warm_up`, `decay`, ...) are of `steps`.

    `input_scale` is told in :mod:`sae.training.input_scaling`; it and what b_dec begins at (`centre`: the mean or the
    geometric median)
    are taken from the first `n_scale` rows, and so are decoder rows with ``start = "data"``. With `average`, what comes
    out is a moving average of the parameters with this factor a step (Polyak and Juditsky 1992).
    Latents that were silent for `dead_after` steps count as dead, and are resampled every `resample_every`
    steps (0: never) during the first share `resample_until`. `precision` is that of the encoder's product
    once codes are sparse: ``screen`` finds the candidates in bfloat16 and computes their codes in float32, so that
    codes are those of ``float32``; ``bfloat16`` takes the rounded product for the codes. Encoder rows begin at the norm
    `encoder_norm`; .1, where other libraries begin, finds features in fewer steps on wide dictionaries.

    With `keep_near`, each decoder row keeps at least this cosine with where it began, in the units of training, by a
    projection after every step (resampled rows too): the soft-frozen decoder of Korznikov et al. 2026 ('Sanity checks
    for sparse autoencoders') at .8, a frozen one at 1. It tells what is owed to learned directions; 0 leaves them free.
    """

    later: ClassVar[frozenset[str]] = frozenset({"keep_near"})

    steps: int = Field(10_000, gt=0)
    batch_size: int = Field(1024, gt=0)
    lr: float = Field(1e-3, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    warm_up: float = Field(0.02, ge=0, le=1)
    decay: float = Field(0.2, ge=0, le=1)
    penalty_warm_up: float = Field(0.05, ge=0, le=1)
    input_scale: Scaling = "sqrt_d"
    centre: Annotated[Literal["mean", "median", "none"], BeforeValidator(_centre)] = "mean"
    start: Start = "random"
    average: float = Field(0.0, ge=0, lt=1)
    n_scale: int = Field(32_768, gt=0)
    dead_after: int = Field(500, gt=0)
    resample_every: int = Field(1000, ge=0)
    resample_until: float = Field(0.6, ge=0, le=1)
    resample_pool: int = Field(8192, gt=0)
    log_every: int = Field(100, gt=0)
    precision: Precision = "float32"
    encoder_norm: float = Field(0.1, gt=0)
    keep_near: float = Field(0.0, ge=0, le=1)
