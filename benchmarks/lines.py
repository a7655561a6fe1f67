"""Output of the programs: one JSON object per line on stdout, notes on stderr."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cyclopts
import torch

from sae.registry import UserError

Line = dict[str, Any]


def emit(benchmark: str, line: Mapping[str, Any], device: str | None = "cpu") -> Line:
    """Prints one result as a JSON line, with the machine and the torch version, and returns it. What is computed has no
    `device`, and its line names no machine."""
    full = {"benchmark": benchmark, **line}
    if device is not None:
        full |= {"machine": machine(device), "torch": torch.__version__}
    print(json.dumps({k: _short(v) for k, v in full.items()}), flush=True)
    return full


def note(text: str) -> None:
    """Prints a line on stderr."""
    print(text, file=sys.stderr, flush=True)


_failures: list[str] = []


def failed(text: str) -> None:
    """Prints a line on stderr about a measurement that gave no result. The program goes on with the others, and
    :func:`run` exits with code 1 at its end."""
    note(text)
    _failures.append(text)


def run(program: Callable[..., object]) -> None:
    """Runs a program with its options from the command line. Exits with code 2 on a `UserError`, and with code 1 where
    a measurement failed, after the others."""
    app = cyclopts.App(default_command=program, help_format="plaintext", result_action="return_none")
    _failures.clear()
    try:
        app(sys.argv[1:])
    except UserError as error:
        note(f"error: {error}")
        raise SystemExit(2) from None
    if _failures:
        note("without a result: " + "; ".join(_failures))
        raise SystemExit(1)


def read(files: Iterable[Path]) -> list[Line]:
    """The results in files of JSON lines; other lines are skipped, one that was cut short with a note."""
    found: list[Line] = []
    for file in files:
        for number, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if not text.startswith("{"):
                continue
            try:
                found.append(json.loads(text))
            except ValueError:
                note(f"{file}: line {number} is no JSON, cut short by an interruption perhaps; it is skipped")
    return found


def machine(device: str) -> str:
    """The name of the CPU, or of the GPU for a CUDA device."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _short(value: Any) -> Any:
    """A float rounded to six significant digits, more than the timings are accurate to."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
