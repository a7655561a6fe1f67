"""Recovery of known features by every architecture, against the trainers of other libraries on the same batches.

    python -m benchmarks.architectures --suite independent
    python -m benchmarks.architectures --suite correlated

All have the same k, or the same target L0: ours by its L0 controller, the others by a search for the weight of the
penalty (`tried` in the results). Each of the others is run twice: with our learning rate and schedule (``common``), and
with its own learning rate, constant to the end (``own``); the tables show the better of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean, median, stdev
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from benchmarks.isolated import ProcessError, call, installed
from benchmarks.lines import Line, emit, failed, note, run
from benchmarks.recovery import SCORES
from benchmarks.trainers import Schedule, Setting, library_of

KINDS = ("relu", "gated", "jumprelu", "topk", "batchtopk", "matryoshka", "matching_pursuit")
OURS = "sae"
NAMES = (OURS, "saelens", "dictionary_learning")
COMPARED = ("fvu", "mcc", "f1")

SUITES: dict[str, dict[str, Any]] = {
    "independent": {
        "source": {"kind": "independent", "n_features": 64, "d_in": 32, "probability": 0.03},
        "n_latents": 128,
        "l0": 2,
    },
    "correlated": {"source": {"kind": "correlated", "n_features": 512, "d_in": 256}, "n_latents": 512, "l0": 5},
}
"""Data, width and L0. The mean number of active features per sample is 1.9 in the first and about 5 in the second."""


def architectures(
    *,
    suite: Literal["independent", "correlated"] = "independent",
    only: Annotated[Sequence[str] | None, Parameter(negative=())] = None,
    names: Annotated[Sequence[str] | None, Parameter(negative=())] = None,
    seeds: int = 3,
    steps: int = 2000,
    batch: int = 512,
    batches: int = 512,
    lr: float = 3e-3,
    rounds: int = 5,
    schedules: Annotated[Sequence[str], Parameter(negative=())] = ("common", "own"),
    threads: int = 1,
    train: Annotated[Sequence[str] | None, Parameter(name="--train", negative=())] = None,
) -> list[Line]:
    """Print a result for each architecture and library: means of the scores over seeds, with 95% intervals.

    Parameters
    ----------
    suite
        The data: 64 independent features in 32 dimensions, or 512 correlated ones in 256.
    only
        Architectures; all by default.
    names
        Libraries; all by default.
    seeds
        Runs of each, with different features, samples and initial values.
    steps
        Steps per run; the same for all.
    batch
        Samples per batch.
    batches
        Number of different batches, which repeat in the same order.
    lr
        Our learning rate, and that of all on the common schedule.
    rounds
        Most runs in the search for a weight.
    schedules
        Schedules of the other libraries: `common`, `own` or both.
    threads
        Threads per process.
    train
        KEY=VALUE for our training loop, or dictionary.KEY=VALUE for our dictionary; part of the result.
    """
    extra = dict(pair.split("=", 1) for pair in train or ())
    data = SUITES[suite]
    source, n = data["source"], data["n_latents"]
    levels = tuple(n // part for part in (16, 8, 4, 2, 1))
    shape = {"d_in": source["d_in"], "n_latents": n, "batch": batch}
    lines: list[Line] = []
    for kind in only or KINDS:
        ours: Line | None = None
        for name in (name for name in names or NAMES if _available(name, kind)):
            plans = {
                schedule: asdict(Schedule(steps, lr if schedule == "common" else None))
                for schedule in (("common",) if name == OURS else schedules)
            }
            train_settings = extra if name == OURS else {}
            arguments = {
                "library": name,
                "kind": kind,
                "source": source,
                "setting": asdict(Setting(**shape, l0=data["l0"], levels=levels, extra=train_settings)),
                "schedules": plans,
                "seeds": list(range(seeds)),
                "n_batches": batches,
                "rounds": rounds,
            }
            try:
                by_schedule = call("benchmarks.recovery:measure", arguments, threads)
            except ProcessError as error:
                failed(f"{name}-{kind}: {error}")
                continue
            for schedule, result in by_schedule.items():
                line: Line = {"name": name, "kind": kind, "suite": suite, "schedule": schedule, **shape}
                line |= {"l0_wanted": data["l0"], "n_features": source["n_features"], "samples": steps * batch}
                line |= {"lr": plans[schedule]["lr"], "threads": threads, "seeds": seeds, **_summary(result, ours)}
                line |= {"train": train_settings} if train_settings else {}
                lines.append(emit("architectures", line))
                ours = line if name == OURS else ours
    return lines


def _summary(result: Mapping[str, Any], ours: Line | None) -> Line:
    """Mean and half width of the interval of every score and of the paired differences, ours minus theirs."""
    runs: list[dict[str, float]] = result["runs"]
    line: Line = {"seconds": median(run["seconds"] for run in runs), "weight": result["weight"]}
    for name in SCORES:
        line[name], line[f"{name}_within"] = interval([run[name] for run in runs])
    line["tried"] = [[float(f"{w:.4g}"), round(l0, 3)] for w, l0 in result["tried"]]
    line["runs"] = {name: [round(run[name], 5) for run in runs] for name in COMPARED}
    if ours is not None:
        for name in COMPARED:
            differences = [a - b for a, b in zip(ours["runs"][name], line["runs"][name], strict=True)]
            line[f"{name}_ahead"], line[f"{name}_ahead_within"] = interval(differences)
    return line


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95% interval by Student's t; None for a single value."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return mean(values), None
    return mean(values), float(t.ppf(0.975, n - 1)) * stdev(values) / n**0.5


def _available(name: str, kind: str) -> bool:
    """Whether a library has an architecture and is installed; prints a note if it is not installed."""
    library = library_of(name)
    if kind not in library.ARCHITECTURES:
        return False
    module = library.REQUIRES.format(kind=kind)
    if not installed(module):
        note(f"{name}-{kind}: skipped, {module} is not installed")
        return False
    return True


if __name__ == "__main__":
    run(architectures)
