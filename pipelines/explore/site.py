"""Writes the pages as a folder, under a partial name until complete. Equal results give equal bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from pipelines.explore.index import exploration_facts, notes, rates, table
from pipelines.explore.latent import STRENGTHS, NamedExploration
from pipelines.explore.words import script
from pipelines.report.page import template_environment
from sae.registry import UserError
from sae.source import Progress

MARK = "explore.json"
"""The file that marks a folder of pages; a folder without it is never replaced."""


def check_site_folder(out: Path, mark: str = MARK, command: str = "sae explore") -> None:
    """Raises `UserError` if `out` exists and is neither empty nor a folder of pages of `command`, which has the file
    `mark`."""
    if out.exists() and not (out / mark).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out}: exists and was not written by `{command}`, so it is not replaced; give another with --pages"
        )


def write(
    out: Path, about: Mapping[str, Any], parts: Sequence[tuple[str, NamedExploration]], progress: Progress
) -> None:
    """Writes one or several parts: the part ``""`` to the folder itself, others to subfolders with their names.

    `about` has ``title``, ``kicker``, ``lede`` and ``settings``, a list of names and values.
    """
    check_site_folder(out)
    with replaced_folder(out) as partial:
        for folder, latents in parts:
            others = [
                (other, f"{'../' if folder else ''}{other + '/' if other else ''}index.html") for other, _ in parts
            ]
            links = [(name or "latents", link) for name, link in others if name != folder]
            _write_part(partial / folder, {**about, "links": links, "part": folder or "latents"}, latents, progress)
        (partial / MARK).write_text(script({"parts": [folder or "latents" for folder, _ in parts]}) + "\n")


@contextmanager
def replaced_folder(out: Path) -> Generator[Path]:
    """An empty folder to fill, which takes the place of `out` at the end; removed if an error ends the block."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _replace(out, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(out: Path, partial: Path) -> None:
    """Moves the new folder to its place; an old one is deleted only after that."""
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    if out.exists():
        out.rename(old)
    partial.rename(out)
    for moved in out.parent.glob(f".{escape(out.name)}.old-*"):  # also those of processes that were killed here
        shutil.rmtree(moved, ignore_errors=True)


def _write_part(folder: Path, about: Mapping[str, Any], latents: NamedExploration, progress: Progress) -> None:
    pages = template_environment()
    (folder / "latents").mkdir(parents=True)
    style = pages.get_template("explore.css").render(strengths=STRENGTHS)
    (folder / "style.css").write_text(style, encoding="utf-8")
    (folder / "explore.js").write_text(pages.get_template("explore.js").render(), encoding="utf-8")
    (folder / "table.js").write_text(f"const TABLE = {script(table(latents))};\n", encoding="utf-8")
    variables = {**about, "facts": exploration_facts(latents), "notes": notes(latents), "rates": rates(latents)}
    (folder / "index.html").write_text(pages.get_template("explore-index.html").render(variables), encoding="utf-8")
    page = pages.get_template("explore-latent.html")
    for i, j in enumerate(latents.shown):
        (folder / "latents" / latents.pages[j]).write_text(page.render({**about, **latents.page(i)}), encoding="utf-8")
        progress(i + 1, len(latents.shown), "pages")
