"""Pushing a dictionary to the Hugging Face hub: its two files, a copy for SAELens, and a README made from its card."""

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
from sae.files.saelens_release import SAELENS_FOLDER, SAELENS_LIST, is_hub_model, release_entry, write_release

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

{saelens}{facts}{scores}## Card

```json
{card}
```
"""


def push(d: Dictionary, repo: str, *, licence: str | None = None, private: bool = False, saelens: bool = True) -> str:
    """Uploads a dictionary to a repository on the Hugging Face hub, created if needed, and returns its address.

    It uploads the native format with the card, and a ``README.md`` made from the card. Where SAELens has such a kind,
    and unless `saelens` is false, the folder ``saelens`` has the same dictionary in SAELens' format, for
    ``SAE.from_pretrained(repo, "saelens")``, and an entry for its list of releases. Absolute local paths on the card
    are shortened to their last part. Raises `UserError` where the hub refuses the upload.
    """
    from huggingface_hub import HfApi

    d = d.with_card(**({} if licence is None else {"licence": licence}))
    shown = replace(d, card=_without_folders(d.card))
    with tempfile.TemporaryDirectory(prefix="sae-") as folder, network_errors(f"hf://{repo}", "push to"):
        save_native(shown, Path(folder))
        for_saelens = saelens and write_release(shown, Path(folder), release_entry(d, repo))
        (Path(folder) / "README.md").write_text(page(d, repo, for_saelens), encoding="utf-8")
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        # What a former push left in the folder would be another dictionary than this one.
        former = f"{SAELENS_FOLDER}/*"
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=f"A {d.kind} dictionary", delete_patterns=former
        )
    return f"hf://{repo}"


def page(d: Dictionary, repo: str, saelens: bool = False) -> str:
    """The README of a dictionary: front matter for the hub, how to load it, with SAELens too where `saelens`, and the
    content of its card, with absolute local paths shortened to their last part."""
    from huggingface_hub import ModelCardData

    model = card_table(d.card, "source").get("model")
    public = model if is_hub_model(model) else None
    tags = [*TAGS, *(["saelens"] if saelens else []), d.kind, *([public] if public else [])]
    front = ModelCardData(license=d.card.get("licence"), library_name=LIBRARY, tags=tags, base_model=public)
    entry = release_entry(d, repo) if saelens else None
    d = replace(d, card=_without_folders(d.card))
    source = card_table(d.card, "source")
    model, hook = source.get("model"), source.get("hook")
    where = (f" at `{_escaped(hook)}`" if hook else "") + (f" of `{_escaped(model)}`" if model else "")
    return PAGE.format(
        front=f"---\n{front.to_yaml()}\n---",
        title=repo.rpartition("/")[2],
        kind=d.kind,
        n_latents=d.n_latents,
        d_in=d.d_in,
        where=where,
        repo=repo,
        saelens=_saelens_section(repo, entry) if saelens else "",
        facts=_table("Where it comes from", origin_facts(d.card)),
        scores=_table("Scores on held-out samples", card_table(d.card, "scores")),
        card=json.dumps(d.card, indent=1, sort_keys=True).replace("`", "\\u0060"),
    )


def _saelens_section(repo: str, entry: str | None) -> str:
    """How to load the dictionary with SAELens, and the entry for its list of releases where there is one."""
    text = f'''## With SAELens

```python
from sae_lens import SAE

s = SAE.from_pretrained("{repo}", "{SAELENS_FOLDER}")
```

'''
    return text if entry is None else text + f"Its entry for SAELens' `{SAELENS_LIST}`:\n\n```yaml\n{entry}```\n\n"


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
