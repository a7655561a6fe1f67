"""A small text and a small dictionary for tests of splicing."""

from __future__ import annotations

import torch

from sae.dictionaries.topk import TopK
from sae.model.hooked import Model, TokenRows


def text_for(model: Model) -> TokenRows:
    """Ten rows of twelve random tokens, one row shorter; the first position of each is not kept."""
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, model.bridge.cfg.d_vocab, (10, 12), generator=g)
    attended = torch.ones_like(tokens, dtype=torch.bool)
    attended[3, 8:] = False
    kept = attended.clone()
    kept[:, 0] = False
    return TokenRows(tokens, attended, kept)


def expected_text_for(model: Model) -> TokenRows:
    """As :func:`text_for`, but each row goes on with the token that the model expects most: any damage to the model
    raises its loss, random as it is."""
    text = text_for(model)
    tokens = text.tokens.clone()
    for t in range(1, tokens.shape[1]):
        begun = TokenRows(tokens[:, :t], torch.ones_like(tokens[:, :t]).bool(), text.kept[:, :t])
        tokens[:, t] = 3 + model.logits(begun)[:, -1, 3:].argmax(-1)
    return TokenRows(tokens, text.attended, text.kept)


def any_dictionary() -> TopK:
    """A random dictionary of width 16."""
    W = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    return TopK(W.T.contiguous(), W, torch.zeros(9), torch.zeros(16), k=4)
