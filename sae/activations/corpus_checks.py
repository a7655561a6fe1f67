"""Refusals of texts that are too short for their splits."""

from __future__ import annotations

from collections.abc import Mapping

from sae.activations.text import Text
from sae.activations.tokeniser import SPLITS
from sae.registry import UserError

_Counts = Mapping[str, Mapping[str, int]]


def check_documents(splits: _Counts, text: Text) -> None:
    """Raises `UserError` if a split has no document."""
    n = sum(splits[split]["documents"] for split in SPLITS)
    empty = next((split for split in SPLITS if not splits[split]["documents"]), None)
    if empty is None:
        return
    remedy, is_cut = "give more documents", text.is_running_text
    if is_cut and not text.separator:
        remedy = f'set source.separator to the string between its documents ("\\n" for one a line), or {remedy}'
    elif is_cut and text.separator and n == 1:
        quotes = r"; in TOML \n is a line end between double quotes alone" if "\\" in text.separator else ""
        raise UserError(
            f"source.separator = {text.separator!r}: it does not occur in {text.name} between documents; correct "
            f"it, or leave it out to cut the text at blank lines{quotes}"
        )
    found = "one document was" if n == 1 else f"{n} documents were"
    raise UserError(
        f"source.text = {text.name!r}: {found} found, and a document is in one split, so none is in the split "
        f"{empty!r}; {remedy}"
    )


def check_tokens(splits: _Counts, least: Mapping[str, int | None]) -> None:
    """Raises `UserError` if a split has fewer tokens than `least` says, or none."""
    for split, n in least.items():
        if splits[split]["tokens"] < (n or 1):
            field = "n_tokens" if split == "train" else "n_heldout_tokens"
            remedy = "set exhausted = 'repeat'" if split == "train" and n else "change heldout_share"
            lower = f", lower {field}" if n else ""
            raise UserError(
                f"source.{field}: the text has {splits[split]['tokens']} tokens for the split {split!r}, fewer "
                f"than {n or 1}; give more text{lower} or {remedy}"
            )
