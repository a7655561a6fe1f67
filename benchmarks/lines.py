"""What the programs print: one JSON object a line on stdout for machines, notes on stderr for people."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cyclopts
import torch

Line = dict[str, Any]


def emit(benchmark: str, line: Mapping[str, Any], device: str = "cpu") -> Line:
    """Prints one measured line, with what it was measured on, and returns it."""
    full = {"benchmark": benchmark, **line, "machine": machine(device), "torch": torch.__version__}
    print(json.dumps({k: _short(v) for k, v in full.items()}), flush=True)
    return full


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(program: Callable[..., object]) -> None:
    """Runs a program with its options from the command line; what it returns is for callers, not for the screen."""
    cyclopts.App(default_command=program, help_format="plaintext", result_action="return_none")()


def read(files: Iterable[Path]) -> list[Line]:
    """The lines of result files; what is not a JSON object (an empty line) is passed over."""
    lines = [text for file in files for text in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(text) for text in lines if text.startswith("{")]


def machine(device: str) -> str:
    """The name of the processor that did the work."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _short(value: Any) -> Any:
    """Six digits are more than any clock here is good for."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
