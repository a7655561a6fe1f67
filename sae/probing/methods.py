"""Which probes a study tries on what, and what they are called in its table.

lr pca knn trees mlp diff_means    dense probes on the activations; `lr` on all latents is `latents_lr`
neuron, latent                     the best single column: of the activations in either direction, of the codes
neurons_k*, k*                     regressions on the k columns that rank first
shuffled                           `lr` on permuted labels, which belongs at .5
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
"""The activations as they are, a dictionary's codes, or those of an untrained one of the same shape and sparsity."""
DenseMethod = Literal["lr", "pca", "knn", "trees", "mlp", "diff_means", "neuron"]


class StudySettings(Regimes):
    """Settings of a study. Rankers and penalties beyond the first are tried in `standard` alone, with ``_<name>`` after
    the name of the probe. `seeds` are those of the drawn training rows, `n_settings` the hyper-parameters of each."""

    probes: tuple[DenseMethod, ...] = Field(default=("lr", "pca", "knn", "trees", "diff_means", "neuron"), min_length=1)
    k: tuple[int, ...] = Field(default=(1, 2, 5, 16, 128), min_length=1)
    rankers: tuple[str, ...] = Field(default=("mean_difference",), min_length=1)
    penalties: tuple[Penalty, ...] = Field(default=("l1",), min_length=1)
    n_settings: int = Field(default=10, ge=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)

    @field_validator("rankers")
    @classmethod
    def _known(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            if name not in RANKERS:
                raise UserError(unknown(name, RANKERS, "ranker"))
        return given

    @field_validator("k")
    @classmethod
    def _one_column_at_least(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if min(given) < 1:
            raise UserError("a sparse probe reads one column at least")
        return given


@dataclass(frozen=True)
class Method:
    """A probe under the name that it has in the table."""

    name: str
    probe: Probe
    in_standard_alone: bool = False
    shuffled: bool = False


def methods_of(settings: StudySettings, reading: ProbeInput, n_columns: int) -> list[Method]:
    """The probes on one reading, in the order in which they are preferred where validation cannot tell."""
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
        found = [Method(name, dense[name]) for name in settings.probes]
        return [
            *found,
            *_sparse(settings, "neurons_k", n_columns),
            Method("shuffled", Logistic("l2", n), shuffled=True),
        ]
    if reading == "codes":
        single, every = Method("latent", Single(signed=False)), Method("latents_lr", Logistic("l2", n))
        return [*_sparse(settings, "k", n_columns), single, every]
    return [*_sparse(settings, "untrained_k", n_columns), Method("untrained_latent", Single(signed=False))]


def _sparse(settings: StudySettings, name: str, n_columns: int) -> list[Method]:
    """k-sparse probes, for every k below the number of columns, the largest first."""
    found: list[Method] = []
    for i, ranker in enumerate(settings.rankers):
        for j, penalty in enumerate(settings.penalties):
            more = (f"_{ranker}" if i else "") + (f"_{penalty}" if j else "")
            for k in sorted({k for k in settings.k if k < n_columns}, reverse=True):
                found.append(Method(f"{name}{k}{more}", Sparse(k, ranker, penalty, settings.n_settings), bool(i or j)))
    return found
