"""Scoring in one call: a dictionary, plain tensors, and every score that they allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary
from sae.metric import Case, Evidence, MetricConfig, default_metrics
from sae.numerics.matching import unit
from sae.numerics.seeds import Permutation, derive
from sae.registry import UserError, config_class
from sae.source import Batch, Truth, check_codes_known, check_label


def score(
    d: Dictionary,
    x: Tensor,
    features: Tensor | None = None,
    codes: Tensor | None = None,
    labels: Tensor | Mapping[str, Tensor] | None = None,
    seed: int = 0,
    targets: Tensor | None = None,
    metrics: Sequence[str | MetricConfig] | None = None,
) -> dict[str, float]:
    """Every score that the given evidence allows, by name; NaN where one is undefined.

    `x` ``[rows, d_in]`` are activations that `d` was not trained on. One half, drawn by `seed`, is the validation
    split, on which thresholds are chosen and probes are fitted; scores are measured on the other half. `features`
    ``[n_features, d_in]`` are true directions of any length (zero: not represented), `codes` ``[rows, n_features]`` the
    true coefficients, `labels` ``[rows]``, or a mapping from names to ``[rows]``: 0/1, or class ids. `targets`
    ``[rows, d_in]`` are what a transcoder reconstructs; `features` are then directions in their space. `metrics` names
    the families of scores (files of ``sae/metrics/``) or gives their config objects; without it, all that are computed
    by default.

    Raises `UserError` where shapes do not fit, a value is NaN or infinite, or a family is unknown or lacks its
    evidence.
    """
    named = {"label": labels} if isinstance(labels, Tensor) else dict(labels or {})
    check_evidence(d, x, features, codes, named, targets)
    order = torch.from_numpy(Permutation(len(x), derive("score", seed))(np.arange(len(x))))
    choose, test = (
        Batch(
            acts=x.detach()[rows.to(x.device)].to(d.W_dec),
            codes=None if codes is None else codes.detach()[rows.to(codes.device)].to(d.W_dec),
            labels={name: y.detach()[rows.to(y.device)].to(d.W_dec.device) for name, y in named.items()},
            targets=None if targets is None else targets.detach()[rows.to(targets.device)].to(d.W_dec),
        )
        for rows in order.tensor_split(2)
    )
    truth = None if features is None else truth_of(features.detach().to(d.W_dec), codes)
    evidence = Evidence(choose, test, truth, (choose, test) if named else None)
    case = Case(d, evidence)
    scores: dict[str, float] = {}
    with torch.no_grad():
        for metric in _chosen_metrics(metrics, evidence.provides):
            scores |= metric.score(case).scalars
    return scores


def _chosen_metrics(metrics: Sequence[str | MetricConfig] | None, provides: frozenset[str]) -> list[MetricConfig]:
    """The families by name or as they are; without any, all that are computed by default."""
    if metrics is None:
        return default_metrics(provides)
    chosen = [config_class("metrics", one)() if isinstance(one, str) else one for one in metrics]
    families = [family for family in chosen if isinstance(family, MetricConfig)]
    for family in families:
        if not family.served_by(provides):
            name = str(family.model_dump()["kind"])
            raise UserError(f"metrics: {name!r} needs {family.requirement}, which is not given")
    return families


def truth_of(features: Float[Tensor, "n_features d_in"], codes: Tensor | None) -> Truth:
    """Unit directions, and how often each feature is active in the codes (NaN without codes)."""
    represented = features.norm(dim=-1) > 0
    unknown = torch.full(represented.shape, torch.nan, device=features.device)
    probability = unknown if codes is None else (codes > 0).float().mean(0).to(features.device)
    return Truth(unit(features), represented, probability)


def check_evidence(
    d: Dictionary,
    x: Tensor,
    features: Tensor | None,
    codes: Tensor | None,
    labels: Mapping[str, Tensor],
    targets: Tensor | None,
) -> None:
    """Raises `UserError` where the evidence does not fit together."""
    if x.ndim != 2 or x.shape[1] != d.d_in:
        raise UserError(f"x: shape {shape(x)}, but the dictionary takes [rows, {d.d_in}]")
    if targets is not None and targets.shape != x.shape:
        raise UserError(f"targets: shape {shape(targets)}, expected {shape(x)} as x has it")
    if len(x) < 2:
        raise UserError(f"x: {len(x)} rows; at least 2 are needed, one for validation and one to score")
    if features is not None and (features.ndim != 2 or features.shape[1] != d.d_in):
        raise UserError(f"features: shape {shape(features)}, but the dictionary needs [n_features, {d.d_in}]")
    if features is not None and not bool(features.any()):
        raise UserError("features: every row is zero; give at least one direction or leave features out")
    n_features = "n_features" if features is None else len(features)
    if codes is not None and (
        codes.ndim != 2 or len(codes) != len(x) or n_features not in ("n_features", codes.shape[1])
    ):
        raise UserError(f"codes: shape {shape(codes)}, expected [{len(x)}, {n_features}] as x and features have it")
    for name, y in labels.items():
        check_label(f"labels: {name!r}", y, len(x))
    for name, tensor in {"x": x, "targets": targets, "features": features}.items():
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{name}: NaN or infinite values; remove those rows first")
    if codes is not None:
        check_codes_known(codes)


def shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
