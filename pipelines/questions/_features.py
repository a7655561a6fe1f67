"""Features of a source's rows that are known, with what there is to read them off."""

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
    """Which rows have the feature, their activations and, where there is a dictionary, their codes; `groups` says
    which test rows are of one document."""

    name: str
    known: Halves
    neurons: Halves
    latents: Halves | None
    groups: Tensor

    @property
    def frequency(self) -> float:
        return float(self.known.test.float().mean())


def features_of(
    asked: QuestionContext, names: tuple[str, ...], most: int, min_count: int, max_rows: int
) -> list[Feature]:
    """The features named, or `most` of those with `min_count` rows of either class in both halves, the most frequent
    first. A ``ValueError`` of one line where one is not known of the rows."""
    limits = TaskSettings(max_rows=max_rows, min_count=min_count, n_tasks=most)
    choose, test = asked.examples(limits)
    for name in names:
        if name not in choose.labels:
            raise UserError(f"ask.features: {unknown(name, choose.labels, 'feature of the rows')}")
    device = asked.runtime.device
    neurons = Halves(choose.acts.to(device), test.acts.to(device))
    latents = None if asked.dictionary is None else Halves(*(encode(asked.needed(), half) for half in neurons))
    return [
        Feature(name, Halves(*(part.labels[name].to(device) > 0 for part in (choose, test))), neurons, latents,
                test.groups)
        for name in names or _most_frequent(choose, most)
    ]  # fmt: skip


def _most_frequent(choose: ProbeExamples, most: int) -> list[str]:
    count = {name: int((label > 0).sum()) for name, label in choose.labels.items()}
    return sorted(count, key=lambda name: -count[name])[:most]
