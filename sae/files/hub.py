"""Pushing a dictionary to the Hugging Face hub: its two files, and a README made from its card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae.dictionary import Dictionary, card_table
from sae.files.location import network_errors
from sae.files.native import save_native

LIBRARY = "superposition-sae"
TAGS = ("sparse-autoencoder", "interpretability", "dictionary-learning")
PAGE = """{front}
# {title}

A sparse dictionary of {n_latents} latents, of the kind `{kind}`, for activations of {d_in} dimensions{where}.

```python
import sae

d = sae.load("hf://{repo}")
z = d.encode(x)  # x [..., {d_in}] raw activations -> z [..., {n_latents}]
x_hat = d.reconstruct(x)
```

{facts}{scores}## Card

```json
{card}
```
"""


def push(d: Dictionary, repo: str, *, licence: str | None = None, private: bool = False) -> str:
    """Uploads a dictionary to a repository on the Hugging Face hub, created if needed, and returns its address.

    It uploads the native format with the card, and a ``README.md`` made from the card. Absolute local paths on the card
    are shortened to their last part. Raises `UserError` where the hub refuses the upload.
    """
    from huggingface_hub import HfApi

    card = _without_folders(d.card) | ({} if licence is None else {"licence": licence})
    d = replace(d, card=card)
    with tempfile.TemporaryDirectory(prefix="sae-") as folder, network_errors(f"hf://{repo}", "push to"):
        save_native(d, Path(folder))
        (Path(folder) / "README.md").write_text(page(d, repo), encoding="utf-8")
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"A {d.kind} dictionary")
    return f"hf://{repo}"


def page(d: Dictionary, repo: str) -> str:
    """The README of a dictionary: front matter for the hub, how to load it, and the content of its card."""
    from huggingface_hub import ModelCardData

    source = card_table(d.card, "source")
    model, hook = source.get("model"), source.get("hook")
    front = ModelCardData(
        license=d.card.get("licence"),
        library_name=LIBRARY,
        tags=[*TAGS, d.kind],
        base_model=model if isinstance(model, str) and _is_repo(model) else None,
    )
    where = (f" at `{_escaped(hook)}`" if hook else "") + (f" of `{_escaped(model)}`" if model else "")
    return PAGE.format(
        front=f"---\n{front.to_yaml()}\n---",
        title=repo.rpartition("/")[2],
        kind=d.kind,
        n_latents=d.n_latents,
        d_in=d.d_in,
        where=where,
        repo=repo,
        facts=_table("Where it comes from", origin_facts(d.card)),
        scores=_table("Scores on held-out samples", card_table(d.card, "scores")),
        card=json.dumps(d.card, indent=1, sort_keys=True).replace("`", "\\u0060"),
    )


def origin_facts(card: Mapping[str, Any]) -> dict[str, Any]:
    """The facts on a card about the origin of a dictionary, by name."""
    source = card_table(card, "source")
    names = ("kind", "model", "revision", "hook", "target", "text", "context", "bos", "dtype")
    facts = {name: source.get(name) for name in names}
    facts["model revision"] = card.get("model_revision", facts.pop("revision"))
    facts |= {"processing": card.get("processing"), "input scale": card.get("input_scale")}
    facts |= {"seed": card.get("seed"), "step": card.get("step"), "format": card.get("format")}
    facts |= {"from": card.get("from"), "licence": card.get("licence")}
    return {name: value for name, value in facts.items() if value is not None}


def _without_folders(entry: Any) -> Any:
    """A card in which absolute local paths are shortened to their last part."""
    if isinstance(entry, Mapping):
        return {name: _without_folders(value) for name, value in entry.items()}
    if isinstance(entry, list | tuple):
        return [_without_folders(value) for value in entry]
    is_path = isinstance(entry, str) and Path(entry).is_absolute()
    return Path(entry).name if is_path else entry


def _table(title: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {_escaped(name)} | {_escaped(_short(value))} |" for name, value in rows.items() if value is not None]
    return "\n".join([f"## {title}\n\n| | |\n|---|---|", *lines]) + "\n\n" if lines else ""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escaped(text: Any) -> str:
    """Text with the special characters of Markdown and HTML escaped."""
    marks = {"|": "&#124;", "<": "&lt;", ">": "&gt;", "`": "&#96;", "[": "&#91;", "]": "&#93;", "\n": " "}
    return "".join(marks.get(letter, letter) for letter in str(text)[:300].replace("&", "&amp;"))


def _is_repo(model: str) -> bool:
    """Whether a name can be that of a repository and is not a local path."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return not Path(model).exists()
