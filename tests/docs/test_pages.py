"""The pages that are executed when the site is built: all are in the contents, and built without the test data too."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = [page for page in sorted(DOCS.rglob("*.md")) if "file_format: mystnb" in page.read_text(encoding="utf-8")]


def test_executed_pages_are_in_the_contents_and_can_be_downloaded():
    contents = (DOCS / "index.md").read_text(encoding="utf-8").splitlines()
    assert len(NOTEBOOKS) >= 9
    for page in NOTEBOOKS:
        assert page.relative_to(DOCS).with_suffix("").as_posix() in contents, page
        assert f"{{nb-download}}`{page.stem}.ipynb`" in page.read_text(encoding="utf-8"), page


def test_pages_that_need_the_test_data_are_left_out_without_them_and_say_so():
    conf = (DOCS / "conf.py").read_text(encoding="utf-8")
    listed = re.search(r"^NEED_A_MODEL = \[(.*)\]", conf, re.MULTILINE)
    assert listed is not None
    needing = [page for page in NOTEBOOKS if "SAE_TEST_DATA" in page.read_text(encoding="utf-8")]
    assert {f'"{page.relative_to(DOCS).as_posix()}"' for page in needing} == set(listed[1].split(", "))
    assert needing and all("{only} not example_model" in page.read_text(encoding="utf-8") for page in needing)
    # A page that is not executed has no other way to say how its cells are highlighted, which is a warning.
    assert all("\n  language: python\n" in page.read_text(encoding="utf-8") for page in needing)


def test_no_cell_is_long():
    """A page is read: what does not fit on a screen belongs in the library."""
    for page in NOTEBOOKS:
        for cell in re.findall(r"^```\{code-cell\}.*?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M):
            assert cell.count("\n") <= 45, f"{page}: {cell[:60]}"
            assert max(map(len, cell.splitlines())) <= 120, f"{page}: {cell[:60]}"
