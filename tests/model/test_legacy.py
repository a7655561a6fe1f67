"""Models in TransformerLens' older format, from a hub that is a folder here."""

from __future__ import annotations

import pytest
import torch

from sae.model.hooked import Model, load_tokenizer
from sae.model.legacy import OWNERS, is_older

NAME = "NeelNanda/SoLU_tiny"


def test_a_solu_model_runs_on_its_weights_as_they_are(older_hub: dict[str, torch.Tensor]):
    model = Model.boot(NAME)
    tokens = torch.tensor([[3, 7, 9, 30]])
    hooks = ["blocks.0.mlp.hook_in", "blocks.0.mlp.hook_pre", "blocks.0.mlp.ln.hook_in", "blocks.0.mlp.hook_post"]
    before, pre, mid, post = model.activations_at(tokens, tokens > 0, hooks)
    torch.testing.assert_close(pre, before @ older_hub["blocks.0.mlp.W_in"] + older_hub["blocks.0.mlp.b_in"])
    torch.testing.assert_close(mid, pre * pre.softmax(-1))
    norm = torch.nn.functional.layer_norm(mid, (12,), older_hub["blocks.0.mlp.ln.w"], older_hub["blocks.0.mlp.ln.b"])
    torch.testing.assert_close(post, norm)
    assert model.width("blocks.0.mlp.hook_post") == 12 and model.revision is None


def test_its_tokenizer_is_the_one_that_it_names(older_hub: dict[str, torch.Tensor]):
    assert load_tokenizer(NAME).bos_token_id == 0


def test_a_revision_of_such_a_model_is_refused_in_one_line():
    with pytest.raises(ValueError, match="revision = 'old'") as told:
        Model.boot(NAME, revision="old")
    assert "\n" not in str(told.value)


def test_which_they_are_is_what_transformer_lens_says():
    from transformer_lens.model_bridge.sources.tl_legacy import TL_LEGACY_PREFIXES

    assert set(TL_LEGACY_PREFIXES) == set(OWNERS)
    assert is_older("NeelNanda/GELU_1L512W_C4_Code") and not is_older("roneneldan/TinyStories-1Layer-21M")
