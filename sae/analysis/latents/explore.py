"""Everything a dashboard shows of a dictionary, gathered in one pass over the source's held-out rows.

After the pass only what is shown is read again: the vectors around the examples. Memory: for every latent its counts,
a histogram and the strongest places (about 700 bytes), for each that is shown some 8 kB more and its windows, the pairs
that fire together (at most a few hundred megabytes), and the codes of one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from sae.activations.disk_source import Activations
from sae.analysis.latents.ablation import Ablation, ablate
from sae.analysis.latents.agreement import FeatureMatch, Matched, Telling, Told, of_labels
from sae.analysis.latents.cofiring import CoFiring, Partners
from sae.analysis.latents.contexts import Windows, windows
from sae.analysis.latents.examples import SILENT, Collected, LatentExamples
from sae.analysis.latents.firing import Fired, Tally
from sae.analysis.latents.reading import HeldOutVectors, held_out_vectors
from sae.analysis.latents.weights import Logits, Neighbours, encoder_cosine, in_stream, logits, neighbours
from sae.dictionary import Dictionary
from sae.model.hooked import Site, spliceable
from sae.numerics.seeds import generator
from sae.registry import Settings, UserError
from sae.source import Progress, Source

CODES_AT_ONCE = 2**24
"""Codes of a piece: 64 MB in float32."""
_MOST_FEATURES = 2**26
"""True features times latents that are counted against each other where no directions are known."""


class LatentsConfig(Settings):
    """How much is looked at and shown. `latents` are numbers of latents, or how many are drawn from all."""

    n_tokens: int = Field(400_000, gt=1)
    latents: int | tuple[int, ...] = 1000
    n_top: int = Field(20, gt=0)
    n_intervals: int = Field(5, ge=0)
    n_per_interval: int = Field(3, gt=0)
    n_silent: int = Field(3, ge=0)
    before: int = Field(32, ge=0)
    after: int = Field(16, ge=0)
    """Tokens that are shown around an example."""
    n_neighbours: int = Field(8, gt=0)
    n_logits: int = Field(10, gt=0)
    n_ablated: int = Field(8, ge=0)
    """Places at which each latent is taken out of the model; 0 for none."""
    seed: int = 0


@dataclass(frozen=True)
class Absent:
    """Something that cannot be told here, and why."""

    why: str


@dataclass(frozen=True, eq=False)
class Exploration:
    """What was found. Rows ``[n_shown, ...]`` belong to the latents of `shown`, all others to every latent."""

    settings: LatentsConfig
    shown: Int[Tensor, " n_shown"]
    reading: HeldOutVectors
    tally: Tally
    collected: Collected
    examples: LatentExamples
    windows: Windows
    encoder_cosine: Float[Tensor, " n_latents"]
    neighbours: Neighbours
    partners: Partners
    cofiring: CoFiring
    matched: Matched | None
    told: Told | None
    logits: Logits | Absent
    ablation: Ablation | Absent


def explore_latents(d: Dictionary, source: Source, settings: LatentsConfig, progress: Progress) -> Exploration:
    """Looks at every latent of a dictionary on a source's held-out rows. A ``ValueError`` of one line where the
    widths differ or a latent is asked for that there is not."""
    if d.d_in != source.d_in:
        raise UserError(f"the dictionary takes rows of width {d.d_in}, but the source has rows of width {source.d_in}")
    shown = _shown(settings, d.n_latents)
    at_once = max(256, min(8192, CODES_AT_ONCE // d.n_latents))
    reading = held_out_vectors(source, settings.n_tokens, at_once, settings.seed)
    survey = _Survey(d, source, settings, shown)
    survey.go_through(reading, progress)
    examples = survey.examples()
    found = windows(reading, d, shown, examples, settings.before, settings.after)
    seen = (examples.group != SILENT) | (found.own == 0)
    examples, found = _few_silent(examples, found, seen, settings.n_silent)
    where = _Where.of(source)
    return Exploration(
        settings,
        shown,
        reading,
        survey.tally,
        survey.collected,
        examples,
        found,
        encoder_cosine(d),
        neighbours(d, settings.n_neighbours),
        survey.cofiring.partners(shown, settings.n_neighbours),
        survey.cofiring,
        None if survey.match is None else survey.match.result(),
        of_labels(d, source) if survey.telling is None else survey.telling.result(),
        where.logits(d, shown, settings.n_logits),
        where.ablation(d, reading, survey, progress),
    )


def _shown(settings: LatentsConfig, n_latents: int) -> Int[Tensor, " n_shown"]:
    """The latents that are asked for, in order; so many drawn from all where there is only a number."""
    if isinstance(settings.latents, int):
        drawn = torch.randperm(n_latents, generator=generator("explore", "latents", settings.seed))
        return drawn[: settings.latents].sort().values
    beyond = [j for j in settings.latents if not 0 <= j < n_latents]
    if beyond:
        raise UserError(f"latents: there is no latent {beyond[0]}; the dictionary has 0 to {n_latents - 1}")
    return torch.tensor(sorted(set(settings.latents)), dtype=torch.int64)


def _few_silent(
    examples: LatentExamples, found: Windows, seen: Tensor, n_silent: int
) -> tuple[LatentExamples, Windows]:
    """Without examples of silence in which the latent turned out to be active, and no more of them than asked for."""
    silent = (examples.group == SILENT) & seen
    rank = silent.long().cumsum(0)
    first = torch.searchsorted(examples.latent.contiguous(), examples.latent)
    rank = rank - rank[first] + silent[first].long()
    kept = (seen & (~silent | (rank <= n_silent))).nonzero()[:, 0]
    return examples[kept], found[kept]


class _Survey:
    """The pass: what is counted of every piece."""

    def __init__(self, d: Dictionary, source: Source, settings: LatentsConfig, shown: Tensor) -> None:
        self.d, self.settings, self.shown = d, settings, shown
        self.tally, self.cofiring = Tally(d.n_latents), CoFiring(d.n_latents)
        self.collected = Collected(d.n_latents, shown, settings.n_top, 2 * settings.n_per_interval, settings.seed)
        known = source.truth is not None and not source.has_targets
        self.match = FeatureMatch(source.truth, d) if known and source.truth is not None else None
        self.telling: Telling | None = None

    def go_through(self, reading: HeldOutVectors, progress: Progress) -> None:
        for piece in reading.pieces():
            with torch.no_grad():
                z = self.d.encode(piece.acts)
            fired = Fired.of(z)
            self.collected.add(piece, fired, self.tally.add(fired, len(z)))
            self.cofiring.add(fired, len(z))
            if piece.codes is not None and self.match is not None:
                self.match.add(piece, z)
            elif piece.codes is not None and piece.codes.shape[1] * z.shape[1] <= _MOST_FEATURES:
                names = [f"feature {i}" for i in range(piece.codes.shape[1])]
                self.telling = self.telling or Telling(names, z.shape[1])
                self.telling.add(piece.half, z, piece.codes > 0)
            progress(self.tally.n_vectors, reading.n_vectors, "vectors")

    def examples(self) -> LatentExamples:
        s, c = self.settings, self.collected
        parts = [c.strongest(), *c.intervals(s.n_intervals, s.n_per_interval, self.tally.most, self.tally.histogram)]
        return LatentExamples.sorted([*parts, c.silent(2 * s.n_silent + 2 if s.n_silent else 0)])


@dataclass(frozen=True, eq=False)
class _Where:
    """Where in a model the dictionary writes, as far as there is a model."""

    site: Site | None
    hook: str
    why: str

    @classmethod
    def of(cls, source: Source) -> _Where:
        if not isinstance(source, Activations):
            return cls(None, "", "the source has no model")
        hook = source.config.target or source.config.hook
        site = source.model()
        return cls(site, hook, "" if site else f"an edit at {hook} would not reach the model's residual stream")

    def logits(self, d: Dictionary, shown: Tensor, n: int) -> Logits | Absent:
        if self.site is None:
            return Absent(self.why)
        if not in_stream(self.hook):
            return Absent(f"{self.hook} is not in the residual stream")
        return logits(d.W_dec[shown.to(d.W_dec.device)], self.site.model, n)

    def ablation(
        self, d: Dictionary, reading: HeldOutVectors, survey: _Survey, progress: Progress
    ) -> Ablation | Absent:
        s = survey.settings
        if self.site is None or not spliceable(self.hook):
            return Absent(self.why)
        if s.n_ablated == 0:
            return Absent("not asked for")
        places = survey.collected.drawn(s.n_ablated, survey.tally.histogram, 1000)
        return ablate(reading, self.site.model, self.hook, d, survey.shown, places, s.n_logits, progress)
