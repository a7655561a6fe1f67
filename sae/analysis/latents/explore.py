"""Everything that a dashboard shows of a dictionary, collected in one pass over the source's held-out samples.

After the pass, only the vectors around the shown examples are read again. Memory: counts, a histogram and the strongest
activations of every latent (about 700 bytes each), some 8 kB more and the windows for each shown latent, the counts of
co-firing pairs (at most a few hundred megabytes), and the codes of one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from sae.activations.disk_source import Activations
from sae.activations.streamed_config import NOT_NEXT_TOKEN
from sae.analysis.latents.ablation import Ablation, ablate
from sae.analysis.latents.agreement import BestProperty, FeatureMatch, MatchedFeatures, PropertyCounts, best_labels
from sae.analysis.latents.cofiring import CoFiring, Partners
from sae.analysis.latents.contexts import Windows, windows
from sae.analysis.latents.examples import SILENT, Collected, LatentExamples
from sae.analysis.latents.firing import Fired, Tally
from sae.analysis.latents.logit_effects import logit_effects
from sae.analysis.latents.reading import HeldOutVectors, held_out_vectors
from sae.analysis.latents.weights import Logits, Neighbours, encoder_cosine, in_stream, neighbours
from sae.dictionary import Dictionary
from sae.model.hooked import Model
from sae.model.site import Site
from sae.numerics.seeds import generator
from sae.registry import Settings, UserError
from sae.source import Progress, Source

CODES_AT_ONCE = 2**24
"""The most codes of a piece: 64 MB in float32."""
_MOST_FEATURES = 2**26
"""The most true features times latents that are counted if the features' directions are not known."""


class LatentsConfig(Settings):
    """What is analysed and shown of a dictionary's latents."""

    n_tokens: int = Field(400_000, gt=1)
    """The number of held-out samples in the pass, half of them from the validation split."""
    latents: int | tuple[int, ...] = 1000
    """The numbers of the shown latents, or how many are drawn at random."""
    n_top: int = Field(20, gt=0)
    """The number of strongest examples of each latent."""
    n_intervals: int = Field(5, ge=0)
    """The number of activation intervals from which examples are drawn."""
    n_per_interval: int = Field(3, gt=0)
    """The number of examples from each interval."""
    n_silent: int = Field(3, ge=0)
    """The number of examples in which the latent is not active."""
    before: int = Field(32, ge=0)
    """The number of tokens shown before an example."""
    after: int = Field(16, ge=0)
    """The number of tokens shown after an example."""
    n_neighbours: int = Field(8, gt=0)
    """The number of neighbouring decoder rows and of co-firing latents."""
    n_logits: int = Field(10, gt=0)
    """The number of tokens with the largest effects, in either direction."""
    n_ablated: int = Field(8, ge=0)
    """The number of positions at which each latent is ablated in the model; 0 for none."""
    seed: int = 0
    """The seed of all random choices."""


@dataclass(frozen=True)
class Absent:
    """Stands for a result that is not available."""

    why: str
    """The reason, for the page."""


@dataclass(frozen=True, eq=False)
class Exploration:
    """Results for a dictionary. Arrays ``[n_shown, ...]`` are in the order of `shown`; all others cover all latents."""

    settings: LatentsConfig
    """The settings."""
    shown: Int[Tensor, " n_shown"]
    """The numbers of the shown latents, ascending."""
    reading: HeldOutVectors
    """The held-out samples."""
    tally: Tally
    """Firing counts and histograms."""
    collected: Collected
    """Candidates for examples."""
    examples: LatentExamples
    """The shown examples."""
    windows: Windows
    """The windows around the examples."""
    encoder_cosine: Float[Tensor, " n_latents"]
    """The cosine between the encoder column and the decoder row of each latent."""
    neighbours: Neighbours
    """Nearest and farthest decoder rows."""
    partners: Partners
    """Latents that fire with each shown latent."""
    cofiring: CoFiring
    """The counts behind `partners`."""
    matched: MatchedFeatures | None
    """The true feature of each latent; None if the features are not known."""
    properties: BestProperty | None
    """The property that each latent predicts best; None if the source has no labels."""
    logits: Logits | Absent
    """Direct effects on the logits."""
    ablation: Ablation | Absent
    """Effects of ablations on the model's predictions."""


def explore_latents(d: Dictionary, source: Source, settings: LatentsConfig, progress: Progress) -> Exploration:
    """Analyses the latents of a dictionary on a source's held-out samples.

    Raises `UserError` if the widths differ, or if `settings.latents` names a latent that does not exist.
    """
    if d.d_in != source.d_in:
        raise UserError(
            f"the dictionary takes activations of width {d.d_in}, but the source has width {source.d_in}; "
            "give the source that it was trained on"
        )
    shown = shown_latents(settings, d.n_latents)
    at_once = max(256, min(8192, CODES_AT_ONCE // d.n_latents))
    reading = held_out_vectors(source, settings.n_tokens, at_once, settings.seed)
    survey = _Survey(d, source, settings, shown)
    survey.run(reading, progress)
    examples = survey.examples()
    around = windows(reading, d, shown, examples, settings.before, settings.after)
    valid = (examples.group != SILENT) | (around.at_example == 0)
    examples, around = _few_silent(examples, around, valid, settings.n_silent)
    target = _WritePoint.of(source)
    return Exploration(
        settings,
        shown,
        reading,
        survey.tally,
        survey.collected,
        examples,
        around,
        encoder_cosine(d),
        neighbours(d, settings.n_neighbours),
        survey.cofiring.partners(shown, settings.n_neighbours),
        survey.cofiring,
        None if survey.match is None else survey.match.result(),
        best_labels(d, source) if survey.properties is None else survey.properties.result(),
        target.logits(d, shown, settings.n_logits, progress),
        target.ablation(d, reading, survey, progress),
    )


def shown_latents(settings: LatentsConfig, n_latents: int) -> Int[Tensor, " n_shown"]:
    """The requested latents in ascending order; a random sample if settings give only their number."""
    if isinstance(settings.latents, int):
        drawn = torch.randperm(n_latents, generator=generator("explore", "latents", settings.seed))
        return drawn[: settings.latents].sort().values
    beyond = [j for j in settings.latents if not 0 <= j < n_latents]
    if beyond:
        raise UserError(f"latents: there is no latent {beyond[0]}; give numbers from 0 to {n_latents - 1}")
    return torch.tensor(sorted(set(settings.latents)), dtype=torch.int64)


def _few_silent(
    examples: LatentExamples, around: Windows, valid: Tensor, n_silent: int
) -> tuple[LatentExamples, Windows]:
    """The valid examples, at most `n_silent` of them without activation for each latent."""
    silent = (examples.group == SILENT) & valid
    rank = silent.long().cumsum(0)
    first = torch.searchsorted(examples.latent.contiguous(), examples.latent)
    rank = rank - rank[first] + silent[first].long()
    kept = (valid & (~silent | (rank <= n_silent))).nonzero()[:, 0]
    return examples[kept], around[kept]


class _Survey:
    """The pass over the held-out samples, with everything that is counted."""

    def __init__(self, d: Dictionary, source: Source, settings: LatentsConfig, shown: Tensor) -> None:
        self.d, self.settings, self.shown = d, settings, shown
        self.tally, self.cofiring = Tally(d.n_latents), CoFiring(d.n_latents)
        self.collected = Collected(d.n_latents, shown, settings.n_top, 2 * settings.n_per_interval, settings.seed)
        known = source.truth is not None and not source.has_targets
        self.match = FeatureMatch(source.truth, d) if known and source.truth is not None else None
        self.properties: PropertyCounts | None = None

    def run(self, reading: HeldOutVectors, progress: Progress) -> None:
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
                self.properties = self.properties or PropertyCounts(names, z.shape[1])
                self.properties.add(piece.half, z, piece.codes > 0)
            progress(self.tally.n_vectors, reading.n_vectors, "vectors")

    def examples(self) -> LatentExamples:
        s, c = self.settings, self.collected
        parts = [c.strongest(), *c.intervals(s.n_intervals, s.n_per_interval, self.tally.most, self.tally.histogram)]
        return LatentExamples.sorted([*parts, c.silent(2 * s.n_silent + 2 if s.n_silent else 0)])


@dataclass(frozen=True, eq=False)
class _WritePoint:
    """The point of a model at which the dictionary writes, if the source has a model."""

    site: Site | None
    hook: str
    why: str
    """The reason if there is no `site`."""

    @classmethod
    def of(cls, source: Source) -> _WritePoint:
        if not isinstance(source, Activations):
            return cls(None, "", "the source has no model")
        hook = source.config.target or source.config.hook
        return cls(source.model(), hook, source.no_model or "")

    def _model(self, obstacle: str) -> Model | Absent:
        """The model, or why nothing is measured on it: there is none, the `obstacle`, or its logits predict nothing. It
        is loaded only if nothing else stands in the way."""
        if self.site is None:
            return Absent(self.why)
        if obstacle:
            return Absent(obstacle)
        reason = self.site.model.no_logits
        return self.site.model if reason is None else Absent(f"{NOT_NEXT_TOKEN}: {reason}")

    def logits(self, d: Dictionary, shown: Tensor, n: int, progress: Progress) -> Logits | Absent:
        model = self._model("" if in_stream(self.hook) else f"{self.hook} is not in the residual stream")
        if isinstance(model, Absent):
            return model
        assert self.site is not None
        rows = d.W_dec[shown.to(d.W_dec.device)]
        effects = logit_effects(rows, model, self.hook, self.site.text, n, progress)
        return Absent(effects) if isinstance(effects, str) else effects

    def ablation(
        self, d: Dictionary, reading: HeldOutVectors, survey: _Survey, progress: Progress
    ) -> Ablation | Absent:
        s = survey.settings
        model = self._model("n_ablated is 0" if s.n_ablated == 0 else "")
        if isinstance(model, Absent):
            return model
        places = survey.collected.sample(s.n_ablated, survey.tally.histogram, 1000)
        return ablate(reading, model, self.hook, d, survey.shown, places, s.n_logits, progress)
