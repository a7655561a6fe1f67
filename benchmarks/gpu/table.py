"""The lines of `python -m benchmarks.gpu` as tables, one for each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.units import PARTS

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "device": {"float32_tflops": "float32 TFLOP/s", "tf32_tflops": "TF32", "bfloat16_tflops": "bfloat16",
               "fp8_tflops": "fp8", "within_gb_s": "copies within GB/s", "to_gb_s": "to it", "from_gb_s": "from it"},
    "cases": {"passed": "passed", "failed": "failed", "distance_float32": "distance, float32",
              "distance_screen": "distance, screen"},
    "demo": {"rows": "rows", "mcc_in_half_widths": "mcc, in half-widths", "fvu_in_half_widths": "fvu",
             "l0_in_half_widths": "l0"},
    "steps": {"l0": "l0", "step_ms": "ms per step", "samples_per_s": "samples/s", "of_tf32": "of the TF32 roofline",
              "of_bfloat16": "of the bfloat16 one", "peak_mb": "peak MB", "sparse_below": "sparse_below",
              "dense_above": "dense_above"},
    "stacks": {"step_ms": "ms per step of all", "samples_per_s": "samples/s", "fraction": "of the batched roofline"},
    "models": {"tokens_per_s": "tokens/s", "ratio": "times a bare hook", "ratio_of_three": "three hook points",
               "stream_rows_per_s": "streamed samples/s", "of_disk": "of stored ones", "of_model": "of the model alone",
               "waiting": "waiting", "peak_gb": "peak GB"},
    "sources": {"rows_per_s": "samples/s", "fraction": "of the TF32 roofline"},
    "suite": {"dictionaries": "dictionaries", "scores": "scores", "all_done": "all done"},
}  # fmt: skip
"""The figures of each part that its table shows, with their headings; columns that no line has are left out."""


def gpu(lines: Sequence[Mapping[str, Any]]) -> str:
    """A table for each part and machine; of several lines for a unit, the last one counts, failures are shown."""
    parts: list[str] = []
    for machine in dict.fromkeys(line["machine"] for line in lines):
        newest = {(line["part"], line["unit"]): line for line in lines if line["machine"] == machine}
        for part in PARTS:
            rows = [line for (its, _), line in newest.items() if its == part]
            if rows:
                parts.append(f"**{part}** ({machine})\n\n{_table(part, rows)}")
    return "\n\n".join(parts)


def _table(part: str, rows: Sequence[Mapping[str, Any]]) -> str:
    shown = {key: title for key, title in COLUMNS[part].items() if any(key in row for row in rows)}
    lines = [["unit", *shown.values(), "result"], ["---"] * (len(shown) + 2)]
    lines += [[row["unit"], *(_text(row.get(key)) for key in shown), _result(row)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _result(row: Mapping[str, Any]) -> str:
    if row["ok"]:
        return f"skipped: {row['skipped']}" if row.get("skipped") else "ok"
    return f"**failed**: {row.get('error', 'beyond its tolerance')}".replace("|", "\\|")


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
