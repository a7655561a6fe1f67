"""Rows that are padded on the left: their first token is left alone, as it was in training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sae
from sae.activations.corpus import PADDING, PositionSelection
from sae.activations.harvest import Harvest
from sae.analysis.intervention.attribution import attribute
from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.model.hooked import Model
from sae.registry import UserError
from tests.architectures import tiny

HOOK = "blocks.0.hook_resid_post"
LEFT = 4


def dictionary(d_in: int = 16) -> Relu:
    g = torch.Generator().manual_seed(0)
    W = torch.randn(24, d_in, generator=g)
    card = {"source": {"kind": "transformer", "drop_position_0": True}}
    return Relu(W.T.contiguous() * 0.4, W, torch.zeros(24), torch.randn(d_in, generator=g), card=card)


def rows(model: Model, padding: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens without BOS, the same padded on the left, and the mask of the latter."""
    x = torch.randint(4, 47, (3, 7), generator=torch.Generator().manual_seed(1))
    token = model.bridge.tokenizer.pad_token_id if padding is None else padding
    padded = torch.cat([torch.full((3, LEFT), token), x], dim=1)
    return x, padded, (torch.arange(LEFT + 7) >= LEFT).expand(3, -1).long()


def run(model: Model, x: Tensor, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model.bridge(x, return_type="logits", **({} if mask is None else {"attention_mask": mask}))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt", "opt_projected", "neox", "qwen3"])
def test_a_padded_row_is_spliced_as_the_unpadded_one(name: str) -> None:
    """With a dictionary in the place of the activations, the logits of a row padded on the left were 11 to 26 per cent
    off those of the same row without padding, because its first token went through the dictionary."""
    model, d = tiny(name), dictionary()
    x, padded, mask = rows(model)
    assert torch.allclose(run(model, padded, mask)[:, LEFT:], run(model, x), atol=1e-4)
    with sae.splice(model, {HOOK: d}, error=False) as spliced:
        plain = run(model, x)
        read = spliced.codes[HOOK].read
        shifted = run(model, padded, mask)[:, LEFT:]
    assert torch.allclose(shifted, plain, atol=1e-4)
    assert torch.equal(spliced.codes[HOOK].read[:, LEFT:], read) and not bool(spliced.codes[HOOK].read[:, :LEFT].any())


def test_padding_is_known_from_the_mask_whatever_its_token() -> None:
    """Padding with the token of a word was spliced, since padding was known by its token alone."""
    model = tiny("llama")
    x, padded, mask = rows(model, padding=9)
    with sae.splice(model, {HOOK: dictionary()}, error=False) as spliced:
        plain = run(model, x)
        assert torch.allclose(run(model, padded, mask)[:, LEFT:], plain, atol=1e-4)
    assert int(spliced.codes[HOOK].read.sum()) == 3 * 6


def test_text_that_the_tokenizer_pads_on_the_left_is_spliced_as_without_padding() -> None:
    """A list of texts of unequal lengths, which the tokenizer pads on the left, had the first word of each short text
    replaced."""
    model = tiny("llama")
    options = {"prepend_bos": False, "return_type": "logits", "padding_side": "left"}
    with torch.no_grad(), sae.splice(model, {HOOK: dictionary()}, error=False):
        both = model.bridge(["w1 w2 w3 w4 w5", "w7 w8"], **options)
        alone = model.bridge("w7 w8", prepend_bos=False, return_type="logits")
    assert torch.allclose(both[1, -2:], alone[0], atol=1e-4)


@pytest.mark.parametrize("n_prompt", [1, 3])
def test_generation_goes_through_a_dictionary_as_one_pass_does(n_prompt: int) -> None:
    """A prompt of one token was taken for a later step of generation, so that its first token was replaced; the steps
    with a cache must agree with one pass over the whole row."""
    bridge = tiny("gpt2").bridge
    x = rows(tiny("gpt2"))[0][:1]
    with torch.no_grad(), sae.splice(bridge, {HOOK: dictionary()}, error=False):
        whole = bridge(x, return_type="logits")
        logits, cache = bridge(x[:, :n_prompt], return_type="logits_and_cache", use_cache=True)
        pieces = [logits]
        for i in range(n_prompt, x.shape[1]):
            logits, cache = bridge(
                x[:, i : i + 1], return_type="logits_and_cache", past_key_values=cache, use_cache=True
            )
            pieces.append(logits)
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-4)


def test_generation_by_transformers_leaves_the_first_token_alone() -> None:
    """The cache that transformers passes in is filled while the pass runs; the first token must stay the first."""
    model = tiny("llama")
    _, padded, mask = rows(model)
    read = list[Tensor]()

    def see(place: str, d: Dictionary, z: Tensor, acts: Tensor) -> Tensor:
        read.append(spliced.kept(place))
        return acts

    with torch.no_grad(), sae.splice(model, {"blocks.1.hook_resid_post": dictionary()}, instead=see) as spliced:
        model.bridge.original_model.generate(
            padded, attention_mask=mask, max_new_tokens=2, min_new_tokens=2, do_sample=False, use_cache=True
        )
    assert [tuple(kept.shape) for kept in read] == [(3, LEFT + 7), (3, 1)]
    assert not bool(read[0][:, : LEFT + 1].any()) and bool(read[0][:, LEFT + 1 :].all()), "the first token is not read"


def test_selection_leaves_out_the_first_token_wherever_it_is() -> None:
    """The positions that are scored and labelled left out the first position of a row, even if it was padding."""
    x = torch.tensor([[PADDING, PADDING, 5, 6, 7], [4, 5, 6, 7, 8], [4, 5, 6, PADDING, PADDING], [PADDING] * 5])
    kept = PositionSelection((7,), True)(x).kept
    expected = [[0, 0, 0, 1, 0], [0, 1, 1, 0, 1], [0, 1, 1, 0, 0], [0] * 5]
    assert torch.equal(kept, torch.tensor(expected).bool())


def test_recorded_activations_of_padded_rows_are_those_of_unpadded_ones() -> None:
    """The end of rows that are padded on the left was cut off when activations were recorded."""
    model = tiny("gpt2")
    x, padded, mask = rows(model)
    padded = padded.masked_fill(mask == 0, PADDING).int()
    harvest = Harvest(model, [{"acts": HOOK}], PositionSelection((), True), "float32", 1, 8)
    plain = harvest.vectors(x.int(), torch.ones_like(x).bool())[0]["acts"]
    assert torch.allclose(harvest.vectors(padded, mask.bool())[0]["acts"], plain, atol=1e-4)


def test_attribution_to_padded_rows_is_that_of_unpadded_ones() -> None:
    """Attribution had no way to tell which positions are padding."""
    model, d = tiny("llama"), dictionary()
    x, padded, mask = rows(model)
    plain = attribute(model, {HOOK: d}, x, lambda logits: logits[:, -1, 5].sum())[HOOK].effect.dense()
    shifted = attribute(model, {HOOK: d}, padded, lambda logits: logits[:, -1, 5].sum(), attended=mask.bool())[HOOK]
    assert torch.allclose(shifted.effect.dense()[:, LEFT:], plain, atol=1e-4)


def test_a_pass_without_token_ids_is_refused() -> None:
    """A pass of embeddings in the place of tokens was spliced at the positions of the pass before it."""
    model = tiny("llama")
    with sae.splice(model, {HOOK: dictionary()}), pytest.raises(UserError, match="token ids"):
        run(model, rows(model)[0])
        run(model, torch.randn(3, 7, 16))
