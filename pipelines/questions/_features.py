"""Known features of a source's samples, with activations and codes to predict them from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipelines.question import QuestionContext
from sae.analysis.units.one_feature import Halves
from sae.metric import encode
from sae.probing import ProbeExamples, TaskSettings
from sae.registry import UserError, unknown


@dataclass(frozen=True, eq=False)
class Feature:
    """A known feature with the activations and codes of the same samples."""

    name: str
    """Name of the feature."""
    known: Halves
    """Whether each sample has the feature."""
    neurons: Halves
    """Activations of the samples."""
    latents: Halves | None
    """Codes of the samples; None without a dictionary."""
    groups: Tensor
    """The document of each test sample."""

    @property
    def frequency(self) -> float:
        """Share of test samples that have the feature."""
        return float(self.known.test.float().mean())


def features_of(
    context: QuestionContext, names: tuple[str, ...], most: int, min_count: int, max_rows: int
) -> list[Feature]:
    """The features in `names`; if there are none, the `most` most frequent ones with at least `min_count` samples of
    either class in both splits. Raises `UserError` for a name that the source does not have."""
    limits = TaskSettings(max_rows=max_rows, min_count=min_count, n_tasks=most)
    choose, test = context.examples(limits)
    for name in names:
        if name not in choose.labels:
            raise UserError(f"ask.features: {unknown(name, choose.labels, 'feature of the rows')}")
    device = context.runtime.device
    neurons = Halves(choose.acts.to(device), test.acts.to(device))
    latents = (
        None
        if context.dictionary is None
        else Halves(*(encode(context.required_dictionary(), half) for half in neurons))
    )
    return [
        Feature(name, Halves(*(part.labels[name].to(device) > 0 for part in (choose, test))), neurons, latents,
                test.groups)
        for name in names or _most_frequent(choose, most)
    ]  # fmt: skip


def _most_frequent(choose: ProbeExamples, most: int) -> list[str]:
    count = {name: int((label > 0).sum()) for name, label in choose.labels.items()}
    return sorted(count, key=lambda name: -count[name])[:most]
