"""What single attention heads do: ablation, the logits of one head alone, what they read and write.

    z_h = 0 at every position ablates head h, its value's bias with it

so that h adds nothing to the stream but what belongs to all heads, b_O; or, where it is given, z_h = m_h, the head's
mean, which leaves what it adds everywhere. Rows come with their answers, and everything is
measured at the positions that have any, with the tokens that the model was trained on. A head alone, less all heads
ablated, is ``z_h W_O,h W_U``: in a model of one layer without normalisation those differences add up to the logits.
What heads do for single outcomes of a real model: :mod:`sae.analysis.circuits.outcomes`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.model.hooked import Model
from sae.model.token_rows import TokenRows


def n_heads(model: Model) -> int:
    return int(model.bridge.cfg.n_heads)


def z_of(layer: int) -> str:
    """The hook point of what a layer's heads read, before W_O."""
    return f"blocks.{layer}.attn.hook_z"


def logits_with(
    model: Model,
    rows: TokenRows,
    heads: Bool[Tensor, " n_heads"],
    layer: int = 0,
    instead: Float[Tensor, "n_heads d_head"] | None = None,
) -> Float[Tensor, "rows n_tokens d_vocab"]:
    """The model's logits with those heads of a layer alone, the others ablated at every position: to nothing, or to
    what is given for each head `instead`."""
    kept = heads.to(model.device)[:, None]

    def ablate(z: Tensor) -> Tensor:
        parted = z.unflatten(1, (len(kept), -1))
        return torch.where(kept, parted, 0 if instead is None else instead.to(parted)).flatten(1)

    everywhere = TokenRows(rows.tokens, rows.attended, rows.attended, rows.answers)
    return model.logits(everywhere, z_of(layer), ablate)


def mean_z(model: Model, rows: TokenRows, rows_at_once: int = 32) -> Float[Tensor, "n_layers n_heads d_head"]:
    """The mean of every head's z over the kept positions."""
    hooks, total = [z_of(layer) for layer in range(model.n_layers)], 0.0
    for start in range(0, len(rows), rows_at_once):
        some = rows[start : start + rows_at_once]
        kept = some.kept.to(model.device)
        found = torch.stack(model.activations_at(some.tokens, some.attended, hooks))
        total = total + found[:, kept].double().sum(1)
    mean = torch.as_tensor(total) / int(rows.kept.sum())
    return mean.float().unflatten(1, (n_heads(model), -1))


@dataclass(frozen=True)
class Ablations:
    """What each head's ablation does at each position that is asked for an answer, beside the model as it is."""

    position: Int[Tensor, " n_asked"]
    loss: Float[Tensor, " n_asked"]
    accuracy: Float[Tensor, " n_asked"]
    loss_rise: Float[Tensor, "n_heads n_asked"]
    accuracy_drop: Float[Tensor, "n_heads n_asked"]


def ablations(model: Model, rows: TokenRows, layer: int = 0) -> Ablations:
    """Every head of a layer ablated in turn."""
    every = torch.ones(n_heads(model), dtype=torch.bool)
    position = rows.counted.any(0).nonzero()[:, 0].cpu()
    loss, accuracy = _by_position(model.logits(rows), rows, position)
    found = [_by_position(logits_with(model, rows, every & (_one(h, every) == 0), layer), rows, position)
             for h in range(len(every))]  # fmt: skip
    risen, dropped = (torch.stack([f[i] for f in found]) for i in (0, 1))
    return Ablations(position, loss, accuracy, risen - loss, accuracy - dropped)


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
    """What each head alone adds to the logit of the right answer, over what it adds to all answers on average."""
    counted, every = rows.counted.to(model.device), torch.ones(n_heads(model), dtype=torch.bool)
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
    """The participation ratio ``(sum_h |w_h|)^2 / sum_h w_h^2``: 1 where one head does it all, n where n share evenly;
    NaN where no head does anything."""
    return contributed.abs().sum(-1).square() / contributed.square().sum(-1)


@dataclass(frozen=True)
class Projections:
    """What every head of a layer makes of tokens and positions, by their embeddings alone: ``[n_heads, K, d_head]``;
    and where it writes each answer, ``W_O W_U``."""

    tokens: dict[str, Float[Tensor, "n_heads d_vocab d_head"]]
    positions: dict[str, Float[Tensor, "n_heads n_ctx d_head"]]
    answers: Float[Tensor, "n_heads d_vocab_out d_head"]


def projections(model: Model, layer: int = 0) -> Projections:
    """W_E and W_pos through the queries ``q``, keys ``k`` and values ``v`` of a layer, without biases."""
    bridge = model.bridge
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
    """For each head the correlation between the points `first` and `second`, each with its own mean taken out: 1 where
    a head does not tell the two apart but by a constant. A few points correlate by chance; hold it against another
    pairing of the same points."""
    a, b = (points[:, index] - points[:, index].mean(1, keepdim=True) for index in (first, second))
    return (a * b).sum((1, 2)) / (a.square().sum((1, 2)) * b.square().sum((1, 2))).sqrt()


def circularity(points: Float[Tensor, "n 2"]) -> tuple[float, int]:
    """How much of the variance of points in a plane lies on a circle that they go round in order, and by how many steps
    of ``1 / n`` of it each goes on.

        Z_f = sum_k (x_k + i y_k) exp(-2 pi i f k / n),    share = max_{f > 0} |Z_f|^2 / sum_{f > 0} |Z_f|^2

    1 for a regular polygon in any order that is a multiple of its own, near a third for ten random points; points on
    a line have at most a half, since they go round both ways at once.
    """
    power = torch.fft.fft(torch.complex(points[:, 0].double(), points[:, 1].double())).abs().square()[1:]
    best = int(power.argmax()) + 1
    return float(power.max() / power.sum()), min(best, len(points) - best)
