"""Effect of single latents on the model's output, by removing a latent's contribution at single positions.

    x' = x - z_j W_dec[j]   at one position,      change = log p'(next token) - log p(next token)

Rows are truncated after that position; each example of a latent is one row, and many rows share a forward pass. The
change is negative if the latent helped to predict the next token. The mean change of every token's probability is
recorded as well. Effects on later positions and on other latents are not measured.
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
"""Logits that a forward pass computes at most."""
_ROWS_AT_ONCE = 32
EFFECTS = 2**25
"""Latents times vocabulary whose effects are accumulated at once."""


class Ablation(NamedTuple):
    """Effects of removing each shown latent, as means over its examples."""

    n: Int[Tensor, " n_shown"]
    """The number of examples with a next token."""
    change: Float[Tensor, " n_shown"]
    """Mean change of the next token's log-probability, in nats."""
    error: Float[Tensor, " n_shown"]
    """Standard error of `change`."""
    fallen: Int[Tensor, "n_shown k"]
    """The tokens whose probability falls most."""
    fall: Float[Tensor, "n_shown k"]
    """The mean change of their probability."""
    risen: Int[Tensor, "n_shown k"]
    """The tokens whose probability rises most."""
    rise: Float[Tensor, "n_shown k"]
    """The mean change of their probability."""


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
    """Removes each latent's contribution at the hook point where it is written, at the positions of its examples."""
    d_vocab = int(model.bridge.cfg.d_vocab_out if model.bridge.cfg.d_vocab_out > 0 else model.bridge.cfg.d_vocab)
    block = max(1, EFFECTS // d_vocab)
    blocks: list[Ablation] = []
    done = 0
    for begin in range(0, len(shown), block):
        in_block = examples[(examples.latent >= begin) & (examples.latent < begin + block)]
        sums = _Sums(len(shown[begin : begin + block]), d_vocab)
        in_block = in_block[in_block.position.argsort(stable=True)]  # batches of rows of similar length
        size = max(1, min(_ROWS_AT_ONCE, LOGITS_AT_ONCE // (reading.context * d_vocab)))
        for at in torch.arange(len(in_block)).split(size) if len(in_block) else ():
            batch = in_block[at]
            removed = (batch.value[:, None] * d.W_dec[shown[batch.latent].to(d.W_dec.device)].cpu()).to(model.device)
            sums.add(batch.latent - begin, *_change(reading, model, hook, batch, removed))
            done += len(batch)
            progress(done, len(examples), "places ablated")
        blocks.append(sums.result(min(k, d_vocab)))
    return Ablation(*(torch.cat(part) for part in zip(*blocks, strict=True)))


def _change(
    reading: HeldOutVectors, model: Model, hook: str, batch: LatentExamples, removed: Float[Tensor, "examples d_in"]
) -> tuple[Float[Tensor, " examples"], Float[Tensor, "examples d_vocab"]]:
    """The change of the next token's log-probability, NaN without a next token; and of all tokens' probabilities."""
    rows, which = batch.row.unique(return_inverse=True)
    text = reading.text(rows)
    assert text is not None
    length = int(batch.position.max()) + 1
    tokens, attended = text.tokens[:, :length], text.attended[:, :length]
    i = torch.arange(len(batch))
    single = torch.zeros(len(batch), length, dtype=torch.bool)
    single[i, batch.position] = True
    cut = TokenRows(tokens[which], attended[which], single)
    before = model.logits(TokenRows(tokens, attended, attended))[which, batch.position].float().log_softmax(-1)
    after = model.logits(cut, hook, lambda x: x - removed.to(x))[i, batch.position].float().log_softmax(-1)
    before, after = before.cpu(), after.cpu()
    target, counts = _targets(text, which, batch.position)
    change = (after - before).gather(1, target.clamp_min(0)[:, None])[:, 0]
    return change.masked_fill(~counts, torch.nan), after.exp() - before.exp()


def _targets(text: TokenRows, which: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """The next token at each place, and whether it counts."""
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
