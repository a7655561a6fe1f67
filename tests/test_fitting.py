"""The public calls, as a user types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sae
from sae.source import as_source
from sae.sources.independent import Config as Independent

FAST = {"steps": 40, "batch_size": 32, "log_every": 40}


def test_a_sweep_gives_one_dictionary_for_each_value_and_seed():
    x = torch.randn(300, 6)
    ds = sae.fit(x, kind="relu", n_latents=9, l1=[0.05, 0.1], seeds=[0, 1], **FAST)
    assert [(d.card["training"]["l1"], d.card["training"]["seed"]) for d in ds] == [
        (0.05, 0),
        (0.05, 1),
        (0.1, 0),
        (0.1, 1),
    ]
    assert all(d.n_latents == 9 and d.d_in == 6 for d in ds)
    again = sae.fit(x, n_latents=9, l1=0.1, seeds=1, **FAST)
    torch.testing.assert_close(again[0].W_dec, ds[3].W_dec)


@pytest.mark.usefixtures("shapes_unchecked")
def test_features_of_a_source_are_recovered():
    source = Independent(n_features=12, d_in=8, probability=0.08).build()
    (d,) = sae.fit(source, n_latents=24, l1=2.0, steps=1500, batch_size=256, lr=3e-3)
    best = (source.truth.directions @ d.W_dec.T).max(1).values
    assert float(best.mean()) > 0.95


def test_raw_units_whatever_the_scale_of_the_input():
    x = Independent(n_features=12, d_in=8, probability=0.2).build().batch(0, 2000).acts
    (d,), (e,) = (sae.fit(x * s, n_latents=12, l1=0.5, **FAST) for s in (1.0, 1000.0))
    torch.testing.assert_close(e.encode(1000 * x), 1000 * d.encode(x), rtol=1e-2, atol=5.0)
    torch.testing.assert_close(d.W_dec.norm(dim=-1), torch.ones(12))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"l1": -1}, "l1"),
        ({"l1": 0.1, "lr_decay": 3}, "lr_decay"),
        ({"l1": 0.1, "kind": "rellu"}, "did you mean 'relu'"),
        ({"l1": 0.1, "steps": 0}, "steps"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments: dict, words: str):
    with pytest.raises(ValueError, match=words):
        sae.fit(torch.randn(300, 6), n_latents=9, **arguments)


def test_pairs_make_a_source_with_targets():
    x = torch.randn(300, 6)
    batch = as_source((x, 2 * x)).batch(0, 20)
    assert batch.targets is not None and torch.equal(batch.targets, 2 * batch.acts)
    assert not as_source(x).has_targets
    (d,) = sae.fit((x, 2 * x), n_latents=9, l1=0.1, **FAST)
    assert d.n_latents == 9 and d.d_in == 6


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.randn(300, 5), r"y: shape \[300, 5\] where x has \[300, 6\]"),
        (torch.randn(300), r"y: a floating-point matrix \[rows, d_in\] is needed"),
        (torch.full((300, 6), float("nan")), "y: the activations contain NaN"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(y: torch.Tensor, words: str):
    with pytest.raises(ValueError, match=words):
        sae.fit((torch.randn(300, 6), y), n_latents=9, l1=0.1, **FAST)


def test_bad_data_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        sae.fit(torch.full((300, 6), float("nan")), n_latents=9, l1=0.1)
    with pytest.raises(ValueError, match="rows, d_in"):
        sae.fit(torch.randn(300), n_latents=9, l1=0.1)


def test_a_dictionary_loads_where_the_heavy_libraries_are_missing(tmp_path: Path):
    (d,) = sae.fit(torch.randn(300, 6), n_latents=9, l1=0.1, **FAST)
    sae.save(d, tmp_path)
    program = f"""
import sys
for name in ("transformer_lens", "transformers", "datasets", "sklearn", "matplotlib", "scipy", "pandas"):
    sys.modules[name] = None  # import of it fails
import torch, sae
z = sae.load({str(tmp_path)!r}).encode(torch.randn(4, 6))
assert z.shape == (4, 9)
sae.fit(torch.randn(300, 6), n_latents=9, l1=0.1, steps=5, batch_size=32)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert run.returncode == 0, run.stderr
