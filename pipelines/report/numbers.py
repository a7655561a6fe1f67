"""Numbers as text, for sentences and tables."""

from __future__ import annotations

import math

from sae.numerics.statistics import Estimate

MINUS, UNDEFINED = "−", "–"  # noqa: RUF001


def decimals(x: float) -> int:
    """Number of decimals for three significant digits; three for values between 0 and 1."""
    size = abs(x)
    return 3 if size < 1.0005 else 2 if size < 10 else 1 if size < 100 else 0


def number(x: float) -> str:
    """A number with three significant digits and at most three decimals; a dash for NaN."""
    if not math.isfinite(x):
        return UNDEFINED if math.isnan(x) else "∞"
    return f"{x:.3g}" if abs(x) >= 1e5 else f"{x:.{decimals(x)}f}"


def with_interval(e: Estimate) -> str:
    """``0.912 ± 0.004``; the mean alone if there is no interval."""
    if not math.isfinite(e.half):
        return number(e.mean)
    return f"{number(e.mean)} ± {e.half:.{decimals(e.mean)}f}"
