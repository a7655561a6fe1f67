"""The cost of an encoder, from its settings alone."""

from __future__ import annotations

import pytest
import torch

from sae.dictionaries.relu import Relu
from sae.encoders.fista import Fista
from sae.metric import Case, Evidence
from sae.metrics.cost import Config
from sae.source import Batch


def cost(d: Relu | Fista) -> float:
    rows = Batch(torch.zeros(2, d.d_in))
    return Config().score(Case(d, Evidence(rows, rows))).scalars["encoder_cost"]


@pytest.mark.parametrize(("n_latents", "product"), [(6, 6 * 6), (10, 2 * 4 * 10)])
def test_cost_is_that_of_the_products_over_one_layer(n_latents: int, product: int):
    """FISTA multiplies by the Gram matrix where that is small, else twice by the directions."""
    d = Relu.tied(torch.nn.functional.normalize(torch.randn(n_latents, 4)))
    assert cost(d) == 1
    lasso = Fista.over(d.W_dec, d.b_dec, l1=0.1, n_iterations=7)
    assert cost(lasso) == 1 + 7 * product / (4 * n_latents)


def test_neither_order_nor_scale_of_latents_nor_the_rows_matter():
    d = Relu.tied(torch.nn.functional.normalize(torch.randn(10, 4)))
    moved = Relu(d.W_enc.flip(1) * 3, d.W_dec.flip(0) / 3, d.b_enc, d.b_dec)
    assert cost(moved) == cost(d) == 1
    assert cost(Fista.over(moved.W_dec, d.b_dec, l1=0.1, n_iterations=7)) == 1 + 7 * 80 / 40
