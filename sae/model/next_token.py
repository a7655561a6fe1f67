"""Whether a model's logits predict each token from the tokens before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

NOT_CAUSAL = re.compile(
    r"MaskedLM|PreTraining|NextSentence|Classification|QuestionAnswering|MultipleChoice|CTC|^BD3LM$"
)
"""Part of the names of Hugging Face classes whose outputs are no predictions of the next token."""
N_TOKENS = 8
"""The length of the row on which causality is tested."""


def unlike_a_causal_model(architectures: Iterable[str], is_encoder_decoder: bool) -> str | None:
    """Why models of this config do not predict the next token; None if the config does not tell."""
    if is_encoder_decoder:
        return "it is an encoder-decoder, which reads the text that it should predict"
    named = next((name for name in architectures if NOT_CAUSAL.search(name)), None)
    return None if named is None else f"a {named} is not a causal language model"


def sees_later_tokens(logits: Callable[[Tensor], Tensor], n_ctx: int, d_vocab: int) -> bool:
    """Whether another token changes logits at positions before it.

    `logits` computes ``[1, n_tokens, d_vocab]`` from tokens ``[1, n_tokens]``. Rounding is allowed for, since the
    experts of a mixture may run on batches of another size.
    """
    n = min(N_TOKENS, n_ctx)
    # From the middle of the vocabulary, where no special tokens are.
    tokens = (d_vocab // 2 + torch.arange(n))[None] % d_vocab
    clean = logits(tokens)
    precision = max(1e-4, 16 * torch.finfo(clean.dtype).eps)
    for at in {n // 2, n - 1}:
        other = tokens.clone()
        other[0, at] = (other[0, at] + 1) % d_vocab
        before, after = clean[:, :at].float(), logits(other)[:, :at].float()
        finite = before.isfinite() & after.isfinite()
        change, size = (before - after)[finite].abs(), before[finite].abs()
        if len(size) and bool(change.max() > precision * size.max()):
            return True
    return False
