"""Do two encoders of one decoder switch on the same latents, and are those the latents of the active features?

With S the latents that fire in a test sample, A those that another encoder of the same decoder switches on, and F the
active features:

    support_agreement   mean over samples of |S & A| / |S | A|, the Jaccard index of the two supports
    support_truth       mean over samples of |m(S) & F| / |m(S) | F|, with m the one-to-one matching of the family
                        `recovery`: a firing latent stands for its feature, one without a feature for itself; needs
                        ``truth`` and ``codes``, and is left out without them

Both lie in [0, 1]; 1 is best. A sample in which both supports are empty counts 1. A latent fires where its contribution
||z_j W_dec[j]|| is above 0. Only represented features count in F; a feature without a partner is always missed.

The other encoder is a non-negative lasso (:mod:`sae.encoders.fista`) unless `encoder` names one. It is given the
decoder alone, with rows of norm one and their transpose as its layer, and the validation samples where it measures or
fits anything. A decoder of correlated rows has many codes of nearly the same error, and a low agreement says that which
latents are active is decided by the encoder as much as by the sample. It does not say which of the two is right:
`support_truth` does.

The index is at most the smaller of two supports divided by the larger, so encoders of different L0 cannot agree.
Chance: supports drawn independently, in which every latent has the probability q, have an index of about q / (2 - q).

'Which sparse code?' (OpenReview JiyytGKbA9) compares the supports of encoders in this way, and reports .43 between
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from jaxtyping import Bool, Float
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor

from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.encoder import EncoderConfig
from sae.metric import Case, MetricConfig, Scores, mean
from sae.numerics.matching import unit
from sae.registry import UserError, checked_settings, config_class
from sae.source import Batch, Source, Split

_ROWS_AT_ONCE = 512
"""Samples that the other encoder takes at once: an iterative one holds several matrices of codes."""


def _as_encoder(given: Any) -> Any:
    """The settings that a name or a table ``{kind = ...}`` stands for; other values unchanged."""
    table = {"kind": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping):
        return table
    settings = dict(cast(Mapping[str, Any], table))
    kind = settings.get("kind")
    if not isinstance(kind, str):
        raise UserError("kind is missing; name an encoder, such as {kind = 'fista'}")
    return checked_settings(config_class("encoders", kind), settings)


class Config(MetricConfig):
    """Settings of the agreement of supports; needs only activations, and reconstructions of them rather than of
    targets."""

    kind: Literal["support_agreement"] = "support_agreement"
    encoder: Annotated[SerializeAsAny[EncoderConfig], BeforeValidator(_as_encoder)] = Field(
        default="fista", validate_default=True
    )
    """The encoder to compare with: a name, or a table with its settings."""

    needs: ClassVar[frozenset[str]] = frozenset()
    by_default: ClassVar[bool] = False  # it solves a lasso for every sample
    fits_targets: ClassVar[bool] = False

    def score(self, case: Case) -> Scores:
        d, evidence = case.dictionary, case.evidence
        other = on_decoder_of(d, self.encoder, evidence.choose)
        writes = d.W_dec.norm(dim=-1) > 0
        agreement: list[Tensor] = []
        truth: list[Tensor] = []
        for rows, z in case.blocks():
            fires = (z != 0) & writes
            agreement += [
                jaccard(fires[piece], supports) for piece, supports in _supports(other, evidence.test.acts[rows])
            ]
            if evidence.truth is not None and evidence.test.codes is not None:
                truth.append(_with_truth(case, fires, evidence.test.codes[rows]))
        scalars = {"support_agreement": mean(torch.cat(agreement))}
        return Scores(scalars | ({"support_truth": mean(torch.cat(truth))} if truth else {}))


class ValidationSamples(Source):
    """A source whose every split is the validation samples, for encoders that measure or fit something."""

    def __init__(self, samples: Batch) -> None:
        self.samples, self.d_in, n = samples, samples.acts.shape[1], len(samples.acts)
        self.n_rows = {"train": n, "choose": n, "test": n}

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        n = len(self.samples.acts)
        return Batch(self.samples.acts[(step * size + torch.arange(size, device=self.samples.acts.device)) % n])


def on_decoder_of(d: Dictionary, encoder: EncoderConfig, samples: Batch) -> Dictionary:
    """The directions of `d`, scaled to norm one, with another encoder. Raises `UserError` where `d` reads and writes
    different widths."""
    if d.d_in != d.d_out:
        raise UserError(
            f"metric 'support_agreement': the dictionary reads {d.d_in} and writes {d.d_out} numbers: its directions "
            "cannot explain what it reads; leave the metric out"
        )
    # In units of the contribution: thresholds of encoders are on codes, whose scale is a convention.
    rows = unit(d.W_dec.to(torch.promote_types(d.dtype, torch.float32)))
    layer = Relu(rows.T.contiguous(), rows, rows.new_zeros(len(rows)), d.b_dec.to(rows))
    return layer.with_encoder(encoder, ValidationSamples(samples))


def _supports(d: Dictionary, acts: Float[Tensor, "rows d_in"]) -> Iterator[tuple[slice, Bool[Tensor, "n n_latents"]]]:
    """Which latents are active, for a few samples at a time."""
    for begin in range(0, len(acts), _ROWS_AT_ONCE):
        piece = slice(begin, min(begin + _ROWS_AT_ONCE, len(acts)))
        with torch.no_grad():
            yield piece, d.encode(acts[piece].to(d.W_dec)) != 0


def _with_truth(
    case: Case, fires: Bool[Tensor, "rows n_latents"], codes: Float[Tensor, "rows n_features"]
) -> Float[Tensor, " rows"]:
    """The index of the firing latents and the active features, each sample's; NaN where no feature is represented."""
    feature, latent = case.matching.feature, case.matching.latent
    active, has = codes[:, feature] > 0, latent >= 0
    hits = (active[:, has] & fires[:, latent[has]]).sum(1)
    index = _ratio(hits, fires.sum(1) + active.sum(1))
    return index if len(feature) else torch.full_like(index, torch.nan)


def jaccard(a: Bool[Tensor, "rows n"], b: Bool[Tensor, "rows n"]) -> Float[Tensor, " rows"]:
    """``|a & b| / |a | b|`` of each row; 1 where both are empty."""
    return _ratio((a & b).sum(1), a.sum(1) + b.sum(1))


def _ratio(both: Tensor, total: Tensor) -> Float[Tensor, " rows"]:
    """The size of an intersection over that of the union, from the sum of the two sizes; 1 where that is 0."""
    return torch.where(total > 0, both / (total - both).clamp_min(1), 1.0)
