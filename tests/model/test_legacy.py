"""Models in TransformerLens' legacy format, from a local folder that stands in for the hub."""

from __future__ import annotations

import pytest
import torch

from sae.model.hooked import Model
from sae.model.legacy import OWNERS, is_legacy
from sae.model.loading import load_tokenizer
from sae.registry import UserError

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
    with pytest.raises(UserError, match="revision = 'old'") as error:
        Model.boot(NAME, revision="old")
    assert "\n" not in str(error.value)


def test_owners_of_legacy_models_are_those_of_transformer_lens():
    from transformer_lens.model_bridge.sources.tl_legacy import TL_LEGACY_PREFIXES

    assert set(TL_LEGACY_PREFIXES) == set(OWNERS)
    assert is_legacy("NeelNanda/GELU_1L512W_C4_Code") and not is_legacy("roneneldan/TinyStories-1Layer-21M")
