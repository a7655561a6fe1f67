"""Figure of a small language model: its loss on held-out text, next to those of n-gram models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.report.portraits._losses import loss_bars
from sae.source import MODEL
from sae.toys.language.saved import training_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(directory: Path) -> Iterator[tuple[str, str, str, Figure | None]]:
    """The figure of the model in a source's directory."""
    record = training_record(directory / MODEL)
    n, tokens, trained = record["heldout_tokens"], record["settings"]["model"]["n_ctx"], record["tokens"]["train"]
    caption = (
        f"Loss in nats per token on {n:,} held-out tokens ({record['bytes_per_token']:.2f} bytes each), the model's "
        f"with at least half of its {tokens} tokens before each, and in rows of so many, which begin with none. The "
        f"n-grams are Kneser-Ney models of the same {trained:,} training tokens."
    )
    yield "model-loss", "Loss of the model and of n-grams", caption, loss_bars(record["scores"], "token")
