"""Whether a layer's neurons have neighbours: W^T W of its weights in an order in which neighbours are alike.

The order and its controls: :mod:`sae.analysis.geometry.order`. A decoder is asked the same where a dictionary is
given. The
whole order is in the written answer, to draw the map by.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from sae.analysis.geometry.moments import matched_gaussian
from sae.analysis.geometry.order import Way, adjacent, order_with_controls, seriation
from sae.numerics.statistics import Interval, of_draws
from sae.registry import UserError


class Config(QuestionConfig):
    """The weights of a `layer` (that of the source's hook where it is unset); rows are ordered by `leaves` or `chain`,
    chosen by their number where it is unset."""

    kind: Literal["neuron_map"] = "neuron_map"
    layer: int | None = Field(default=None, ge=0)
    way: Way | None = None
    shuffles: int = Field(default=10, gt=1)
    randoms: int = Field(default=3, gt=1)

    def answer(self, asked: QuestionContext) -> Answer:
        layer = asked.layer if self.layer is None else self.layer
        if layer >= asked.model.n_layers:
            raise UserError(f"ask.neuron_map.layer = {layer}: the model has {asked.model.n_layers} layers, from 0")
        rows: list[list[AnswerValue]] = []
        orders: dict[str, list[int]] = {}
        for name, weights in self._weights(asked, layer).items():
            found = order_with_controls(weights, self.way, self.shuffles, self.randoms, self.seed)
            covariance = torch.cov(weights.double().T.cpu(), correction=0)
            alike = [m.float() for m in matched_gaussian(covariance, len(weights), self.seed, self.randoms)]
            null = of_draws([adjacent(m, seriation(m, found.way)) for m in alike])
            shuffled, random = (Interval(e.mean, e.low, e.high) for e in (found.shuffled, found.random))
            told = "yes" if found.is_structured and found.adjacent > null.high else ""
            rows.append([name, len(weights), found.way, found.adjacent, shuffled, random, null, told])
            orders[name] = found.order.tolist()
        columns = (
            "rows",
            "number",
            "order",
            "neighbours",
            "shuffled",
            "Gaussian rows",
            "of their covariance",
            "above all",
        )
        return Answer(
            [AnswerTable("mean cos² of neighbours in the order", columns, rows)], {"layer": layer}, {"order": orders}
        )

    def _weights(self, asked: QuestionContext, layer: int) -> dict[str, Tensor]:
        bridge, found = asked.model.bridge, dict[str, Tensor]()
        for name, label in (("W_in", "input weights"), ("W_gate", "gate weights")):
            weights = getattr(bridge, name, None)
            if weights is not None:
                found[label] = weights[layer].detach().float().T.contiguous()
        found["output weights"] = bridge.W_out[layer].detach().float()
        if asked.dictionary is not None:
            found["decoder rows"] = asked.needed().W_dec.detach().float()
        return found
