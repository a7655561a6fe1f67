"""Measurements for the tests of the session."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def works(number: int) -> dict[str, Any]:
    print("what libraries print goes elsewhere")
    return {"number": number}


def fails_until(flag: str) -> dict[str, Any]:
    if not Path(flag).exists():
        raise ValueError("not mended")
    return {}


def ends() -> dict[str, Any]:
    os._exit(7)


def wrong() -> dict[str, Any]:
    return {"ok": False}


def hangs() -> dict[str, Any]:
    time.sleep(60)
    return {}


def needs_a_package() -> dict[str, Any]:
    return {"skipped": "a package is not installed"}
