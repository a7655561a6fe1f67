"""What a toy network is made of and how it is trained, as settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from sae.numerics.schedules import cosine, trapezoid
from sae.registry import Settings, UserError

Activation = Literal["linear", "relu", "gelu"]


class NetworkConfig(Settings):
    """Settings of a toy network.

        r = x E                                     (E fixed; without `embed`, r = x)
        h_1 = a(r W_1 + b_1),  h_2 = a(h_1 W_2 + b_2),  ...
        y = o(h W_out + b_out)                      (`tied`: W_out = W_1^T)
        y = (r + h W_out) E^T                       (`residual`)

    `hidden` holds the widths of the hidden layers, `activation` is a, `output` is o. `dropout` sets hidden units to
    zero with that probability and scales up the rest while training; `hidden_l1` is the weight of
    ``mean_batch sum_k |h_k|`` in the loss. `embed` is the width of a fixed embedding with unit rows: ``random``, or
    ``tight``, the nearest tight frame to it. Weights begin normal with variance ``2 / (n_in + n_out)`` (``xavier``) or
    ``1 / n_out`` (``unit``: rows of about unit length); hidden biases begin at `hidden_bias_start`.
    """

    hidden: tuple[PositiveInt, ...] = Field(min_length=1)
    activation: Activation = "linear"
    output: Activation = "relu"
    tied: bool = True
    hidden_bias: bool = False
    hidden_bias_start: float = 0.0
    output_bias: bool = True
    residual: bool = False
    embed: int | None = Field(default=None, gt=0)
    embedding: Literal["random", "tight"] = "random"
    start: Literal["xavier", "unit"] = "xavier"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    hidden_l1: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> NetworkConfig:
        if self.tied and len(self.hidden) > 1:
            raise UserError(f"hidden = {list(self.hidden)}: tied weights have one hidden layer; set tied = false")
        if self.tied and (self.embed is not None or self.residual):
            raise UserError("tied: weights behind an embedding or a residual stream are not tied; set tied = false")
        if self.residual and (self.output != "linear" or self.output_bias):
            raise UserError("residual: the stream itself is the output; set output = 'linear', output_bias = false")
        if self.hidden_bias_start and not self.hidden_bias:
            raise UserError("hidden_bias_start: there is no bias; set hidden_bias = true")
        return self

    @property
    def is_linear(self) -> bool:
        """Whether the first hidden layer is a linear map of the features."""
        return self.activation == "linear"


class TrainingConfig(Settings):
    """Settings of its training: Adam with decoupled weight decay (Loshchilov and Hutter 2019) on

        L = mean_batch mean_i I_i (y_i - task_i(x))^2

    or the cross-entropy where the task has classes. The rate rises over the first share `warm_up` and then is constant
    or falls to 0. With `n_samples` there are just so many rows, all of them in every step. `weight_decay` may be
    negative, which rewards long weights.
    """

    steps: int = Field(default=3000, gt=0)
    batch_size: int = Field(default=256, gt=0)
    lr: float = Field(default=3e-3, gt=0)
    decay: Literal["constant", "linear", "cosine"] = "linear"
    warm_up: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = 0.01
    n_samples: int | None = Field(default=None, gt=0)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        share = step / self.steps
        falling = {"constant": 1.0, "linear": 1 - share, "cosine": cosine(step, self.steps)}
        return self.lr * trapezoid(step, self.steps, self.warm_up, 0.0) * falling[self.decay]
