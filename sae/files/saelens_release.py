"""What SAELens needs to find a dictionary on the hub: a folder in its format, and an entry for its list of releases.

``SAE.from_pretrained("owner/name", "saelens")`` of SAELens 6 reads the folder. Its ``pretrained_saes.yaml`` lists
releases by name: with the entry there, ``SAE.from_pretrained("name", HOOK)`` works too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sae.dictionary import Dictionary, card_table
from sae.files import to_saelens

SAELENS_FOLDER = "saelens"
"""Folder in a repository that holds the dictionary in SAELens' format; SAELens calls such a path the id of an SAE."""
SAELENS_LIST = "pretrained_saes.yaml"
"""SAELens' list of releases, and the file in the folder that has the entry for it."""


def write_release(d: Dictionary, folder: Path, entry: str | None) -> bool:
    """Writes the folder for SAELens into `folder`, with the `entry` of :func:`release_entry`; False, and nothing is
    written, where SAELens has no such kind."""
    if not to_saelens.can_store(d):
        return False
    to_saelens.save(d, folder / SAELENS_FOLDER)
    if entry is not None:
        (folder / SAELENS_FOLDER / SAELENS_LIST).write_text(entry, encoding="utf-8")
    return True


def release_entry(d: Dictionary, repo: str) -> str | None:
    """The entry for SAELens' list as YAML; None where SAELens cannot store the dictionary, or where its card names no
    hook point of a model on the hub.

    The release has the name of the repository and one SAE, whose id is the hook point. Measured `l0` and
    `variance_explained` are those of the card's scores, where it has them.
    """
    import yaml

    source, scores = card_table(d.card, "source"), card_table(d.card, "scores")
    model, hook = source.get("model"), source.get("hook")
    named = isinstance(hook, str) and re.fullmatch(r"[\w.]+", hook) is not None
    if not named or not is_hub_model(model) or not to_saelens.can_store(d):
        return None
    measured = {"l0": scores.get("l0"), "variance_explained": scores.get("explained_variance")}
    numbers = {name: round(value, 4) for name, value in measured.items() if isinstance(value, int | float)}
    one: dict[str, Any] = {"id": hook, "path": SAELENS_FOLDER, **numbers}
    release = {"conversion_func": None, "model": model, "repo_id": repo, "saes": [one]}
    return yaml.safe_dump({repo.rpartition("/")[2]: release}, sort_keys=False)


def is_hub_model(model: Any) -> bool:
    """Whether a name can be that of a repository on the hub and is not a local path."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not isinstance(model, str):
        return False
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return not Path(model).exists()
