"""The pages as a folder: written beside its place and moved there when whole. The same findings give the same bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.explore.index import exploration_facts, notes, rates, table
from pipelines.explore.latent import STRENGTHS, NamedExploration
from pipelines.explore.words import script
from sae.registry import UserError
from sae.source import Progress

MARK = "explore.json"
"""The file by which a folder is known for a site, so that nothing else is ever replaced."""


def check_site_folder(out: Path) -> None:
    """A ``ValueError`` of one line where something else is in the way."""
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: in the way of the pages, and no site of ours; choose another folder with --out")


def write(
    out: Path, about: Mapping[str, Any], parts: Sequence[tuple[str, NamedExploration]], progress: Progress
) -> None:
    """Writes a site of one part or several: ``""`` lies in the folder itself, others in folders of their names.

    `about` has ``title``, ``kicker``, ``lede`` and ``settings``, a list of names and values.
    """
    check_site_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for folder, latents in parts:
            others = [
                (other, f"{'../' if folder else ''}{other + '/' if other else ''}index.html") for other, _ in parts
            ]
            links = [(name or "latents", link) for name, link in others if name != folder]
            _write_part(partial / folder, {**about, "links": links, "part": folder or "latents"}, latents, progress)
        (partial / MARK).write_text(script({"parts": [folder or "latents" for folder, _ in parts]}) + "\n")
        _replace(out, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(out: Path, partial: Path) -> None:
    """Moves the new site to its place; an old one is gone only when the new one stands there."""
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write_part(folder: Path, about: Mapping[str, Any], latents: NamedExploration, progress: Progress) -> None:
    import jinja2

    loader = jinja2.PackageLoader("pipelines", "templates")
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    (folder / "latents").mkdir(parents=True)
    style = pages.get_template("explore.css").render(strengths=STRENGTHS)
    (folder / "style.css").write_text(style, encoding="utf-8")
    (folder / "explore.js").write_text(pages.get_template("explore.js").render(), encoding="utf-8")
    (folder / "table.js").write_text(f"const TABLE = {script(table(latents))};\n", encoding="utf-8")
    given = {**about, "facts": exploration_facts(latents), "notes": notes(latents), "rates": rates(latents)}
    (folder / "index.html").write_text(pages.get_template("explore-index.html").render(given), encoding="utf-8")
    page = pages.get_template("explore-latent.html")
    for i, j in enumerate(latents.shown):
        (folder / "latents" / latents.pages[j]).write_text(page.render({**about, **latents.page(i)}), encoding="utf-8")
        progress(i + 1, len(latents.shown), "pages")
