"""The demo on the device against the CPU: scores of every row within the interval over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae.numerics.statistics import mean_interval

SCORES = ("mcc", "fvu", "l0")


SMALL: Mapping[str, Any] = {
    "train.steps": 60,
    "dictionary.n_latents": 64,
    "dictionary.l1": [1.0, 2.0],
    "baselines.kinds": ["random", "pca", "oracle"],
    "score.n_rows": 4000,
    "score.metrics": ["reconstruction", "recovery"],
}
"""Settings of the demo for a rehearsal."""
SETTING = ("method", "encoder", "n_latents", "l1")
FLOOR = 1e-3
"""Differences below this share of a score count as rounding, where all seeds agree."""


def demo(device: str, small: bool, folder: str) -> dict[str, Any]:
    """The largest difference between the means of a row on both devices, in half-widths of its 95% interval over seeds
    on the CPU; `ok` is whether none is above 1. Steps that a former call finished are not done again."""
    import sae

    sizes = SMALL if small else {}
    tables: list[dict[tuple[Any, ...], dict[str, list[float]]]] = []
    for name in ("cpu", device):
        out = Path(folder) / f"demo-{name.replace(':', '-')}"
        tables.append(by_setting(sae.run("demo", set={**sizes, "runtime.device": name}, out=out).scores))
    return compared(*tables)


def by_setting(scores: Any) -> dict[tuple[Any, ...], dict[str, list[float]]]:
    """The scores of each row of the report, over its seeds, from a run's table of dictionaries."""
    found: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for _, row in scores.iterrows():
        rows = found.setdefault(tuple(str(row[name]) for name in SETTING), {score: [] for score in SCORES})
        for score in SCORES:
            rows[score].append(float(row[score]))
    return found


def compared(cpu: dict[tuple[Any, ...], Any], there: dict[tuple[Any, ...], Any]) -> dict[str, Any]:
    """The largest difference of each score, plain and in half-widths."""
    assert list(cpu) == list(there), "the tables have other rows"
    figures: dict[str, Any] = {"rows": len(cpu)}
    worst = 0.0
    for score in SCORES:
        most, ratio = 0.0, 0.0
        for setting, values in cpu.items():
            expected = mean_interval(values[score])
            difference = abs(mean_interval(there[setting][score]).mean - expected.mean)
            if math.isnan(difference):  # undefined on both, such as the fvu of nothing active
                assert math.isnan(expected.mean) and all(map(math.isnan, there[setting][score]))
                continue
            half = 0.0 if math.isnan(expected.half) else expected.half
            allowed = max(half, FLOOR * max(abs(expected.mean), FLOOR))
            most, ratio = max(most, difference), max(ratio, difference / allowed)
        figures |= {f"{score}_difference": most, f"{score}_in_half_widths": ratio}
        worst = max(worst, ratio)
    return {**figures, "ok": worst <= 1}
