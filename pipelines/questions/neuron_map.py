"""Whether the neurons of a layer form clusters: W^T W of its weights, sorted so that neighbours are similar.

The order and its controls are those of :mod:`sae.analysis.geometry.order`. With a dictionary, its decoder is sorted as
well. The written answer contains the whole order, for drawing the map.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from sae.analysis.geometry.moments import matched_gaussian
from sae.analysis.geometry.order import Way, adjacent, order_with_controls, seriation
from sae.model.parts import neuron_weights
from sae.numerics.statistics import Interval, of_draws

_LABELS = {"W_in": "input weights", "W_gate": "gate weights", "W_out": "output weights"}


class Config(QuestionConfig):
    """Settings of the question `neuron_map`."""

    kind: Literal["neuron_map"] = "neuron_map"
    layer: int | None = Field(default=None, ge=0)
    """The layer; by default that of the source's hook point."""
    way: Way | None = None
    """Method of sorting; by default it depends on the number of rows."""
    shuffles: int = Field(default=10, gt=1)
    """Number of shuffled matrices of the control."""
    randoms: int = Field(default=3, gt=1)
    """Number of random matrices of the control."""

    def answer(self, context: QuestionContext) -> Answer:
        layer = context.layer if self.layer is None else self.layer
        rows: list[list[AnswerValue]] = []
        orders: dict[str, list[int]] = {}
        for name, weights in self._weights(context, layer).items():
            ordering = order_with_controls(weights, self.way, self.shuffles, self.randoms, self.seed)
            covariance = torch.cov(weights.double().T.cpu(), correction=0)
            matched = [m.float() for m in matched_gaussian(covariance, len(weights), self.seed, self.randoms)]
            null = of_draws([adjacent(m, seriation(m, ordering.way)) for m in matched])
            shuffled, random = (Interval(e.mean, e.low, e.high) for e in (ordering.shuffled, ordering.random))
            is_above = "yes" if ordering.is_structured and ordering.adjacent > null.high else ""
            rows.append([name, len(weights), ordering.way, ordering.adjacent, shuffled, random, null, is_above])
            orders[name] = ordering.order.tolist()
        columns = (
            "rows",
            "number",
            "order",
            "neighbours",
            "shuffled",
            "Gaussian rows",
            "Gaussian rows, same covariance",
            "above all controls",
        )
        return Answer(
            [AnswerTable("mean cos² of neighbours in the order", columns, rows)], {"layer": layer}, {"order": orders}
        )

    def _weights(self, context: QuestionContext, layer: int) -> dict[str, Tensor]:
        weights = neuron_weights(context.model, layer)
        matrices = {label: weights[name].float() for name, label in _LABELS.items() if name in weights}
        if context.dictionary is not None:
            matrices["decoder rows"] = context.required_dictionary().W_dec.detach().float()
        return matrices
