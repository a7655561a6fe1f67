"""What a dictionary and a spliced model look like in a shell and in a notebook."""

from __future__ import annotations

import torch

import sae
from sae.dictionaries.relu import Relu
from sae.dictionaries.topk import TopK
from sae.dictionaries.transcoder import Transcoder
from sae.dictionary import Dictionary
from tests.architectures import tiny


def weights(d_out: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(16, 24), torch.randn(24, d_out), torch.zeros(24), torch.zeros(d_out)


def test_a_dictionary_is_one_line_in_a_shell() -> None:
    """A dictionary printed all values of its tensors over many lines."""
    assert repr(Relu(*weights())) == "Relu(d_in=16, n_latents=24, dtype=float32, device='cpu')"
    half = Relu(*weights()).to(dtype=torch.bfloat16)
    assert "dtype=bfloat16" in repr(half) and "dtype=bfloat16" in str(half)
    assert repr(Transcoder(*weights(8))) == "Transcoder(d_in=16, n_latents=24, d_out=8, dtype=float32, device='cpu')"
    assert repr(TopK(*weights(), k=4)).startswith("TopK(d_in=16")


def test_a_dictionary_is_a_table_in_a_notebook() -> None:
    """A notebook showed a dictionary as its tensors' values; what the card says must not become markup."""
    card = {"source": {"kind": "transformer", "model": "<script>x</script>", "hook": "blocks.0.hook_out"},
            "scores": {"fvu": 0.123456}}  # fmt: skip
    shown = TopK(*weights(), k=4, card=card)._repr_html_()  # pyright: ignore[reportPrivateUsage]
    for cell in ("<td>topk</td>", "<th>k</th><td>4</td>", "&lt;script&gt;x", "blocks.0.hook_out", "<td>0.1235</td>"):
        assert cell in shown
    assert "<script>" not in shown
    odd = Relu(*weights(), card={"source": "text", "scores": None})
    assert "source" not in odd._repr_html_()  # pyright: ignore[reportPrivateUsage]


def test_a_spliced_model_is_one_line() -> None:
    """A spliced model printed the whole model and its dictionaries' weights."""
    d: Dictionary = Relu(*weights())
    with sae.splice(tiny("gpt2"), {"blocks.0.hook_resid_post": d}) as spliced:
        assert "\n" not in repr(spliced) and repr(d) in repr(spliced) and len(repr(spliced)) < 250
