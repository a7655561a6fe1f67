"""A few unrolled steps of iterative shrinkage with learned step sizes and thresholds, fitted to a trained dictionary.

    z_0 = 0,    z_{t+1} = ReLU(z_t + step_t * (c - z_t W_dec W_dec^T) - shift_t),    c = (x - b_dec) W_dec^T
    codes: z_T, in whose last step `slope`, `offset` and a threshold take the place of the ReLU

Gregor and LeCun 2010, 'Learning fast approximations of sparse coding', in the form with few parameters that Liu et al.
2019 ('ALISTA') justify: the matrices are the decoder's, and ``step_t`` and ``shift_t`` are per-latent parameters. They
are trained by Adam to reproduce the debiased lasso codes of training samples; the last jump is fitted by
:mod:`sae.numerics.threshold_fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary
from sae.encoder import LassoConfig, encoder_rows, needed, taken
from sae.numerics.fit_cost import FitCost
from sae.numerics.seeds import generator
from sae.numerics.sparse_coding import gram_product, largest_eigenvalue, lasso_multiply_adds, sparse_codes
from sae.numerics.threshold_fit import fit_jump
from sae.numerics.thresholding import above
from sae.source import Source


class Config(LassoConfig):
    """Trains unrolled steps to reproduce lasso codes; the inherited settings are those of the lasso."""

    kind: Literal["lista"] = "lista"
    n_steps: int = Field(4, gt=0)
    """Number of unrolled steps."""
    n_rows: int = Field(32_768, gt=0)
    """Number of training samples."""
    steps: int = Field(300, gt=0)
    """Number of Adam steps."""
    batch_size: int = Field(512, gt=0)
    """Samples per Adam step."""
    lr: float = Field(0.02, gt=0)
    """Initial learning rate of Adam; it decays linearly to zero."""

    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Lista:
        x = encoder_rows(needed(source, "to learn the steps on"), d, 1, self.n_rows) - d.b_dec
        l1, threshold = self.raw(d, source)
        codes = sparse_codes(x, d.W_dec, l1, threshold, self.n_iterations, self.tolerance).debiased
        step_size = 1 / largest_eigenvalue(d.W_dec)
        step = torch.ones_like(d.b_enc).repeat(self.n_steps, 1) * step_size
        step[0] = 1 / d.W_dec.square().sum(-1).clamp_min(1e-12)  # exact in one step where one latent is active
        shift = torch.full_like(step, max(l1, threshold)) * step
        step, shift = self.learn(x @ d.W_dec.T, codes, d.W_dec, step, shift, seed)
        jump = fit_jump(unroll(x @ d.W_dec.T, d.W_dec, step, shift), codes)
        W_enc, b_enc = d.W_dec.T.contiguous(), torch.zeros_like(d.b_enc)
        return Lista(W_enc, d.W_dec, b_enc, d.b_dec, step, shift, **jump._asdict())

    def fit_cost(self, d: Dictionary, source: Source | None) -> FitCost:
        """Per training sample two lassos, one of them to debias; per Adam sample three times the unrolled products, for
        the forward and the backward pass."""
        n, drawn = taken(needed(source, "to learn the steps on"), self.n_rows), self.steps * self.batch_size
        unrolled = (self.n_steps - 1) * d.n_latents * min(d.n_latents, 2 * d.d_in)
        work = n * (2 * lasso_multiply_adds(d.W_dec, self.n_iterations) + d.d_in * d.n_latents + unrolled)
        return super().fit_cost(d, source).plus(FitCost(n, n + drawn, work + 3 * drawn * unrolled), None)

    def learn(
        self, correlation: Tensor, codes: Tensor, W_dec: Tensor, step: Tensor, shift: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """The steps and shifts that minimise the squared error between the last codes and `codes`."""
        parameters = [step.clone().requires_grad_(), shift.clone().requires_grad_()]
        adam = torch.optim.Adam(parameters, lr=self.lr)
        draw = generator("lista", seed)
        for k in range(self.steps):
            adam.param_groups[0]["lr"] = self.lr * (1 - k / self.steps)
            index = torch.randint(len(codes), (self.batch_size,), generator=draw).to(codes.device)
            with torch.enable_grad():
                z = torch.relu(unroll(correlation[index], W_dec, *parameters))
                loss = (z - codes[index]).square().sum(-1).mean()
            step_gradient, shift_gradient = torch.autograd.grad(loss, parameters)
            parameters[0].grad, parameters[1].grad = step_gradient, shift_gradient
            adam.step()
        return parameters[0].detach(), parameters[1].detach()


def unroll(
    correlation: Float[Tensor, "*batch n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    step: Float[Tensor, "n_steps n_latents"],
    shift: Float[Tensor, "n_steps n_latents"],
) -> Float[Tensor, "*batch n_latents"]:
    """All steps, without the ReLU of the last one."""
    product, v = gram_product(W_dec), step[0] * correlation - shift[0]
    for step_t, shift_t in zip(step[1:], shift[1:], strict=True):
        z = torch.relu(v)
        v = z + step_t * (correlation - product(z)) - shift_t
    return v


@dataclass(frozen=True, eq=False)
class Lista(Dictionary):
    """Dictionary that encodes by unrolled steps; `W_enc` is the decoder's transpose and `b_enc` zero."""

    kind: ClassVar[str] = "lista"

    step: Float[Tensor, "n_steps n_latents"]
    """Step sizes."""
    shift: Float[Tensor, "n_steps n_latents"]
    """Thresholds of the ReLUs, subtracted in each step."""
    slope: Float[Tensor, " n_latents"]
    """Factor of the last step's values."""
    offset: Float[Tensor, " n_latents"]
    """Added to the scaled values."""
    threshold: Float[Tensor, " n_latents"]
    """Codes up to this value are set to zero."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        v = unroll(self.centred(x) @ self.W_enc + self.b_enc, self.W_dec, self.step, self.shift)
        return above(v * self.slope + self.offset, self.threshold)

    def multiply_adds(self) -> int:
        one_product = self.n_latents * min(self.n_latents, 2 * self.d_in)
        return self.d_in * self.n_latents + (len(self.step) - 1) * one_product

    def settings(self) -> dict[str, float | int | str | bool]:
        return {}


KIND = Lista
