"""How well, and how sparsely, a dictionary rebuilds activations; all on the test rows, sums in float64.

    l0                  E sum_j [z_j != 0];  true_l0 is that of the true codes, where they are known, of the features
                        that the activations represent
    l1_norm             E sum_j |z_j|
    fvu                 E||x - x_hat||^2 / (E||x||^2 - ||E x||^2)
    explained_variance  1 - fvu
    shrinkage           gamma = E||x_hat||^2 / E[x . x_hat]
    fvu_active_1, ...   fvu of the rows with exactly 1, 2, 3, 4 active features alone, about their own mean
    dead, dense         shares of latents that fire on no test row, and on more than a tenth of them

Where the source has targets y, a transcoder's, y takes the place of x in `fvu` and `shrinkage`: ``x_hat =
decode(encode(x))`` is held against y, and the variance is that of y.

`explained_variance` is R^2 over all dimensions together, as in SAELens (since 2026) and sparse_coding: a
constant at the mean scores 0. Others differ: the SAEBench paper averages ratios of single tokens;
dictionary_learning puts the variance of ``x - x_hat`` on top and so forgives a constant bias; OpenAI's code
does not centre. `shrinkage` is eq. 10 of Rajamanoharan et al. 2024 ('Gated SAEs'), the factor by which
``x_hat`` should be divided to be closest to x: 1 is unbiased, below 1 has shrunk. Like theirs it is not
centred, so a large mean of the data pulls it to 1. It is not the ratio of norms, which is below 1 even for an
unbiased reconstruction. A latent is `dead` with respect to the test rows alone: more rows find fewer. Features that
share dimensions disturb each other when they are active together, and not when they take turns: `fvu_active_1` beside
`fvu_active_2` tells the two apart. It is NaN where fewer than 100 test rows have as many active features.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.dictionary import Dictionary
from sae.metric import Case, MetricConfig, Scores

_DENSE = 0.1
MOST_ACTIVE = 4
_LEAST_ROWS = 100
_ROWS_AT_ONCE = 4096


class Config(MetricConfig):
    """Needs activations alone. Vector: `density` ``[n_latents]``, the share of test rows in which each fires."""

    kind: Literal["reconstruction"] = "reconstruction"

    def score(self, case: Case) -> Scores:
        test, z = case.evidence.test, case.test_codes
        firings = torch.stack([piece.count_nonzero(0) for piece in z.split(_ROWS_AT_ONCE)]).sum(0)
        density = firings / len(z)
        scalars = {
            "l0": float(firings.sum()) / len(z),
            **fidelity(case.dictionary, test.acts, z, test.wanted),
            "dead": float((firings == 0).double().mean()),
            "dense": float((density > _DENSE).double().mean()),
            "l1_norm": float(z.abs().sum(dtype=torch.float64)) / len(z),
        }
        if test.codes is not None:
            active, truth = test.codes > 0, case.evidence.truth
            counted = active if truth is None else active[:, truth.represented]
            scalars["true_l0"] = float(counted.sum()) / len(active)
            scalars |= fvu_by_active(case.dictionary, test.acts, z, test.wanted, active.sum(1))
        return Scores(scalars, {"density": density})


def fidelity(
    d: Dictionary,
    x: Float[Tensor, "rows d_in"],
    z: Float[Tensor, "rows n_latents"],
    wanted: Float[Tensor, "rows d_out"],
) -> dict[str, float]:
    """`explained_variance`, `fvu` and `shrinkage` of what is `wanted`, from the codes `z` of the rows `x`; NaN where
    the data do not vary or the reconstruction is 0."""
    mean = wanted.mean(0, dtype=torch.float64)
    sums = torch.zeros(4, dtype=torch.float64, device=x.device)
    for read, codes, rows in zip(*(t.split(_ROWS_AT_ONCE) for t in (x, z, wanted)), strict=True):
        with torch.no_grad():
            x_hat = d.reconstruct(read, codes).double()
        rows = rows.double()
        # The variance from centred rows: the difference of two large numbers would lose digits.
        parts = (rows - x_hat).square(), (rows - mean).square(), x_hat.square(), rows * x_hat
        sums += torch.stack([part.sum() for part in parts])
    error, variance, power, overlap = sums.tolist()
    fvu = ratio(error, variance)
    return {"explained_variance": 1 - fvu, "fvu": fvu, "shrinkage": ratio(power, overlap)}


def fvu_by_active(
    d: Dictionary,
    x: Float[Tensor, "rows d_in"],
    z: Float[Tensor, "rows n_latents"],
    wanted: Float[Tensor, "rows d_out"],
    n_active: Int[Tensor, " rows"],
) -> dict[str, float]:
    """`fvu_active_1` and so on."""
    found: dict[str, float] = {}
    for k in range(1, MOST_ACTIVE + 1):
        rows = n_active == k
        enough = int(rows.sum()) >= _LEAST_ROWS
        found[f"fvu_active_{k}"] = fidelity(d, x[rows], z[rows], wanted[rows])["fvu"] if enough else float("nan")
    return found


def ratio(above: float, below: float) -> float:
    """NaN where the denominator is zero."""
    return above / below if below else float("nan")
