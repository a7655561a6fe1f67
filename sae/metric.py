"""The noun `Metric`: a family of scores, what it needs to be computed, and how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary
from sae.numerics.matching import Matching, cosines
from sae.registry import KindSettings
from sae.source import Batch, Source, Truth

if TYPE_CHECKING:
    from sae.model.hooked import Site


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a dictionary is scored against. Hashable by identity, so that work which depends on the evidence
    alone (probes on the raw activations) can be done once and shared by every dictionary.

    Thresholds, latents and probes are chosen on `choose`; every number is measured on `test`.
    """

    choose: Batch
    test: Batch
    truth: Truth | None = None
    labelled: tuple[Batch, Batch] | None = None
    model: Site | None = None
    subspaces: Float[Tensor, "n_subspaces k d_in"] | None = None

    @property
    def provides(self) -> frozenset[str]:
        """The subset of ``truth, parents, codes, labels, model, subspaces, targets`` that is here."""
        parents = None if self.truth is None else self.truth.parents
        present = {
            "truth": self.truth is not None,
            "parents": parents is not None and bool((parents >= 0).any()),
            "codes": self.test.codes is not None,
            "labels": self.labelled is not None,
            "model": self.model is not None,
            "subspaces": self.subspaces is not None,
            "targets": self.test.targets is not None,
        }
        return frozenset(name for name, here in present.items() if here)


def gather_evidence(source: Source, n_rows: int) -> Evidence:
    """The evidence that a source offers: `n_rows` held-out rows, half to choose on and half to score on."""
    choose, test = source.at_most(n_rows // 2, "choose"), source.at_most(n_rows // 2, "test")
    return Evidence(choose, test, source.truth, source.labelled(), source.model(), source.subspaces)


@dataclass(frozen=True, eq=False)
class Case:
    """One dictionary before the evidence; its codes and matches are computed once, whichever metrics ask."""

    dictionary: Dictionary
    evidence: Evidence

    @cached_property
    def test_codes(self) -> Float[Tensor, "rows n_latents"]:
        return encode(self.dictionary, self.evidence.test.acts)

    @cached_property
    def choose_codes(self) -> Float[Tensor, "rows n_latents"]:
        return encode(self.dictionary, self.evidence.choose.acts)

    def codes_of(self, batch: Batch) -> Float[Tensor, "rows n_latents"]:
        """The dictionary's codes of a batch, which may be one that the case has encoded already."""
        if batch is self.evidence.choose:
            return self.choose_codes
        return self.test_codes if batch is self.evidence.test else encode(self.dictionary, batch.acts)

    @cached_property
    def matching(self) -> Matching:
        """The represented features against the latents; the evidence must have ``truth``."""
        truth = self.evidence.truth
        assert truth is not None
        feature = truth.represented.nonzero()[:, 0]
        return Matching(feature, cosines(truth.directions[feature], self.dictionary.W_dec))


def mean(values: Tensor) -> float:
    """The mean in float64; NaN of nothing."""
    return float(values.double().mean())


def encode(d: Dictionary, acts: Float[Tensor, "rows d_in"], rows_at_once: int = 4096) -> Tensor:
    """``d.encode`` without gradients and in pieces, so that temporaries stay small."""
    with torch.no_grad():
        return torch.cat([d.encode(piece) for piece in acts.split(rows_at_once)])


@dataclass(frozen=True)
class Scores:
    """Named numbers, and named vectors with one entry per latent or per feature. A score that is undefined
    (precision of a latent that never fires, say) is NaN, never a flattering default."""

    scalars: Mapping[str, float] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict)


N_DECILES = 10


def decile_scores(
    name: str, values: Float[Tensor, " n_features"], probability: Float[Tensor, " n_features"]
) -> dict[str, float]:
    """``<name>_decile_1``, the mean of the values of the rarest tenth of the features, to ``_10``, the most frequent.

    NaNs are left out; NaN for a tenth that is empty. Nothing where a probability is unknown.
    """
    if not bool(torch.isfinite(probability).all()):
        return {}
    parts = values[probability.argsort(stable=True)].tensor_split(N_DECILES)
    return {f"{name}_decile_{i}": float(part.double().nanmean()) for i, part in enumerate(parts, start=1)}


class MetricConfig(KindSettings, ABC):
    """Settings of one family of scores. `needs` is checked against what the source provides before work starts.
    `by_default` is False for a family that is computed only where it is asked for by name."""

    interface: ClassVar[str] = "metrics"

    needs: ClassVar[frozenset[str]] = frozenset()
    """All of these must be there, out of ``truth``, ``parents``, ``codes``, ``labels``, ``model``, ``subspaces``."""
    needs_any: ClassVar[frozenset[str]] = frozenset()
    """At least one of these must be there; empty means no such demand."""
    by_default: ClassVar[bool] = True

    @abstractmethod
    def score(self, case: Case) -> Scores: ...

    def served_by(self, provides: frozenset[str]) -> bool:
        """Whether a source that provides this can serve the metric."""
        return self.needs <= provides and (not self.needs_any or bool(self.needs_any & provides))
