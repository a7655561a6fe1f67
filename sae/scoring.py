"""Scoring in one call: a dictionary, plain tensors, and every score that they allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary, check_one_dictionary
from sae.metric import Case, Evidence, MetricConfig, default_metrics, scores_of
from sae.numerics.arrays import Numbers, as_tensor, integer_of
from sae.numerics.matching import unit
from sae.numerics.seeds import Permutation, derive
from sae.registry import UserError, config_class
from sae.source import Batch, Truth, check_codes_known, check_finite, check_label


def score(
    d: Dictionary,
    x: Numbers,
    features: Numbers | None = None,
    codes: Numbers | None = None,
    labels: Numbers | Mapping[str, Numbers] | None = None,
    seed: int = 0,
    targets: Numbers | None = None,
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

    Each is a tensor, a NumPy array or nested lists. Raises `UserError` where shapes do not fit, a value is NaN or
    infinite in the type of the dictionary, or a family is unknown, is named twice or lacks its evidence.
    """
    check_one_dictionary(d)
    seed = integer_of("seed", seed)
    given = {"x": x, "features": features, "codes": codes, "targets": targets}
    read = {name: as_tensor(name, array) for name, array in given.items() if array is not None or name == "x"}
    named = {} if labels is None else labels if isinstance(labels, Mapping) else {"label": labels}
    marks = {name: as_tensor(f"labels: {name!r}", y) for name, y in named.items()}
    probability = None if "codes" not in read else (read["codes"] > 0).float().mean(0)
    numbers = {name: tensor.to(d.W_dec.dtype) for name, tensor in read.items()}
    check_evidence(d, numbers["x"], numbers.get("features"), numbers.get("codes"), marks, numbers.get("targets"))
    choose, test = _halves(numbers, marks, seed, d.W_dec.device)
    truth = None if "features" not in numbers else truth_of(numbers["features"].to(d.W_dec.device), probability)
    evidence = Evidence(choose, test, truth, (choose, test) if marks else None)
    case = Case(d, evidence)
    with torch.no_grad():
        return dict(scores_of(_chosen_metrics(metrics, evidence.provides), case).scalars)


def _halves(
    numbers: Mapping[str, Tensor], labels: Mapping[str, Tensor], seed: int, device: torch.device
) -> list[Batch]:
    """The validation and the test samples."""
    n = len(numbers["x"])
    order = torch.from_numpy(Permutation(n, derive("score", seed))(np.arange(n)))

    def at(rows: Tensor, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[rows.to(tensor.device)].to(device)

    return [
        Batch(
            acts=numbers["x"][rows.to(numbers["x"].device)].to(device),
            codes=at(rows, numbers.get("codes")),
            labels={name: y[rows.to(y.device)].to(device) for name, y in labels.items()},
            targets=at(rows, numbers.get("targets")),
        )
        for rows in order.tensor_split(2)
    ]


def _chosen_metrics(metrics: Sequence[str | MetricConfig] | None, provides: frozenset[str]) -> list[MetricConfig]:
    """The families by name or as they are; without any, all that are computed by default."""
    if metrics is None:
        return default_metrics(provides)
    several = [metrics] if isinstance(metrics, str | MetricConfig) else list(metrics)
    if not several:
        raise UserError("metrics = []: there is none; name at least one family, or leave metrics out for all of them")
    chosen = [config_class("metrics", one)() if isinstance(one, str) else one for one in several]
    families = [family for family in chosen if isinstance(family, MetricConfig)]
    if len(families) < len(chosen):
        wrong = next(one for one in chosen if not isinstance(one, MetricConfig))
        raise UserError(f"metrics: {wrong!r}: neither the name nor the config object of a family; give one of these")
    names = [str(family.model_dump()["kind"]) for family in families]
    for name, family in zip(names, families, strict=True):
        if names.count(name) > 1:
            raise UserError(f"metrics: {name!r} is named {names.count(name)} times; its scores have one name, so once")
        if not family.served_by(provides):
            raise UserError(f"metrics: {name!r} needs {family.requirement}, which is not given")
    return families


def truth_of(features: Float[Tensor, "n_features d_in"], probability: Tensor | None) -> Truth:
    """Unit directions, and how often each feature is active (NaN where unknown)."""
    represented = features.norm(dim=-1) > 0
    unknown = torch.full(represented.shape, torch.nan, device=features.device)
    return Truth(unit(features), represented, unknown if probability is None else probability.to(features.device))


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
            n = int((~torch.isfinite(tensor)).any(-1).sum())
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{name}: NaN or infinite values in {kind} in {n} of {len(tensor)} rows; remove them first")
        if tensor is not None and name != "features":
            check_finite(name, tensor)
    if codes is not None:
        check_codes_known(codes)


def shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
