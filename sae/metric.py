"""Interface of metrics: a family of scores, and the evidence that it needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary
from sae.numerics.active_codes import SplitCodes
from sae.numerics.matching import Matching
from sae.numerics.memory import check_memory
from sae.registry import KindSettings, UserError, configurable
from sae.source import Batch, Source, Truth, check_codes_known, check_label

if TYPE_CHECKING:
    from sae.model.site import Site


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a dictionary is scored against.

    Hashable by identity, so that work that depends on the evidence alone (probes on the raw activations) is done once
    and shared by all dictionaries.
    """

    choose: Batch
    """The validation split: thresholds, latents and probes are chosen on it."""
    test: Batch
    """The test split: every score is measured on it."""
    truth: Truth | None = None
    """What is known of the features."""
    labelled: tuple[Batch, Batch] | None = None
    """Labelled samples, as (choose, test)."""
    model: Site | None = None
    """The hook point that the activations come from."""
    subspaces: Float[Tensor, "n_subspaces k d_in"] | None = None
    """Orthonormal bases of features with more than one dimension."""

    @property
    def provides(self) -> frozenset[str]:
        """Which of ``truth, parents, codes, labels, model, subspaces, targets`` there are."""
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
    """The evidence of a source: `n_rows` held-out samples, half for validation and half to score.

    Raises `UserError` where a label or a true coefficient is NaN, negative or otherwise no such value.
    """
    width = source.d_in + (0 if source.truth is None else len(source.truth.directions))
    rows = sum(min(n_rows // 2, source.n_rows[split] or n_rows) for split in ("choose", "test"))
    check_memory(f"n_rows = {n_rows}", 4 * rows * width)
    choose, test = source.at_most(n_rows // 2, "choose"), source.at_most(n_rows // 2, "test")
    labelled = source.labelled()
    for batch in (choose, test):
        if batch.codes is not None:
            check_codes_known(batch.codes, "source: codes")
    for batch in labelled or ():
        for name, label in batch.labels.items():
            check_label(f"source: label {name!r}", label, len(batch.acts))
    return Evidence(choose, test, source.truth, labelled, source.model(), source.subspaces)


BLOCK_BYTES = 2**28
"""The bytes of a block of codes."""
_BLOCK_ROWS = 4096


def block_rows(n_latents: int) -> int:
    """The number of samples in a block of codes."""
    return max(1, min(_BLOCK_ROWS, BLOCK_BYTES // (4 * n_latents)))


@dataclass(frozen=True, eq=False)
class Case:
    """One dictionary with the evidence; its codes and its matching are computed once and shared by all metrics.

    Metrics read codes in :meth:`blocks` of samples, or without their zeros by latent (:attr:`choose`, :attr:`test`), so
    that memory does not grow with samples times latents.
    """

    dictionary: Dictionary
    """The dictionary that is scored."""
    evidence: Evidence
    """What it is scored against."""

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "block n_latents"]]]:
        """The codes of the test samples in blocks, each with its samples."""
        return self.test.blocks()

    @cached_property
    def choose(self) -> SplitCodes:
        """The codes of the validation samples."""
        return self._split("choose_codes", self.evidence.choose)

    @cached_property
    def test(self) -> SplitCodes:
        """The codes of the test samples."""
        return self._split("test_codes", self.evidence.test)

    @cached_property
    def choose_codes(self) -> Float[Tensor, "rows n_latents"]:
        """All codes of the validation samples, as `test_codes`."""
        return self._all(self.choose)

    @cached_property
    def test_codes(self) -> Float[Tensor, "rows n_latents"]:
        """All codes of the test samples with their zeros, for narrow dictionaries: they take four bytes times samples
        times latents. Raises `UserError` where the device has less memory."""
        return self._all(self.test)

    def codes_of(self, batch: Batch) -> SplitCodes:
        """The dictionary's codes of a batch, which are kept if they fit."""
        if batch is self.evidence.choose:
            return self.choose
        if batch is self.evidence.test:
            return self.test
        return self._others.setdefault(id(batch), split_codes(self.dictionary, batch.acts))

    @cached_property
    def _others(self) -> dict[int, SplitCodes]:
        """The codes of labelled batches, which live as long as the evidence, by the batch's identity."""
        return {}

    def _split(self, name: str, batch: Batch) -> SplitCodes:
        z = vars(self).get(name)
        if z is None:
            return split_codes(self.dictionary, batch.acts)
        return SplitCodes.of_matrix(z, block_rows(self.dictionary.n_latents))

    def _all(self, codes: SplitCodes) -> Tensor:
        needed, device = 4 * codes.n_rows * codes.n_latents, str(self.dictionary.W_dec.device)
        check_memory(f"n_rows = {codes.n_rows}: codes of {codes.n_latents} latents", needed, device)
        return codes.all()

    @cached_property
    def matching(self) -> Matching:
        """The represented features matched with the latents; needs ``truth``."""
        truth = self.evidence.truth
        assert truth is not None
        return Matching.of(truth.directions, truth.represented, self.dictionary.W_dec)


def encode(d: Dictionary, acts: Float[Tensor, "rows d_in"]) -> Tensor:
    """``d.encode`` without gradients, in blocks of samples, so that temporaries stay small; all codes with their
    zeros."""
    check_memory(f"n_rows = {len(acts)}: codes of {d.n_latents} latents", 4 * len(acts) * d.n_latents, str(acts.device))
    with torch.no_grad():
        return torch.cat([d.encode(piece) for piece in acts.split(block_rows(d.n_latents))])


def split_codes(d: Dictionary, acts: Float[Tensor, "rows d_in"]) -> SplitCodes:
    """The codes of a dictionary for all samples of a split, read in blocks. Raises `UserError` where the device has
    less memory than one block takes."""
    size = min(block_rows(d.n_latents), len(acts))
    check_memory(f"n_rows = {len(acts)}: codes of {d.n_latents} latents", 4 * size * d.n_latents, str(acts.device))

    def encode(rows: slice) -> Tensor:
        with torch.no_grad():
            return d.encode(acts[rows])

    return SplitCodes(encode, len(acts), d.n_latents, block_rows(d.n_latents))


def mean(values: Tensor) -> float:
    """The mean in float64; NaN for an empty tensor."""
    return float(values.double().mean())


@dataclass(frozen=True)
class Scores:
    """The scores of one family. An undefined score (the precision of a latent that never fires) is NaN, never a
    flattering default."""

    scalars: Mapping[str, float] = field(default_factory=dict)
    """Named numbers."""
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    """Named vectors with one entry per latent or per feature."""


N_DECILES = 10


def decile_scores(
    name: str, values: Float[Tensor, " n_features"], probability: Float[Tensor, " n_features"]
) -> dict[str, float]:
    """``<name>_decile_1``, the mean of the values of the rarest tenth of the features, to ``_10``, the most frequent.

    NaNs are left out; an empty tenth is NaN. Empty where a probability is unknown.
    """
    if not bool(torch.isfinite(probability).all()):
        return {}
    parts = values[probability.argsort(stable=True)].tensor_split(N_DECILES)
    return {f"{name}_decile_{i}": float(part.double().nanmean()) for i, part in enumerate(parts, start=1)}


class MetricConfig(KindSettings, ABC):
    """Settings of one family of scores. What it needs is checked against the source before any work starts."""

    interface: ClassVar[str] = "metrics"

    needs: ClassVar[frozenset[str]] = frozenset()
    """Evidence that must be there, all of it: of ``truth``, ``parents``, ``codes``, ``labels``, ``model``,
    ``subspaces``."""
    needs_any: ClassVar[frozenset[str]] = frozenset()
    """Evidence of which at least one must be there; empty means none is required."""
    by_default: ClassVar[bool] = True
    """Whether the family is computed without being named; False means only where it is."""
    fits_targets: ClassVar[bool] = True
    """Whether it can score dictionaries that predict targets; False means only those that reconstruct their input."""

    @abstractmethod
    def score(self, case: Case) -> Scores:
        """The scores of one dictionary."""

    def served_by(self, provides: frozenset[str]) -> bool:
        """Whether evidence with these parts is enough for the metric."""
        has_needed = self.needs <= provides and (not self.needs_any or bool(self.needs_any & provides))
        return has_needed and (self.fits_targets or "targets" not in provides)

    @property
    def requirement(self) -> str:
        """The evidence that is needed, in words."""
        needed = " and ".join(sorted(self.needs)) or " or ".join(sorted(self.needs_any))
        return needed if self.fits_targets else f"{needed or 'activations'} without targets"


def scores_of(metrics: Sequence[MetricConfig], case: Case) -> Scores:
    """The scores of one dictionary by several families; a vector is called ``<kind>.<name>``.

    Raises `UserError` where a family returns anything but `Scores` of numbers and tensors, or two return one score.
    """
    scalars, vectors, families = dict[str, float](), dict[str, Tensor](), dict[str, str]()
    for metric in metrics:
        kind = str(metric.model_dump()["kind"])
        found = _checked_scores(kind, metric.score(case))
        for name, value in found.scalars.items():
            if name in families:
                raise UserError(
                    f"metrics {families[name]!r} and {kind!r}: both return a score called {name!r}; rename it in one, "
                    "or leave one of them out"
                )
            scalars[name], families[name] = value, kind
        vectors |= {f"{kind}.{name}": vector for name, vector in found.vectors.items()}
    return Scores(scalars, vectors)


def _checked_scores(kind: str, found: Any) -> Scores:
    """What a metric returned, with numbers of other libraries as floats. Raises `UserError` where it is no `Scores`."""
    if not isinstance(found, Scores):
        raise UserError(f"metric {kind!r} returned {type(found).__name__}; a metric returns sae.metric.Scores")
    parts: dict[str, Any] = {"scalars": found.scalars, "vectors": found.vectors}
    for what, part in parts.items():
        if not isinstance(part, Mapping) or not all(isinstance(name, str) for name in part):
            raise UserError(f"metric {kind!r}: the {what} of Scores are no mapping from names; give a dict")
    for name, vector in parts["vectors"].items():
        if not isinstance(vector, Tensor):
            raise UserError(f"metric {kind!r}: vector {name!r} is of type {type(vector).__name__}; give a tensor")
    return Scores({name: _number(kind, name, value) for name, value in found.scalars.items()}, found.vectors)


def _number(kind: str, name: str, value: Any) -> float:
    if isinstance(value, int | float):
        return value
    if isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()):
        return float(value)
    raise UserError(f"metric {kind!r}: score {name!r} is of type {type(value).__name__}; give one number, as a float")


def default_metrics(provides: frozenset[str]) -> list[MetricConfig]:
    """Every family that is computed by default and that this evidence is enough for, with its default settings."""
    every: list[MetricConfig] = [module.Config() for module in configurable("metrics").values()]
    return [metric for metric in every if metric.by_default and metric.served_by(provides)]
