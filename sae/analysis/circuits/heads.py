"""Single attention heads: ablations, direct contributions to the logits, and their weights seen from the embeddings.

    z_h = 0 at every position ablates head h, including the bias of its values

so that h adds nothing to the residual stream (b_O belongs to all heads and stays). Mean ablation sets z_h = m_h, the
head's mean, instead. Rows of tokens come with their answers, and everything is measured at the positions that have one.
The logits with one head alone minus those with all heads ablated are ``z_h W_O,h W_U``: in a one-layer model without
normalisation these differences add up to the logits. For effects on single outcomes of a real model, see
:mod:`sae.analysis.circuits.outcomes`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.model.hooked import Model
from sae.model.parts import layers_with_heads, n_heads, z_of
from sae.model.token_rows import TokenRows
from sae.registry import UserError


def logits_with(
    model: Model,
    rows: TokenRows,
    heads: Bool[Tensor, " n_heads"],
    layer: int = 0,
    instead: Float[Tensor, "n_heads d_head"] | None = None,
) -> Float[Tensor, "rows n_tokens d_vocab"]:
    """The model's logits with only the given heads of a layer; the other heads are set to zero at every position, or to
    their rows of `instead`."""
    kept = heads.to(model.device)[:, None]

    def ablate(z: Tensor) -> Tensor:
        by_head = z.unflatten(1, (len(kept), -1))
        return torch.where(kept, by_head, 0 if instead is None else instead.to(by_head)).flatten(1)

    everywhere = TokenRows(rows.tokens, rows.attended, rows.attended, rows.answers)
    return model.logits(everywhere, z_of(model, layer), ablate)


def mean_z(model: Model, rows: TokenRows, rows_at_once: int = 32) -> dict[int, Float[Tensor, "n_heads d_head"]]:
    """The mean of every head's z over the kept positions, for each layer with heads."""
    layers = layers_with_heads(model)
    total = dict[int, Tensor]()
    for start in range(0, len(rows), rows_at_once):
        batch = rows[start : start + rows_at_once]
        kept = batch.kept.to(model.device)
        acts = model.activations_at(batch.tokens, batch.attended, [z_of(model, layer) for layer in layers])
        for layer, z in zip(layers, acts, strict=True):
            total[layer] = total.get(layer, 0.0) + z[kept].double().sum(0)
    n = int(rows.kept.sum())
    return {layer: (z / n).float().unflatten(0, (n_heads(model, layer), -1)) for layer, z in total.items()}


@dataclass(frozen=True)
class Ablations:
    """Effects of each head's ablation at each position that has answers."""

    position: Int[Tensor, " n_positions"]
    """The positions that have answers."""
    loss: Float[Tensor, " n_positions"]
    """Mean cross-entropy of the intact model, in nats."""
    accuracy: Float[Tensor, " n_positions"]
    """Share of right answers of the intact model."""
    loss_rise: Float[Tensor, "n_heads n_positions"]
    """Loss with the head ablated minus `loss`."""
    accuracy_drop: Float[Tensor, "n_heads n_positions"]
    """`accuracy` minus the accuracy with the head ablated."""


def ablations(model: Model, rows: TokenRows, layer: int = 0) -> Ablations:
    """Every head of a layer ablated in turn."""
    every = torch.ones(n_heads(model, layer), dtype=torch.bool)
    position = rows.counted.any(0).nonzero()[:, 0].cpu()
    loss, accuracy = _by_position(model.logits(rows), rows, position)
    ablated = [_by_position(logits_with(model, rows, every & (_one(h, every) == 0), layer), rows, position)
               for h in range(len(every))]  # fmt: skip
    ablated_loss, ablated_accuracy = (torch.stack([measure[i] for measure in ablated]) for i in (0, 1))
    return Ablations(position, loss, accuracy, ablated_loss - loss, accuracy - ablated_accuracy)


def _one(head: int, every: Tensor) -> Bool[Tensor, " n_heads"]:
    return torch.arange(len(every)) == head


def _by_position(logits: Tensor, rows: TokenRows, position: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss and accuracy of the answers at each position."""
    counted, targets = (x.to(logits.device)[:, position] for x in (rows.counted, rows.targets))
    log_probs = logits[:, position].float().log_softmax(-1)
    loss = -log_probs.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    right = (log_probs.argmax(-1) == targets).float()
    n = counted.sum(0)
    return (loss * counted).sum(0).cpu() / n.cpu(), (right * counted).sum(0).cpu() / n.cpu()


def contributions(model: Model, rows: TokenRows, layer: int = 0) -> Float[Tensor, "answers n_heads"]:
    """What each head alone adds to the logit of the right answer, minus the mean of what it adds to all logits."""
    counted, every = rows.counted.to(model.device), torch.ones(n_heads(model, layer), dtype=torch.bool)
    targets = rows.targets.to(model.device)[counted][:, None]
    nothing = logits_with(model, rows, ~every, layer)[:, : counted.shape[1]][counted]

    def of(head: int) -> Tensor:
        added = logits_with(model, rows, _one(head, every), layer)[:, : counted.shape[1]][counted] - nothing
        return added.gather(1, targets).squeeze(1) - added.mean(1)

    return torch.stack([of(h) for h in range(len(every))], dim=1).cpu()


def by_circuit(
    contributed: Float[Tensor, "answers n_heads"], circuit: Int[Tensor, " answers"]
) -> Float[Tensor, "n_circuits n_heads"]:
    """The mean contribution of each head to the answers of each circuit, in the order of the circuits' numbers."""
    return torch.stack([contributed[circuit == c].mean(0) for c in circuit.unique(sorted=True)])


def effective_heads(contributed: Float[Tensor, "*circuits n_heads"]) -> Float[Tensor, "*circuits"]:
    """The participation ratio ``(sum_h |w_h|)^2 / sum_h w_h^2``: 1 if one head contributes everything, n if n heads
    contribute equally; NaN if none contributes."""
    return contributed.abs().sum(-1).square() / contributed.square().sum(-1)


@dataclass(frozen=True)
class Projections:
    """Token and position embeddings through the weights of every head of a layer, and the heads' paths to the logits.

    `tokens` and `positions` have the keys ``q``, ``k`` and ``v``.
    """

    tokens: dict[str, Float[Tensor, "n_heads d_vocab d_head"]]
    """``W_E W`` for the query, key and value weights W of each head."""
    positions: dict[str, Float[Tensor, "n_heads n_ctx d_head"]]
    """``W_pos W`` for the same weights."""
    answers: Float[Tensor, "n_heads d_vocab_out d_head"]
    """``W_O W_U``: for each output token, the direction in z that raises its logit."""


def projections(model: Model, layer: int = 0) -> Projections:
    """W_E and W_pos through the queries ``q``, keys ``k`` and values ``v`` of a layer, without biases.

    Raises `UserError` for a model whose layers do not all have heads, or that does not add embeddings of positions to
    embeddings of tokens of the same width.
    """
    bridge, every = model.bridge, layers_with_heads(model)
    if len(every) < model.n_layers or getattr(bridge, "W_pos", None) is None or bridge.W_E.shape[1] != model.d_model:
        raise UserError(
            f"model = {model.name!r}: it is no transformer with attention in every layer and learned positions, added "
            "to tokens of the same width; give one that is"
        )
    weights = {name: getattr(bridge, f"W_{name.upper()}")[layer] for name in "qkv"}
    tokens, positions = (
        {name: torch.einsum("td,hde->hte", table, W).detach().cpu() for name, W in weights.items()}
        for table in (bridge.W_E, bridge.W_pos)
    )
    written = torch.einsum("hed,dv->hve", bridge.W_O[layer], bridge.W_U).detach().cpu()
    return Projections(tokens, positions, written)


def point_correlation(
    points: Float[Tensor, "n_heads n_points d_head"], first: Int[Tensor, " n"], second: Int[Tensor, " n"]
) -> Float[Tensor, " n_heads"]:
    """For each head, the correlation between the points `first` and the points `second`, each set centred: 1 if the two
    sets differ by a constant only. A few points correlate by chance; compare with another pairing of the same
    points."""
    a, b = (points[:, index] - points[:, index].mean(1, keepdim=True) for index in (first, second))
    return (a * b).sum((1, 2)) / (a.square().sum((1, 2)) * b.square().sum((1, 2))).sqrt()


def circularity(points: Float[Tensor, "n 2"]) -> tuple[float, int]:
    """The share of the variance of points in a plane that one frequency around a circle explains, and that frequency.

        Z_f = sum_k (x_k + i y_k) exp(-2 pi i f k / n),    share = max_{f > 0} |Z_f|^2 / sum_{f > 0} |Z_f|^2

    Each point is f steps of ``1 / n`` of the circle after the one before it; f and n - f count as one frequency. The
    share is 1 for a regular polygon visited in steps of any number of corners, near a third for ten random points, and
    at most a half for points on a line, which have equal parts in both directions of rotation.
    """
    power = torch.fft.fft(torch.complex(points[:, 0].double(), points[:, 1].double())).abs().square()[1:]
    best = int(power.argmax()) + 1
    return float(power.max() / power.sum()), min(best, len(points) - best)
