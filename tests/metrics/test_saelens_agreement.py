"""Our scores agree with SAELens' evaluation on synthetic data, for the same dictionary and samples.

``eval_sae_on_synthetic_data`` gets our data and a dictionary that is saved in SAELens' format and loaded by it; our
metrics get the data of its ``SyntheticModel``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import sae
from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence
from sae.registry import configurable
from sae.source import Batch, Truth
from sae.sources.features import Config as Features
from sae.toys.base import random_directions

pytestmark = pytest.mark.peer("sae_lens")

SUITE = Path(__file__).parents[2] / "configs" / "suites" / "synthsae-1k.toml"
ROWS = 6000
NAMES = {
    "mcc_absolute": "mcc",
    "uniqueness_absolute": "uniqueness",
    "explained_variance": "explained_variance",
    "l2_ratio": "shrinkage",
    "l0": "sae_l0",
    "true_l0": "true_l0",
}
"""Our names, and theirs."""


class Replayed:
    """A generator of feature activations, in SAELens' sense, that returns the rows of `codes` in order."""

    def __init__(self, codes: torch.Tensor) -> None:
        self.codes, self.position = codes, 0

    def sample(self, n: int) -> torch.Tensor:
        self.position += n
        return self.codes[self.position - n : self.position]


def ours(d: Relu, truth: Truth, batch: Batch) -> dict[str, float]:
    case = Case(d, Evidence(batch, batch, truth))
    found: dict[str, float] = {}
    for kind in ("reconstruction", "recovery", "firing", "legacy"):
        found |= configurable("metrics")[kind].Config().score(case).scalars
    return found


def theirs(d: Relu, truth: Truth, codes: torch.Tensor, folder: Path) -> Any:
    from sae_lens import SAE
    from sae_lens.synthetic import FeatureDictionary, eval_sae_on_synthetic_data

    sae.save(d, folder / "native")
    sae.convert(folder / "native", folder / "saelens", format="saelens")
    read = SAE.load_from_disk(str(folder / "saelens"), device="cpu")
    n_features, d_in = truth.directions.shape
    features = FeatureDictionary(n_features, d_in, bias=False, initializer=None)
    features.feature_vectors.data = truth.directions.clone()
    if truth.offset is not None:
        features.bias.data = truth.offset.clone()
    return eval_sae_on_synthetic_data(read, features, Replayed(codes), num_samples=len(codes), batch_size=2500)


def agree(d: Relu, truth: Truth, batch: Batch, folder: Path) -> dict[str, float]:
    assert batch.codes is not None
    mine, other = ours(d, truth, batch), theirs(d, truth, batch.codes, folder)
    for name, their in NAMES.items():
        assert mine[name] == pytest.approx(getattr(other, their), abs=1e-4), name
    assert mine["f1_macro"] == pytest.approx(other.classification.f1_score, abs=1e-4)
    assert mine["dead"] * d.n_latents == pytest.approx(other.dead_latents)
    return mine


@pytest.fixture(scope="module")
def source() -> Any:
    return Features(**{**tomllib.loads(SUITE.read_text())["source"], "seed": 0}).build()


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_unchecked")
def test_on_our_rows_with_a_trained_dictionary(source: Any, tmp_path: Path):
    [d] = sae.fit(source, "relu", n_latents=256, l0=6, steps=400, batch_size=512, lr=3e-3)
    assert isinstance(d, Relu)
    s = agree(d, source.truth, source.batch(0, ROWS, "test"), tmp_path)
    assert s["mcc_absolute"] > 0.35 and 0.1 < s["f1_macro"] < 0.9 and 0.2 < s["explained_variance"] < 1


@pytest.mark.slow
def test_on_our_rows_with_random_directions_some_of_them_dead(source: Any, tmp_path: Path):
    W = random_directions(256, source.d_in, torch.Generator().manual_seed(0))
    b_enc = torch.full((256,), -1.0).index_fill(0, torch.arange(10), -1000.0)
    offset = source.truth.offset
    s = agree(Relu(W.T.contiguous(), W, b_enc, offset), source.truth, source.batch(0, ROWS, "test"), tmp_path)
    assert s["dead"] >= 10 / 256 and s["mcc_absolute"] > s["mcc"]


def test_on_rows_of_their_model(tmp_path: Path):
    from sae_lens.synthetic import SyntheticModel, SyntheticModelConfig

    model = SyntheticModel(SyntheticModelConfig(num_features=80, hidden_dim=24, std_firing_magnitudes=0.3, seed=0))
    codes = model.activation_generator.sample(ROWS)
    features, offset = model.feature_dict.feature_vectors.detach(), model.feature_dict.bias.detach()
    truth = Truth(features, torch.ones(80, dtype=torch.bool), (codes > 0).float().mean(0), offset=offset)
    with torch.no_grad():
        batch = Batch(model.feature_dict(codes), codes)
    g = torch.Generator().manual_seed(1)
    W = torch.cat([features[:30], random_directions(20, 24, g)]) + 0.1 * torch.randn(50, 24, generator=g)
    s = agree(Relu(W.T.contiguous(), W, torch.full((50,), -0.2), offset), truth, batch, tmp_path)
    assert s["mcc_absolute"] > 0.5 and s["f1_macro"] > 0.1
