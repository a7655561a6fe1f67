"""What a step needs of the machine that works on it."""

from __future__ import annotations

from pipelines.steps.step import Step

_NEEDS_GPU = {
    "model": True,
    "generate": False,
    "stream": True,
    "train": True,
    "refine": True,
    "encode": True,
    "score": False,
    "examples": False,
    "probe": False,
    "report": False,
    "bench": False,
}
"""By stage: whether it trains, or runs a model or an iterative encoder over many samples."""


def needs_gpu(step: Step) -> bool:
    """Whether a step is to be given a GPU: it trains a dictionary or runs a model. Toys are generated and all
    dictionaries on them are scored on a CPU; what reads the activations of a model may have to run it again."""
    if "method" in step.config:  # classical methods
        return False
    reads_model = step.stage != "report" and step.stage != "bench" and _reads_model(step)
    return _NEEDS_GPU[step.stage] or reads_model


def _reads_model(step: Step) -> bool:
    return step.stage in ("model", "stream") or any(_reads_model(source) for source in step.inputs.values())
