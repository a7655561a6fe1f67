"""The tables of the package sae-probes: the tasks of Kantamneni et al. 2025, 'Are sparse autoencoders useful?'.

The package (PyPI, 45 MB) holds 155 cleaned tables of prompts with a target, ``data/cleaned_data/NUMBER_NAME.csv.zst``,
and a list that says for each whether its target is a class or a number. Only its files are read: nothing of its code
is imported, so that it may be installed without what that code needs.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sae.activations.text_files import open_text
from sae.registry import UserError, unknown

PACKAGE = "sae_probes"
_SUFFIX = ".csv.zst"
_NUMBERS = "Continuous Data"
"""How the list calls a target that is a number."""
SETTING = "probe.tasks.sae_probes"


def package_tables(names: Sequence[str]) -> tuple[Path, ...]:
    """The files of tables by name, such as ``92_glue_sst2``.

    Raises `UserError` where the package is not installed, has no such table, or the target of one is a number.
    """
    if not names:
        return ()
    folder = _folder()
    known = {file.name.removesuffix(_SUFFIX): file for file in sorted((folder / "cleaned_data").glob(f"*{_SUFFIX}"))}
    for name in names:
        if name not in known:
            raise UserError(f"{SETTING}: {unknown(name, known, 'table of sae-probes')}")
        if name in _numeric(folder):
            raise UserError(f"{SETTING}: the target of {name!r} is a number, not a class; choose another table")
    return tuple(known[name] for name in names)


def _folder() -> Path:
    """The folder with the tables."""
    spec = find_spec(PACKAGE)  # imports nothing
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    folder = next((Path(place) / "data" for place in places if (Path(place) / "data" / "cleaned_data").is_dir()), None)
    if folder is None:
        raise UserError(
            f"{SETTING}: the package sae-probes is not installed; pip install --no-deps sae-probes, or leave it out"
        )
    return folder


@cache
def _numeric(folder: Path) -> frozenset[str]:
    """The tables whose target is a number; none where the package has no list."""
    file = folder / "probing_datasets_MASTER.csv.zst"
    if not file.is_file():
        return frozenset()
    with open_text(file, str(file), newline="") as text:
        rows = [row for row in csv.DictReader(text) if row.get("Data type") == _NUMBERS]
    return frozenset(Path(row["Dataset save name"] or "").name.removesuffix(".csv") for row in rows)
