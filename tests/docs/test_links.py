"""Every relative link of the docs leads to a file, and to a heading of it."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

from tests.docs.pages import ROOT

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```+|~~~+).*?^\1", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    found = [ROOT / name for name in listed.stdout.splitlines()]  # a copy without git has no list: all but builds
    return found or [page for page in ROOT.rglob("*.md") if not {"_build", ".venv"} & set(page.parts)]


@cache
def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#{1,6} (.+?) *$", prose(page), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def generated(page: Path) -> bool:
    """Whether headings of the page are written when the site is built; Sphinx checks links to these."""
    return "<!-- generated:" in page.read_text(encoding="utf-8")


def test_every_link_leads_somewhere():
    n_links, wrong = 0, []
    for page in pages():
        for link in LINK.findall(prose(page)):
            if re.match(r"[a-z]+:", link):
                continue
            n_links += 1
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            if not target.exists():
                wrong.append(f"{page.relative_to(ROOT)}: {link}: no such file")
            elif anchor and target.suffix == ".md" and not generated(target) and anchor not in anchors(target):
                wrong.append(f"{page.relative_to(ROOT)}: {link}: no such heading")
    assert n_links > 50 and not wrong, "\n".join(wrong)


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    tables = "\n".join("|" if line.startswith("|") else "" for line in lines).split("\n\n")
    assert len(lines) <= 150 and max(table.count("|") for table in tables) <= 12  # a heading, a rule, ten rows
