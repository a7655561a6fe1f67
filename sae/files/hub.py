"""A dictionary on the Hugging Face hub: its two files, and a page that says what it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae.dictionary import Dictionary
from sae.files.native import save_native
from sae.files.place import told_in_one_line

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

{facts}{scores}## All that is known of it

```json
{card}
```
"""


def push(d: Dictionary, repo: str, *, licence: str | None = None, private: bool = False) -> str:
    """Uploads a dictionary to a repository of the hub, which is made where there is none, and gives its address.

    The native form, whose card goes with it, and a ``README.md`` made of that card; places on this disk are called by
    their last name there. A ``ValueError`` of one line says
    what the hub did not like.
    """
    from huggingface_hub import HfApi

    card = _shared(d.card) | ({} if licence is None else {"licence": licence})
    d = replace(d, card=card)
    with tempfile.TemporaryDirectory(prefix="sae-") as folder, told_in_one_line(f"hf://{repo}", "pushed to"):
        save_native(d, Path(folder))
        (Path(folder) / "README.md").write_text(page(d, repo), encoding="utf-8")
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"A {d.kind} dictionary")
    return f"hf://{repo}"


def page(d: Dictionary, repo: str) -> str:
    """The README of a dictionary: front matter for the hub, how to open it, what its card says."""
    from huggingface_hub import ModelCardData

    source = d.card.get("source", {})
    model, hook = source.get("model"), source.get("hook")
    front = ModelCardData(
        license=d.card.get("licence"),
        library_name=LIBRARY,
        tags=[*TAGS, d.kind],
        base_model=model if isinstance(model, str) and _is_repo(model) else None,
    )
    where = (f" at `{_plain(hook)}`" if hook else "") + (f" of `{_plain(model)}`" if model else "")
    return PAGE.format(
        front=f"---\n{front.to_yaml()}\n---",
        title=repo.rpartition("/")[2],
        kind=d.kind,
        n_latents=d.n_latents,
        d_in=d.d_in,
        where=where,
        repo=repo,
        facts=_table("Where it comes from", origin_facts(d.card)),
        scores=_table("Scores on held-out rows", d.card.get("scores", {})),
        card=json.dumps(d.card, indent=1, sort_keys=True).replace("`", "\\u0060"),
    )


def origin_facts(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of where a dictionary comes from, line by line, whoever made it."""
    source: Mapping[str, Any] = card.get("source", {})
    names = ("kind", "model", "revision", "hook", "target", "text", "context", "bos", "dtype")
    told = {name: source.get(name) for name in names}
    told["model revision"] = card.get("model_revision", told.pop("revision"))
    told |= {"processing": card.get("processing"), "input scale": card.get("input_scale")}
    told |= {"seed": card.get("seed"), "step": card.get("step"), "format": card.get("format")}
    told |= {"from": card.get("from"), "licence": card.get("licence")}
    return {name: value for name, value in told.items() if value is not None}


def _shared(entry: Any) -> Any:
    """A card without the folders of whoever made it."""
    if isinstance(entry, Mapping):
        return {name: _shared(value) for name, value in entry.items()}
    if isinstance(entry, list | tuple):
        return [_shared(value) for value in entry]
    is_path = isinstance(entry, str) and Path(entry).is_absolute()
    return Path(entry).name if is_path else entry


def _table(title: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {_plain(name)} | {_plain(_short(value))} |" for name, value in rows.items() if value is not None]
    return "\n".join([f"## {title}\n\n| | |\n|---|---|", *lines]) + "\n\n" if lines else ""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(text: Any) -> str:
    """Text that means nothing to Markdown or HTML."""
    marks = {"|": "&#124;", "<": "&lt;", ">": "&gt;", "`": "&#96;", "[": "&#91;", "]": "&#93;", "\n": " "}
    return "".join(marks.get(letter, letter) for letter in str(text)[:300].replace("&", "&amp;"))


def _is_repo(model: str) -> bool:
    """Whether a name may be that of a repository, and is no folder of a disk."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return not Path(model).exists()
