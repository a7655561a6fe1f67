"""`sae suggest` names an L0 only where decoder rows are far less alike than random directions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.commands.suggest import SparsityCurve, more_targets, sentence
from pipelines.report.settings_table import ScoredRow, settings_of
from sae.analysis.suggestion import random_cosine, suggest

Call = Callable[..., tuple[int, str, str]]
Values = dict[int, list[float]]

# Measured on 64 features in 32 dimensions, true L0 1.91: the curves turn near d_in, whatever the true L0 is.
DEMO_64: Values = {
    **{1: [0.1371, 0.1412, 0.1409], 2: [0.1401, 0.1406, 0.1401], 3: [0.1403, 0.1412, 0.1401]},
    **{5: [0.1369, 0.1377, 0.1352], 7: [0.1305, 0.1281, 0.1268], 11: [0.1096, 0.1139, 0.1085]},
    **{16: [0.1, 0.0923, 0.1006], 18: [0.0872, 0.0963, 0.0887], 21: [0.0818, 0.0808, 0.0816]},
    **{24: [0.0769, 0.0811, 0.0803], 27: [0.0822, 0.0847, 0.0821], 31: [0.089, 0.0871, 0.0876]},
}
DEMO_48: Values = {
    **{2: [0.1355, 0.1375], 5: [0.1239, 0.1247], 7: [0.1173, 0.1177], 11: [0.1017, 0.1021], 16: [0.0866, 0.089]},
    **{20: [0.0859, 0.0871], 24: [0.0869, 0.0875], 27: [0.0888, 0.0894], 29: [0.0908, 0.0912], 32: [0.094, 0.0945]},
}
# 50 orthogonal features in 100 dimensions, true L0 11.2.
ORTHOGONAL: Values = {5: [0.067, 0.069], 8: [0.031, 0.033], 11: [0.0022, 0.0024], 14: [0.012, 0.013], 18: [0.03, 0.031]}


def curve_of(values: Values, d_in: int, n_latents: int = 64) -> SparsityCurve:
    identity = {"source": "s", "method": "batchtopk", "n_latents": n_latents, "data_seed": 0}
    rows = [
        ScoredRow({**identity, "target_l0": k, "seed": i}, {"decoder_cosine": v, "l0": float(k)})
        for k, seeds in values.items()
        for i, v in enumerate(seeds)
    ]
    return SparsityCurve(settings_of(rows), suggest(list(values), list(values.values()), d_in), d_in)


@pytest.mark.parametrize("values", [DEMO_64, DEMO_48], ids=["64 latents", "48 latents"])
def test_a_minimum_near_the_number_of_dimensions_is_not_suggested(values: Values):
    """`sae suggest demo --set dictionary.n_latents=64` suggested an L0 of 24; the true one is 1.91."""
    curve = curve_of(values, d_in=32)
    assert suggest(list(values), list(values.values())).verdict == "clear", "deeper than the seeds' spread"
    assert curve.suggestion.verdict == "chance" and curve.suggestion.l0 is None and more_targets(curve) == []
    assert "no minimum" in sentence(curve) and "0.142 of random directions in 32 dimensions" in sentence(curve)


def test_the_minimum_of_orthogonal_features_is_still_suggested():
    """The minimum at the true L0 is a thirtieth of what random directions have."""
    found = curve_of(ORTHOGONAL, d_in=100).suggestion
    assert found == suggest(list(ORTHOGONAL), list(ORTHOGONAL.values()))
    assert found.verdict == "clear" and found.l0 == pytest.approx(11.2, rel=0.15)


def test_targets_do_not_pass_the_number_of_dimensions(call: Call, tiny_file: Path, tmp_path: Path):
    """The sweep was extended to targets above d_in, and such targets were accepted."""
    falling = {k: [1 / k, 1.01 / k] for k in (8, 12, 16)}
    assert more_targets(curve_of(falling, d_in=20)) == [20]
    assert more_targets(curve_of(falling, d_in=16)) == []
    arguments = ("suggest", tiny_file, "--targets", "2,4,9", "--out", tmp_path / "out")
    code, _, warned = call(*arguments)
    assert code == 2 and "--targets 2,4,9: 9 is more than the 8 dimensions" in warned
    assert not list((tmp_path / "out").glob("train-*"))


@pytest.mark.parametrize("d_in", [2, 3, 32, 768])
def test_the_chance_level(d_in: int):
    """The closed form is the mean over random pairs."""
    x = torch.nn.functional.normalize(
        torch.randn(2, 200_000 // d_in, d_in, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    assert (x[0] * x[1]).sum(-1).abs().mean().item() == pytest.approx(random_cosine(d_in), rel=0.1)
