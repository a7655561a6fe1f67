"""The choice between float32 and the screen: what is timed, what is taken, and what is said."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

import sae
from sae.registry import UserError
from sae.sources.independent import Config as Independent
from sae.training import precision
from sae.training.loop import train
from sae.training.precision import EncoderTiming, slower_warning, time_encoder

FAST = {"steps": 5, "batch_size": 32, "n_scale": 64, "resample_pool": 64}
TIMING = EncoderTiming(d_in=768, n_latents=24_576, batch=2048, device="cpu", threads=1, gain=2.31)


def test_both_ways_are_timed_once_for_a_shape():
    precision._timing.cache_clear()
    timing = time_encoder(12, 40, 32)
    assert timing.gain > 0 and (timing.d_in, timing.n_latents, timing.batch, timing.device) == (12, 40, 32, "cpu")
    assert time_encoder(12, 40, 32) is timing and time_encoder(12, 41, 32) is not timing


def test_a_small_gain_is_not_taken():
    gains = (0.2, 1.0, 1.09, 1.1, 5.0)
    expected = ["float32", "float32", "float32", "screen", "screen"]
    assert [replace(TIMING, gain=gain).faster for gain in gains] == expected


def test_what_is_said():
    assert str(TIMING) == "2.3 times as fast in bfloat16 as in float32 (768 -> 24,576, batch 2,048, cpu, 1 thread)"
    slow = replace(TIMING, gain=0.25)
    assert "4 times as slow" in (slower_warning("screen", slow) or "") and slower_warning("bfloat16", slow)
    assert slower_warning("screen", replace(TIMING, gain=0.95)) is None
    assert slower_warning("auto", slow) is None and slower_warning("float32", slow) is None


@pytest.mark.parametrize(("gain", "taken"), [(0.5, "float32"), (3.0, "screen")])
def test_fit_takes_the_faster_one_and_its_card_says_which(monkeypatch: pytest.MonkeyPatch, gain: float, taken: str):
    shapes: list[tuple[int, int, int]] = []

    def timed(d_in: int, n_latents: int, batch: int, device: str) -> EncoderTiming:
        shapes.append((d_in, n_latents, batch))
        return replace(TIMING, gain=gain)

    monkeypatch.setattr("sae.fitting.time_encoder", timed)
    x = torch.randn(300, 6)
    ds = sae.fit(x, n_latents=[9, 12], l1=0.1, precision="auto", **FAST)
    assert shapes == [(6, 12, 32)]
    assert {d.card["training"]["precision"] for d in ds} == {taken}


def test_fit_warns_of_a_rounded_product_that_is_slower(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sae.fitting.time_encoder", lambda *_: replace(TIMING, gain=0.25))
    x = torch.randn(300, 6)
    with pytest.warns(UserWarning, match="'screen'.* 4 times as slow") as caught:
        sae.fit(x, n_latents=9, l1=0.1, precision="screen", **FAST)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae.fit(x, n_latents=9, l1=0.1, **FAST)


def test_training_itself_takes_no_choice():
    config = sae.TrainConfig(precision="auto", **FAST)
    source = Independent(n_features=8, d_in=4, probability=0.2).build()
    with pytest.raises(UserError, match="precision = 'auto'"):
        next(train([(sae.relu(n_latents=8, l1=0.1), 0)], source, config))


def test_a_wrong_precision_is_one_line_with_all_choices():
    with pytest.raises(UserError, match=r"^precision = 'fp32': .*'float32', 'screen', 'bfloat16' or 'auto'$"):
        sae.fit(torch.randn(300, 6), n_latents=9, l1=0.1, precision="fp32", **FAST)
