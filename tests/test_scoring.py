from __future__ import annotations

import math

import pytest
import torch

from sae.dictionaries.relu import Relu
from sae.scoring import score

G = torch.Generator().manual_seed(0)
F = torch.linalg.qr(torch.randn(6, 6, generator=G)).Q
C = (0.5 + torch.rand(400, 6, generator=G)) * (torch.rand(400, 6, generator=G) < 0.2)
X = C @ F
D = Relu(F.T.contiguous(), F, torch.full((6,), -1e-5), torch.zeros(6))

CODES = {"code_mcc", "code_mcc_all"}
UNSUPERVISED = {
    "l0",
    "explained_variance",
    "fvu",
    "fvu_median",
    "outlier_variance",
    "shrinkage",
    "dead",
    "dense",
    "l1_norm",
}
UNSUPERVISED |= {"decoder_cosine", "encoder_cost", "train_rows", "train_samples", "train_flops"}
RECOVERY = {"mmcs_truth", "mmcs_latents", "mcc", "mcc_all", "recovered_80", "recovered_90", "uniqueness"}
RECOVERY |= {"n_represented", "false_recovery"}
ACTIVITY = {"true_l0", *(f"fvu_active_{k}" for k in range(1, 5))}
FIRING = {f"{n}{form}" for n in ("precision", "recall", "f1") for form in ("", "_chosen")} | {"f1_macro", "threshold"}
DECILES = {f"{name}_decile_{i}" for name in ("mmcs", "f1") for i in range(1, 11)}
CAUSES = {"causal_share", "inert", "causal_stray", "homeless", "hedged"}
SPLITTING = {"split_features", "pieces_per_feature", "composed_latents", "features_per_latent"}
COVERAGE = {"coverage", "coverage_one_t", "coverage_chance", "board_reconstruction"}
PROBES = ("logistic", "diff_means", "neuron", "nearest", "latent", "k1", "k5", "k16", "shuffled")
PROBING = {f"probe_{score}_{probe}" for score in ("auc", "f1") for probe in PROBES} | {"latents_per_feature"}


def test_the_evidence_decides_which_scores_there_are():
    labels = (C[:, 0] > 0).long()
    assert set(score(D, X)) == UNSUPERVISED
    assert set(score(D, X, features=F)) == UNSUPERVISED | RECOVERY
    assert set(score(D, X, labels=labels)) == UNSUPERVISED | PROBING | COVERAGE
    assert set(score(D, X, codes=C)) == UNSUPERVISED | ACTIVITY | PROBING | COVERAGE | CODES
    everything = UNSUPERVISED | ACTIVITY | RECOVERY | DECILES | FIRING | PROBING | CAUSES | SPLITTING | COVERAGE
    everything |= CODES | {"coefficient_slope", "coefficient_r2"}
    assert set(score(D, X, features=F, codes=C, labels={"a": labels, "b": C[:, 1] > 0})) == everything


def test_truth_is_perfect_whatever_the_features_lengths():
    s = score(D, X, features=F * torch.arange(1, 7)[:, None], codes=C / torch.arange(1, 7))
    assert s["mcc"] == pytest.approx(1) and s["f1"] == 1 and s["fvu"] < 1e-6 and s["l0"] == s["true_l0"]


def test_zero_rows_are_not_represented():
    s = score(D, X, features=torch.cat([F, torch.zeros(3, 6)]), codes=torch.cat([C, torch.ones(400, 3)], dim=1))
    assert s["mcc_all"] == pytest.approx(1) and s["f1"] == 1


def test_the_seed_decides_the_halves():
    noisy = X + 0.3 * torch.randn(400, 6, generator=torch.Generator().manual_seed(1))
    first = score(D, noisy, codes=C, seed=0)
    assert score(D, noisy, codes=C, seed=0) == pytest.approx(first, rel=0, abs=0, nan_ok=True)
    assert first["fvu"] != score(D, noisy, codes=C, seed=1)["fvu"]


def test_labels_that_the_activations_hold():
    s = score(D, X, labels=C.argmax(1))
    assert s["probe_auc_logistic"] > 0.8 and s["probe_auc_latent"] > 0.8


def test_targets_are_what_is_to_be_given_back():
    turned = X.flip(1)
    transcoder = Relu(D.W_enc, D.W_dec.flip(1).contiguous(), D.b_enc, D.b_dec)
    s = score(transcoder, X, features=F.flip(1), codes=C, targets=turned)
    assert s["fvu"] < 1e-6 and s["mcc"] == pytest.approx(1) and s["f1"] == 1
    assert s == pytest.approx(score(D, X, features=F, codes=C), abs=1e-5, nan_ok=True)
    assert score(transcoder, X)["fvu"] > 0.5 and score(D, X, targets=X) == score(D, X)


def test_dictionaries_in_float64_and_with_gradients():
    s = score(D.to(dtype=torch.float64), X, features=F, codes=C)
    assert s == pytest.approx(score(D, X, features=F, codes=C), abs=1e-3, nan_ok=True)
    learning = Relu(*(t.clone().requires_grad_() for t in (D.W_enc, D.W_dec, D.b_enc, D.b_dec)))
    assert score(learning, X, features=F, codes=C)["mcc"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": X[:, :5]}, r"x: shape \[400, 5\], but the dictionary takes \[rows, 6\]"),
        ({"x": X[0]}, r"x: shape \[6\]"),
        ({"x": X[:1]}, "x: 1 rows"),
        ({"x": X.clone().fill_(math.nan)}, "x: NaN or infinite"),
        ({"targets": X[:10]}, r"targets: shape \[10, 6\], expected \[400, 6\]"),
        ({"targets": X.clone().fill_(math.inf)}, "targets: NaN or infinite"),
        ({"features": F[:, :4]}, r"features: shape \[6, 4\]"),
        ({"features": torch.zeros(3, 6)}, "features: every row is zero"),
        ({"codes": C[:10]}, r"codes: shape \[10, 6\], expected \[400, n_features\]"),
        ({"features": F, "codes": C[:, :4]}, r"codes: shape \[400, 4\], expected \[400, 6\]"),
        ({"codes": -C}, "codes: negative"),
        ({"labels": torch.zeros(10)}, r"labels: 'label': shape \[10\], expected \[400\]"),
        ({"labels": {"a": torch.full((400,), math.inf)}}, "labels: 'a': 400 of 400 entries are NaN, infinite"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(wrong: dict[str, torch.Tensor], message: str):
    with pytest.raises(ValueError, match=message) as caught:
        score(D, **{"x": X, **wrong})
    assert "\n" not in str(caught.value)
