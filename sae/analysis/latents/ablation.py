"""What the model loses without a latent: its contribution is taken out at single places where it fires.

    x' = x - z_j W_dec[j]   at one position,      change = log p'(next token) - log p(next token)

for rows that are cut after that position, one row for each example of a latent, many in a forward pass. A change is
negative where the latent helped to predict what came. What else moved is told by the mean change of every token's
probability. Later positions and other latents that would answer to the change are not looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.analysis.latents.examples import LatentExamples
from sae.analysis.latents.reading import HeldOutVectors
from sae.dictionary import Dictionary
from sae.model.hooked import Model
from sae.model.token_rows import TokenRows
from sae.source import Progress

LOGITS_AT_ONCE = 2**25
_ROWS_AT_ONCE = 32
EFFECTS = 2**25
"""Latents times vocabulary that are averaged over at once."""


class Ablation(NamedTuple):
    """For each latent that is shown: the examples that counted, the mean change of the next token's log-probability
    with its standard error, and the tokens whose probability fell and rose most, with the mean change."""

    n: Int[Tensor, " n_shown"]
    change: Float[Tensor, " n_shown"]
    error: Float[Tensor, " n_shown"]
    fallen: Int[Tensor, "n_shown k"]
    fall: Float[Tensor, "n_shown k"]
    risen: Int[Tensor, "n_shown k"]
    rise: Float[Tensor, "n_shown k"]


def ablate(
    reading: HeldOutVectors,
    model: Model,
    hook: str,
    d: Dictionary,
    shown: Int[Tensor, " n_shown"],
    examples: LatentExamples,
    k: int,
    progress: Progress,
) -> Ablation:
    """Takes the latents' contributions out at the hook point where they are written, at their examples' places."""
    d_vocab = int(model.bridge.cfg.d_vocab_out if model.bridge.cfg.d_vocab_out > 0 else model.bridge.cfg.d_vocab)
    block = max(1, EFFECTS // d_vocab)
    found: list[Ablation] = []
    done = 0
    for begin in range(0, len(shown), block):
        mine = examples[(examples.latent >= begin) & (examples.latent < begin + block)]
        sums = _Sums(len(shown[begin : begin + block]), d_vocab)
        mine = mine[mine.position.argsort(stable=True)]  # rows that are cut at about one length go together
        size = max(1, min(_ROWS_AT_ONCE, LOGITS_AT_ONCE // (reading.context * d_vocab)))
        for at in torch.arange(len(mine)).split(size) if len(mine) else ():
            some = mine[at]
            taken = (some.value[:, None] * d.W_dec[shown[some.latent].to(d.W_dec.device)].cpu()).to(model.device)
            sums.add(some.latent - begin, *_change(reading, model, hook, some, taken))
            done += len(some)
            progress(done, len(examples), "places ablated")
        found.append(sums.result(min(k, d_vocab)))
    return Ablation(*(torch.cat(part) for part in zip(*found, strict=True)))


def _change(
    reading: HeldOutVectors, model: Model, hook: str, some: LatentExamples, taken: Float[Tensor, "examples d_in"]
) -> tuple[Float[Tensor, " examples"], Float[Tensor, "examples d_vocab"]]:
    """The change of the next token's log-probability, NaN where none counts; and of all tokens' probabilities."""
    rows, which = some.row.unique(return_inverse=True)
    text = reading.text(rows)
    assert text is not None
    length = int(some.position.max()) + 1
    tokens, attended = text.tokens[:, :length], text.attended[:, :length]
    here = torch.arange(len(some))
    single = torch.zeros(len(some), length, dtype=torch.bool)
    single[here, some.position] = True
    cut = TokenRows(tokens[which], attended[which], single)
    before = model.logits(TokenRows(tokens, attended, attended))[which, some.position].float().log_softmax(-1)
    after = model.logits(cut, hook, lambda x: x - taken.to(x))[here, some.position].float().log_softmax(-1)
    before, after = before.cpu(), after.cpu()
    target, counts = _targets(text, which, some.position)
    change = (after - before).gather(1, target.clamp_min(0)[:, None])[:, 0]
    return change.masked_fill(~counts, torch.nan), after.exp() - before.exp()


def _targets(text: TokenRows, which: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """What is to be predicted at each place, and whether that counts."""
    inside = position < text.counted.shape[1]
    at = position.clamp(max=text.counted.shape[1] - 1)
    return text.targets[which, at].long(), text.counted[which, at] & inside


class _Sums:
    """Sums over the examples of each latent."""

    def __init__(self, n: int, d_vocab: int) -> None:
        self.n, self.sum, self.square = (torch.zeros(n, dtype=torch.float64) for _ in range(3))
        self.places = torch.zeros(n)
        self.effect = torch.zeros(n, d_vocab)

    def add(self, latent: Tensor, change: Tensor, effect: Tensor) -> None:
        counts = change.isfinite()
        change = change.nan_to_num(0.0).double()
        self.n.index_add_(0, latent, counts.double())
        self.sum.index_add_(0, latent, change)
        self.square.index_add_(0, latent, change.square())
        self.places.index_add_(0, latent, torch.ones(len(latent)))
        self.effect.index_add_(0, latent, effect)

    def result(self, k: int) -> Ablation:
        mean = self.sum / self.n
        spread = (self.square / self.n - mean.square()).clamp_min(0) * self.n / (self.n - 1)
        effect = self.effect / self.places[:, None].clamp_min(1)
        fall, rise = effect.topk(k, dim=1, largest=False), effect.topk(k, dim=1)
        error = (spread / self.n).sqrt().float()
        return Ablation(self.n.long(), mean.float(), error, fall.indices, fall.values, rise.indices, rise.values)
