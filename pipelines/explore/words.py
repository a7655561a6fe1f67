"""Numbers as text on a page."""

from __future__ import annotations

import json
import math
from typing import Any

from pipelines.report.numbers import MINUS, number


def percent(share: float) -> str:
    """A share in per cent with two significant digits."""
    if not math.isfinite(share):
        return number(share)
    if share == 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(abs(share) * 100) + 1e-9))
    return f"{share * 100:.{min(digits, 6)}f}%".replace("-", MINUS)


def plain(x: float) -> str:
    """A number; a dash for NaN."""
    return number(x).replace("-", MINUS)


def signed(x: float) -> str:
    """A number with its sign; a dash for NaN."""
    return f"{'+' if x > 0 else ''}{plain(x)}"


def script(value: Any) -> str:
    """JSON that is safe in a script, inline or in a file: ASCII without ``<``, ``>`` and ``&``."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def rounded(x: float) -> float | None:
    """A number with four significant digits; None if it is not finite."""
    return float(f"{x:.4g}") if math.isfinite(x) else None
