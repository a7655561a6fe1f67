"""Kinds that exist to load third-party checkpoints: standardised, transcoders, and pursuits that stop early."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sae
from sae.dictionaries.jumprelu import JumpReLU
from sae.dictionaries.matching_pursuit import MatchingPursuit
from sae.dictionaries.relu import Relu
from sae.dictionaries.standardised import Standardised
from sae.dictionaries.topk import TopK
from sae.dictionaries.transcoder import Transcoder
from sae.metric import Case, Evidence
from sae.metrics.legacy import Config as Legacy
from sae.metrics.reconstruction import Config as Reconstruction
from sae.source import Batch

D, M = 5, 9


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def parts() -> tuple[Tensor, ...]:
    return numbers(D, M), numbers(M, D), numbers(M), numbers(D)


@pytest.mark.parametrize("inner", [Relu(*parts()), TopK(*parts(), k=2), JumpReLU(*parts(), threshold=numbers(M).abs())])
@pytest.mark.parametrize("rows", ["layer_norm", "norm"])
def test_standardised_codes_scale_with_the_sample(inner: sae.Dictionary, rows: str):
    d, x = Standardised.over(inner, rows, 0.0).to(dtype=torch.float64), numbers(40, D).double()
    z, n = d.encode(x), d.n_read
    assert z.shape == (40, d.n_latents) and d.n_latents == M + {"layer_norm": 3, "norm": 1}[rows] and n == M
    torch.testing.assert_close(d.encode(3 * x), 3 * z)
    torch.testing.assert_close(d.reconstruct(3 * x), 3 * d.reconstruct(x))
    assert bool((z[:, n] > 0).all()) and float(z.min()) >= 0
    if rows == "layer_norm":
        moved = d.encode(x + 100)
        torch.testing.assert_close(moved[:, : n + 1], z[:, : n + 1])
        torch.testing.assert_close(d.reconstruct(x + 100), d.reconstruct(x) + 100)
        assert bool((moved[:, n + 2] == 0).all()) and bool((z[:, n + 1] * z[:, n + 2] == 0).all())


def test_constant_samples_have_no_codes_and_no_nan():
    d = Standardised.over(Relu(*parts()), "norm", 0.0)
    assert not bool(d.encode(torch.zeros(2, D)).any())
    e = Standardised.over(Relu(*parts()), "layer_norm", 1e-5)
    assert torch.equal(e.reconstruct(torch.full((2, D), 4.0)), torch.full((2, D), 4.0))


def test_a_transcoder_has_two_widths_and_a_skip_connection():
    W_enc, b_enc, W_dec, b_dec, W_skip = numbers(D, M), numbers(M), numbers(M, 3), numbers(3), numbers(D, 3)
    d = Transcoder(W_enc, W_dec, b_enc, b_dec, W_skip=W_skip, reader="topk", reader_settings={"k": 2})
    x = numbers(20, D)
    z = TopK(W_enc, W_enc.T, b_enc, torch.zeros(D), k=2).encode(x)
    assert (d.d_in, d.d_out, d.n_latents) == (D, 3, M) and torch.equal(d.encode(x), z)
    torch.testing.assert_close(d.decode(z), z @ W_dec + b_dec)
    torch.testing.assert_close(d.reconstruct(x), z @ W_dec + b_dec + x @ W_skip)
    torch.testing.assert_close(d.reconstruct(x, 0 * z), b_dec + x @ W_skip)
    with pytest.raises(ValueError, match="reads 5 and writes 3 numbers"):
        d.with_encoder("omp", k=2)


def test_scores_include_the_skip_connection():
    x, skip = numbers(300, D), numbers(D, D)
    d = Transcoder(numbers(D, M), torch.zeros(M, D), numbers(M), numbers(D), W_skip=skip)
    batch = Batch(x, targets=x @ skip + d.b_dec)
    case = Case(d, Evidence(batch, batch))
    scores = Reconstruction().score(case).scalars | Legacy().score(case).scalars
    assert scores["fvu"] == pytest.approx(0, abs=1e-9) and scores["ev_saebench"] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Transcoder(*parts(), reader="rellu"), "did you mean 'relu'"),
        (lambda: Transcoder(*parts(), reader="standardised"), "not a known reader"),
        (
            lambda: Transcoder(*parts(), reader="topk", reader_settings={"k": -1}),
            "k = -1 is not a valid value for this setting of 'topk'",
        ),
        (lambda: Transcoder(*parts(), reader="topk", reader_settings={"kk": 1}), "did you mean 'k'"),
        (lambda: Standardised(*parts(), rows="layernorm"), "did you mean 'layer_norm'"),
        (lambda: Standardised(*parts(), threshold=torch.zeros(2)), "n_latents = 9: not 3 more"),
    ],
)
def test_wrong_parts_are_refused(make: Any, words: str):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_pursuit_stops_by_its_settings():
    d = MatchingPursuit(torch.eye(4), torch.eye(4), torch.zeros(4), torch.zeros(4), k=4)
    x = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 5.0]])
    assert torch.equal(d.encode(x), x)
    assert "tolerance" not in d.settings() and "until_stable" not in d.settings()
    coarse = MatchingPursuit(torch.eye(4), torch.eye(4), torch.zeros(4), torch.zeros(4), k=4, tolerance=2.0)
    assert torch.equal(coarse.encode(x), torch.tensor([[3.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 5.0]]))
    tilted = torch.tensor([[1.0, 0.0], [-0.6, 0.8]])
    every = MatchingPursuit(tilted.T.contiguous(), tilted, torch.zeros(2), torch.zeros(2), k=40)
    stable = MatchingPursuit(tilted.T.contiguous(), tilted, torch.zeros(2), torch.zeros(2), k=40, until_stable=True)
    y = torch.tensor([[1.0, 1.0]])
    # 1 along the first, 0.8 along the second, 0.48 along the first again: nothing new, so that is the last step.
    torch.testing.assert_close(stable.encode(y), torch.tensor([[1.48, 0.8]]))
    torch.testing.assert_close(every.encode(y), torch.tensor([[1.75, 1.25]]))
