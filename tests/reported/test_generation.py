"""Generation with the installed versions of TransformerLens and transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae.model.hooked import Model


def greedy(model: Model, tokens: Tensor, n: int) -> Tensor:
    """The tokens with `n` more, each the most likely after all before it, without a cache."""
    with torch.no_grad():
        for _ in range(n):
            best = model.bridge(tokens, return_type="logits")[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, best], dim=1)
    return tokens


def generated(model: Model, tokens: Tensor, n: int, cache: bool) -> Tensor:
    return model.bridge.generate(
        tokens,
        max_new_tokens=n,
        do_sample=False,
        stop_at_eos=False,
        use_past_kv_cache=cache,
        return_type="tokens",
        verbose=False,
    )


@pytest.mark.parametrize("cache", [True, False])
def test_greedy_generation_takes_the_most_likely_token(shared_data: Path, cache: bool):
    """With transformers 5.24, generation with a cache gave garbage under TransformerLens 4.3."""
    folder = shared_data / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    model = Model.boot(str(folder))
    tokens = model.bridge.to_tokens("Once upon a time, there was a little girl")
    assert torch.equal(generated(model, tokens, 24, cache), greedy(model, tokens, 24))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_cache_does_not_change_what_is_generated(tiny_models: dict[str, Path], name: str):
    """A cache of keys and values is an optimisation alone."""
    model = Model.boot(str(tiny_models[name]))
    tokens = torch.arange(10, 16)[None]
    expected = greedy(model, tokens, 8)
    assert all(torch.equal(generated(model, tokens, 8, cache), expected) for cache in (True, False))
