"""Fused attention: the same activations to rounding where it is used, and eager attention where it must be."""

from __future__ import annotations

import pytest
import torch

from tests.architectures import tiny

FUSED = ("gpt2", "neox", "llama", "gemma3", "qwen3", "opt", "opt_projected", "phi", "mistral", "mixtral", "bert")
LAST = "blocks.1.hook_resid_post"


@pytest.mark.parametrize("name", FUSED)
def test_activations_are_those_of_eager_attention(name: str):
    model = tiny(name)
    tokens = torch.randint(3, 40, (4, 12), generator=torch.Generator().manual_seed(1))
    attended = torch.ones_like(tokens).bool()
    attended[1, 8:] = False
    attended[2, :3] = False
    assert model.can_fuse(LAST)
    [eager] = model.activations_at(tokens, attended, [LAST])
    [fused] = model.activations_at(tokens, attended, [LAST], fused=True)
    assert not torch.equal(fused, eager)  # it was used
    torch.testing.assert_close(fused[attended], eager[attended], rtol=1e-4, atol=1e-4)
    [again] = model.activations_at(tokens, attended, [LAST])
    assert torch.equal(again, eager)  # and is put back


def test_attention_that_the_kernel_lacks_is_eager():
    """Gemma 2 caps its attention scores; Mamba has no attention."""
    assert not tiny("gemma2").can_fuse(LAST)
    assert not tiny("mamba").can_fuse(LAST)


def test_hook_points_inside_attention_are_eager_and_beside_others_change_nothing():
    model, inside = tiny("llama"), "blocks.1.attn.hook_z"
    tokens = torch.randint(3, 40, (2, 9), generator=torch.Generator().manual_seed(1))
    attended = torch.ones_like(tokens).bool()
    assert not model.can_fuse(inside) and not model.can_fuse("blocks.1.attn.hook_out")
    assert model.can_fuse("blocks.1.hook_resid_mid") and model.can_fuse("blocks.1.mlp.hook_out")
    z, last = model.activations_at(tokens, attended, [inside, LAST], fused=True)
    assert torch.equal(z, model.activations_at(tokens, attended, [inside])[0])
    assert torch.equal(last, model.activations_at(tokens, attended, [LAST], fused=True)[0])
