"""Settings of the training loop."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from sae.registry import VersionedSettings
from sae.training.engine import AnyPrecision
from sae.training.input_scaling import Scaling
from sae.training.stack import Start


def _centre(value: Any) -> Any:
    """Accepts True and False, which older configs use for ``"mean"`` and ``"none"``."""
    return {True: "mean", False: "none"}[value] if isinstance(value, bool) else value


class TrainConfig(VersionedSettings):
    """Settings of the training loop. Shares (`warm_up`, `decay`, ...) are shares of `steps`."""

    later: ClassVar[frozenset[str]] = frozenset({"keep_near", "aligned"})

    steps: int = Field(default=10_000, gt=0)
    """The number of training steps."""
    batch_size: int = Field(default=1024, gt=0)
    """The number of samples per step."""
    lr: float = Field(default=1e-3, gt=0, le=1e18)
    """The learning rate of Adam."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """The decay of Adam's first moment per step."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """The decay of Adam's second moment per step."""
    warm_up: float = Field(default=0.02, ge=0, le=1)
    """The share of the steps over which the learning rate rises linearly from zero."""
    decay: float = Field(default=0.2, ge=0, le=1)
    """The share of the steps at the end over which the learning rate falls linearly to zero."""
    penalty_warm_up: float = Field(default=0.05, ge=0, le=1)
    """The share of the steps over which the weight of the penalty rises linearly from zero."""
    input_scale: Scaling = "sqrt_d"
    """The scaling of the activations during training, see :mod:`sae.training.input_scaling`."""
    centre: Annotated[Literal["mean", "median", "none"], BeforeValidator(_centre)] = "mean"
    """The initial value of b_dec: the mean or the geometric median of the first `n_scale` samples, or zero."""
    start: Start = "random"
    """The initial decoder rows: uniform on the sphere, in orthogonal sets of `d_in`, or centred samples of the data."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """The decay per step of a moving average of the parameters, which then is the result (Polyak and Juditsky 1992); 0
    takes the parameters of the last step."""
    n_scale: int = Field(default=32_768, gt=0)
    """The number of samples from which `input_scale`, `centre` and ``start = "data"`` are measured."""
    dead_after: int = Field(default=500, gt=0)
    """The number of steps without firing after which a latent counts as dead."""
    resample_every: int = Field(default=1000, ge=0)
    """The number of steps between resamplings of dead latents; 0 for never."""
    resample_until: float = Field(default=0.6, ge=0, le=1)
    """The share of the steps at the beginning during which dead latents are resampled."""
    resample_pool: int = Field(default=8192, gt=0)
    """The number of samples from which the new directions of dead latents are drawn."""
    log_every: int = Field(default=100, gt=0)
    """The number of steps between log entries."""
    precision: AnyPrecision = "float32"
    """The precision of the encoder's product once codes are sparse. ``"screen"`` finds the active latents in bfloat16
    and computes their codes in float32, so that codes are those of ``"float32"`` to rounding; ``"bfloat16"`` takes the
    rounded product for the codes. ``"auto"`` times the first two on this machine and takes the faster; the choice is
    kept in the folder of the steps, and steps are named by what was taken."""
    encoder_norm: float = Field(default=0.1, gt=0)
    """The initial norm of encoder rows. 0.1, also the initial norm in other libraries, finds features in fewer steps on
    wide dictionaries."""
    keep_near: float = Field(default=0.0, ge=0, le=1)
    """The cosine that each decoder row keeps, at least, with its initial direction, by a projection after every step
    (resampled rows too): 0.8 is the soft-frozen decoder of Korznikov et al. 2026 ('Sanity checks for sparse
    autoencoders'), 1 a frozen one, 0 no constraint. A control for how much the learned directions contribute."""
    aligned: bool = False
    """Whether the inner product of every encoder row with its decoder row stays one, by a projection after every step:
    a latent then reads its own direction at full strength, and only how it reads the others is learned (Aligned
    training, arXiv 2605.18629, which divides the row by the inner product instead; both leave the same rows possible).
    It also sets the initial norm of encoder rows, in place of `encoder_norm`."""
