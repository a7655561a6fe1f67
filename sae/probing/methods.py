"""The methods of a probe study: which probes are fitted to which inputs, and their names in the table.

lr pca knn trees mlp diff_means    dense probes on the activations; `lr` on all latents is `latents_lr`
neuron, latent                     the best single column: of the activations with either sign, of the codes
neurons_k*, k*                     logistic regression on the k columns with the highest rank
shuffled                           `lr` with permuted labels; its test AUC should be .5
untrained_*                        `latent` and k* on an untrained dictionary
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from sae.numerics.binary_probes import Penalty
from sae.probing.probes import DiffMeans, Knn, Logistic, Mlp, Pca, Probe, Single, Sparse, Trees
from sae.probing.rankers import RANKERS
from sae.probing.regimes import Regimes
from sae.registry import UserError, unknown

ProbeInput = Literal["acts", "codes", "untrained"]
"""The activations, a dictionary's codes, or the codes of an untrained dictionary of the same shape and sparsity."""
DenseMethod = Literal["lr", "pca", "knn", "trees", "mlp", "diff_means", "neuron"]


class StudySettings(Regimes):
    """Settings of a probe study. Rankers and penalties after the first are used in the regime `standard` only, with
    ``_<name>`` appended to the name of the method."""

    probes: tuple[DenseMethod, ...] = Field(default=("lr", "pca", "knn", "trees", "diff_means", "neuron"), min_length=1)
    """The dense probes on the activations, in the order of preference if validation cannot decide."""
    k: tuple[int, ...] = Field(default=(1, 2, 5, 16, 128), min_length=1)
    """The numbers of columns of sparse probes."""
    rankers: tuple[str, ...] = Field(default=("mean_difference",), min_length=1)
    """The rankings by which sparse probes select columns."""
    penalties: tuple[Penalty, ...] = Field(default=("l1",), min_length=1)
    """The penalties of the logistic regression in sparse probes."""
    n_settings: int = Field(default=10, ge=1)
    """The most hyper-parameter settings tried for each probe."""
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """The seeds of the random training rows."""

    @field_validator("rankers")
    @classmethod
    def _known(cls, rankers: tuple[str, ...]) -> tuple[str, ...]:
        for name in rankers:
            if name not in RANKERS:
                raise UserError(unknown(name, RANKERS, "ranker"))
        return rankers

    @field_validator("k")
    @classmethod
    def _one_column_at_least(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if min(k) < 1:
            raise UserError("a sparse probe needs one column at least; give numbers from 1")
        return k


@dataclass(frozen=True)
class Method:
    """A probe with its name in the table."""

    name: str
    """The name."""
    probe: Probe
    """The probe."""
    in_standard_alone: bool = False
    """Whether it is used in the regime `standard` only."""
    shuffled: bool = False
    """Whether it is fitted to permuted labels."""


def methods_of(settings: StudySettings, reading: ProbeInput, n_columns: int) -> list[Method]:
    """The methods for one kind of input, in the order of preference if validation cannot decide."""
    n = settings.n_settings
    if reading == "acts":
        dense: dict[DenseMethod, Probe] = {
            "lr": Logistic(n_settings=n),
            "pca": Pca(n),
            "knn": Knn(n),
            "trees": Trees(n),
            "mlp": Mlp(n),
            "diff_means": DiffMeans(),
            "neuron": Single(signed=True),
        }
        return [
            *(Method(name, dense[name]) for name in settings.probes),
            *_sparse(settings, "neurons_k", n_columns),
            Method("shuffled", Logistic("l2", n), shuffled=True),
        ]
    if reading == "codes":
        single, every = Method("latent", Single(signed=False)), Method("latents_lr", Logistic("l2", n))
        return [*_sparse(settings, "k", n_columns), single, every]
    return [*_sparse(settings, "untrained_k", n_columns), Method("untrained_latent", Single(signed=False))]


def _sparse(settings: StudySettings, name: str, n_columns: int) -> list[Method]:
    """k-sparse probes for every k below the number of columns, the largest first."""
    methods: list[Method] = []
    for i, ranker in enumerate(settings.rankers):
        for j, penalty in enumerate(settings.penalties):
            suffix = (f"_{ranker}" if i else "") + (f"_{penalty}" if j else "")
            for k in sorted({k for k in settings.k if k < n_columns}, reverse=True):
                probe = Sparse(k, ranker, penalty, settings.n_settings)
                methods.append(Method(f"{name}{k}{suffix}", probe, in_standard_alone=bool(i or j)))
    return methods
