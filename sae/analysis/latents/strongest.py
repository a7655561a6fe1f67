"""Where a latent is most active: its strongest examples with the text around them, as text and in a notebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.activations.disk_source import Activations
from sae.analysis.latents.contexts import Windows, windows
from sae.analysis.latents.examples import Collected
from sae.analysis.latents.explore import CODES_AT_ONCE
from sae.analysis.latents.firing import Fired
from sae.analysis.latents.given_text import GivenTextVectors, hook_of, tokenizer_for
from sae.analysis.latents.reading import HeldOutVectors, held_out_vectors
from sae.analysis.latents.words import Words, vocabulary, words_of
from sae.dictionary import Dictionary, check_one_dictionary
from sae.model.hooked import Model
from sae.numerics.arrays import integer_of
from sae.numerics.progress_line import ProgressLine
from sae.registry import UserError
from sae.source import Source, as_source


@dataclass(frozen=True, eq=False)
class StrongestExamples:
    """The samples in which a latent is most active, the strongest first.

    In a text, no two are closer than 32 tokens. ``print`` shows them as text, a notebook with tokens shaded by
    activation.
    """

    latent: int
    """The latent."""
    value: Float[Tensor, " examples"]
    """Its activation in each example."""
    row: Int[Tensor, " examples"]
    """The number of the row of tokens, or of the sample, among those that were read."""
    position: Int[Tensor, " examples"]
    """The position in the row; 0 without text."""
    rate: float
    """The share of the samples that were read in which the latent is active."""
    n_samples: int
    """The number of samples that were read."""
    windows: Windows = field(repr=False)
    """Tokens and activations around each example ``[examples, width]``; the most active true features where known."""
    words: Words = field(repr=False)
    """From a token id to its text."""

    def __len__(self) -> int:
        return len(self.value)

    @property
    def text(self) -> list[str]:
        """The text around each example, which is in ``«»``; the true features of a sample without text."""
        return [
            "".join(f"«{word}»" if at == self.windows.before else word for at, word, _ in self._tokens(k))
            or self._features(k)
            for k in range(len(self))
        ]

    def _tokens(self, k: int) -> list[tuple[int, str, float]]:
        """Place, text and activation of each token of a window."""
        w = self.windows
        columns = enumerate(zip(w.token[k].tolist(), w.value[k].tolist(), strict=True))
        return [(at, self.words(token), value) for at, (token, value) in columns if token >= 0]

    def _features(self, k: int) -> str:
        w = self.windows
        if w.feature is None or w.coefficient is None:
            return ""
        pairs = zip(w.feature[k].tolist(), w.coefficient[k].tolist(), strict=True)
        return ", ".join(f"feature {i}: {c:.3g}" for i, c in pairs if c > 0)

    @property
    def _summary(self) -> str:
        return f"latent {self.latent}: active in {self.rate:.3%} of {self.n_samples:,} samples"

    def __str__(self) -> str:
        rows = zip(self.value.tolist(), self.row.tolist(), self.text, strict=True)
        return "\n".join([self._summary, *(f"{value:9.4g}  row {row}  {text}" for value, row, text in rows)])

    def _repr_html_(self) -> str:
        most = max(self.value.tolist(), default=1.0)
        lines: list[str] = []
        for k, (value, row) in enumerate(zip(self.value.tolist(), self.row.tolist(), strict=True)):
            shown = "".join(self._shaded(*token, most) for token in self._tokens(k)) or escape(self._features(k))
            place = f"row {row}, position {int(self.position[k])}"
            cell = f'<td style="text-align: left; white-space: pre-wrap">{shown}</td>'
            lines.append(f'<tr><td title="{place}">{value:.4g}</td>{cell}</tr>')
        return f"<p>{escape(self._summary)}</p><table>{''.join(lines)}</table>"

    def _shaded(self, at: int, word: str, value: float, most: float) -> str:
        if math.isnan(value):
            return f'<span style="opacity: 0.5" title="not part of the activations">{escape(word)}</span>'
        mark = "; font-weight: bold" if at == self.windows.before else ""
        if not value > 0 and not mark:
            return escape(word)
        shade = min(1.0, max(0.0, value / most))
        return (
            f'<span style="background: rgba(255, 140, 0, {shade:.2f}){mark}" title="{value:.4g}">{escape(word)}</span>'
        )


def top_examples(
    model_or_source: Any,
    d: Dictionary,
    latent: int,
    n: int = 10,
    *,
    texts: str | Sequence[str] | None = None,
    hook: str | None = None,
    n_samples: int = 400_000,
    before: int = 16,
    after: int = 8,
    progress: bool | None = None,
) -> StrongestExamples:
    """The `n` samples in which a latent of a dictionary is most active, with the text around them.

    `model_or_source` is a source, a matrix of raw activations ``[rows, d_in]``, or a model (a
    :class:`sae.model.hooked.Model`, a TransformerLens Bridge, or its name) with `texts` to run it on. Of a source and a
    matrix, at most `n_samples` of the held-out samples are read. `hook` is the model's hook point; the one on the
    dictionary's card where None. `before` and `after` are the numbers of tokens that are kept around an example.

    Fewer than `n` are returned where the latent is active in fewer. `progress` shows a line on stderr; None: only where
    that is a terminal. Raises `UserError` for what does not fit together.
    """
    check_one_dictionary(d)
    latent, n = integer_of("latent", latent), integer_of("n", n)
    for name, number, least in (("n", n, 1), ("n_samples", n_samples, 2), ("before", before, 0), ("after", after, 0)):
        if number < least:
            raise UserError(f"{name} = {number}: give at least {least}")
    if not 0 <= latent < d.n_latents:
        raise UserError(f"latent = {latent}: there is no such latent; give a number from 0 to {d.n_latents - 1}")
    with torch.no_grad():
        part, column = _one_latent(d, latent)
        reading, words, part = _vectors(model_or_source, part, texts, hook, n_samples)
        shown = torch.tensor([column])
        collected, n_active, n_read = Collected(1, torch.tensor([0]), n, 1, 0), 0, 0
        with ProgressLine("top_examples", progress) as line:
            for piece in reading.pieces():
                fired = Fired.of(part.encode(piece.acts)[:, column : column + 1])
                collected.add_strongest(piece, fired)
                n_active, n_read = n_active + len(fired.value), n_read + len(piece.row)
                line(n_read, max(n_read, reading.n_vectors), "samples")
        examples = collected.strongest()
        around = windows(reading, part, shown, examples, before, after)
    rate = n_active / max(1, n_read)
    return StrongestExamples(latent, examples.value, examples.row, examples.position, rate, n_read, around, words)


def _one_latent(d: Dictionary, latent: int) -> tuple[Dictionary, int]:
    """A dictionary that computes the code of a latent with the least work, and the latent's number in it."""
    try:
        return d[[latent]], 0
    except UserError:  # its code depends on the others
        return d, latent


def _vectors(
    given: Any, d: Dictionary, texts: str | Sequence[str] | None, hook: str | None, n_samples: int
) -> tuple[HeldOutVectors, Words, Dictionary]:
    """The samples to read, the text of their tokens, and the dictionary where the samples are."""
    if isinstance(given, str | Model) or hasattr(given, "hook_dict"):
        if texts is None:
            raise UserError("texts is missing: give the texts to run the model on, or a source in place of the model")
        hook, tokenizer = hook_of(d, hook), tokenizer_for(given)
        model = Model.boot(given, str(d.device)) if isinstance(given, str) else Model.of(given)
        return GivenTextVectors(model, tokenizer, texts, d, hook), words_of(tokenizer), d
    if texts is not None or hook is not None:
        name = "texts" if texts is not None else "hook"
        raise UserError(f"{name}: only with a model; a source has its own")
    source: Source = as_source(given, d.d_in)
    at_once = max(256, min(8192, CODES_AT_ONCE // d.n_latents))
    where = d.to(source.device) if isinstance(source, Activations) else d
    return held_out_vectors(source, n_samples, at_once), vocabulary(source), where
