"""Settings of a toy network and of its training."""

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

    """

    hidden: tuple[PositiveInt, ...] = Field(min_length=1)
    """Widths of the hidden layers."""
    activation: Activation = "linear"
    """Activation function a of the hidden layers."""
    output: Activation = "relu"
    """Activation function o of the output."""
    tied: bool = True
    """Whether the output weights are the transposed hidden weights."""
    hidden_bias: bool = False
    """Whether hidden layers have biases."""
    hidden_bias_start: float = 0.0
    """Initial value of the hidden biases."""
    output_bias: bool = True
    """Whether the output has a bias."""
    residual: bool = False
    """Whether the last hidden layer adds to the input r instead of replacing it."""
    embed: int | None = Field(default=None, gt=0)
    """Width of a fixed embedding with unit rows; None for no embedding."""
    embedding: Literal["random", "tight"] = "random"
    """Kind of the embedding: random rows, or the tight frame nearest to them."""
    start: Literal["xavier", "unit"] = "xavier"
    """Variance of the normal initial weights: ``2 / (n_in + n_out)``, or ``1 / n_out`` for about unit rows."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which training sets a hidden unit to 0, scaling up the others."""
    hidden_l1: float = Field(0.0, ge=0)
    """Weight of ``mean_batch sum_k |h_k|`` in the loss, summed over hidden layers."""

    @model_validator(mode="after")
    def _fits(self) -> NetworkConfig:
        if self.tied and len(self.hidden) > 1:
            raise UserError(f"hidden = {list(self.hidden)}: tied weights allow only one hidden layer; set tied = false")
        if self.tied and (self.embed is not None or self.residual):
            raise UserError("tied = true: not possible with an embedding or a residual stream; set tied = false")
        if self.residual and (self.output != "linear" or self.output_bias):
            raise UserError("residual = true: needs a linear output; set output = 'linear', output_bias = false")
        if self.hidden_bias_start and not self.hidden_bias:
            raise UserError(f"hidden_bias_start = {self.hidden_bias_start:g}: no hidden biases; set hidden_bias = true")
        return self

    @property
    def is_linear(self) -> bool:
        """Whether the first hidden layer is a linear map of the features."""
        return self.activation == "linear"


class TrainingConfig(Settings):
    """Settings of the training: Adam with decoupled weight decay (Loshchilov and Hutter 2019) on

        L = mean_batch mean_i I_i (y_i - task_i(x))^2

    with importances I_i, or on the cross-entropy if the task has classes.
    """

    steps: int = Field(default=3000, gt=0)
    """Number of training steps."""
    batch_size: int = Field(default=256, gt=0)
    """Samples per step."""
    lr: float = Field(default=3e-3, gt=0)
    """Largest learning rate."""
    decay: Literal["constant", "linear", "cosine"] = "linear"
    """Course of the learning rate: constant, or falling to 0."""
    warm_up: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """Weight decay; a negative value makes weights grow."""
    n_samples: int | None = Field(default=None, gt=0)
    """Size of a fixed training set, all of which is used in every step; None draws new samples every step."""

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        share = step / self.steps
        falling = {"constant": 1.0, "linear": 1 - share, "cosine": cosine(step, self.steps)}
        return self.lr * trapezoid(step, self.steps, self.warm_up, 0.0) * falling[self.decay]
