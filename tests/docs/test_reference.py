"""The reference is complete: every command, setting, kind, score and public name is in it, with a description."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

import sae
from pipelines.config.tables import Tables
from pipelines.report.scores import SCORES
from sae.training.config import TrainConfig

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import sae_reference  # noqa: E402
from sae_reference.commands import all_commands, options  # noqa: E402
from sae_reference.config_file import models  # noqa: E402
from sae_reference.kinds import kinds_of  # noqa: E402
from sae_reference.settings import fields, nested, type_text  # noqa: E402
from sae_reference.text import markdown, one_line  # noqa: E402

EVERY_INTERFACE = (*sae_reference.INTERFACES, "pipelines.questions")


def settings() -> Iterator[tuple[str, type[BaseModel]]]:
    """Every model of settings, with the name of the page that must have it."""
    for model in models().values():
        yield "config", model
    for interface in EVERY_INTERFACE:
        for module in kinds_of(interface).values():
            for model in [module.Config, *nested(module.Config)] if hasattr(module, "Config") else []:
                yield interface.rpartition(".")[2], model


def test_every_setting_is_on_its_page_with_a_description():
    pages = {name: render() for name, render in sae_reference.GENERATED.items()}
    seen = list(settings())
    assert {TrainConfig, Tables} <= {model for _, model in seen} and len(seen) > 80
    for page, model in seen:
        for field in fields(model):
            assert field.description.strip(), f"{model.__name__}.{field.name}"
            assert f"| `{field.name}` |" in pages[page] and one_line(field.description) in pages[page]


def test_every_kind_has_a_section_and_a_docstring():
    for interface in EVERY_INTERFACE:
        page = sae_reference.GENERATED[interface.rpartition(".")[2]]()
        for name, module in kinds_of(interface).items():
            assert f"## `{name}`" in page and len(module.__doc__ or "") > 40, module.__name__
            assert inspect.cleandoc(module.__doc__ or "").split(maxsplit=3)[0] in page


def test_every_command_and_option_has_a_description():
    from pipelines.cli import app

    commands, page = all_commands(), sae_reference.GENERATED["commands"]()
    assert {"run", "bench", "verify", "configs"} <= {one.name for one in commands}
    for command in commands:
        assert f"## `sae {command.name}`" in page and command.description.strip(), command.name
        for option in command.options:
            assert option.description.strip(), f"{command.name} {option.name}"
            assert f"| `{option.name}` |" in page
    assert {"--plugin", "--debug"} == {option.name for option in options(app.meta) if option.description}


def test_every_score_is_listed():
    page = sae_reference.GENERATED["scores"]()
    assert page.count("\n") == len(SCORES) + 1
    assert all(one_line(info.meaning) in page for info in SCORES.values())


def test_every_public_name_is_documented_with_its_members():
    page = sae_reference.GENERATED["python"]()
    for name in sae.__all__:
        value = getattr(sae, name)
        assert f":: sae.{name}\n" in page and inspect.getdoc(value), name
        for member, attribute in vars(value).items() if isinstance(value, type) else ():
            described = inspect.getdoc(getattr(value, member, None))
            assert member.startswith("_") or not callable(attribute) or described, f"{name}.{member}"


def test_every_generated_part_is_on_one_page():
    texts = [page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md") if "_build" not in page.parts]
    found = [name for text in texts for name in sae_reference.MARKER.findall(text)]
    assert sorted(found) == sorted(sae_reference.GENERATED)


def test_every_page_is_in_the_contents_and_every_link_has_a_file():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in (page for page in DOCS.rglob("*.md") if "_build" not in page.parts and page.name != "index.md"):
        assert re.search(rf"^{page.relative_to(DOCS).with_suffix('').as_posix()}$", index, re.MULTILINE), page
        for link in re.findall(r"\]\(([^)#:]+\.\w+)(?:#[\w-]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).is_file(), f"{page}: {link}"


def test_docstrings_become_markdown():
    text = markdown("""One *word*, `a*b`, ``c_d`` and :func:`~sae.fit` of x_hat.

        z = a*b

        y = c

    End <here>.""")
    assert (
        text
        == "One *word*, `a*b`, `c_d` and `sae.fit` of x\\_hat.\n\n```text\nz = a*b\n\ny = c\n```\n\nEnd \\<here\\>."
    )


@pytest.mark.parametrize(
    ("annotation", "text"),
    [(int | None, "int | None"), (tuple[Path, ...], "list[path]"), (tuple[int, str], "tuple[int, str]")],
)
def test_types_are_written_as_in_a_config(annotation: object, text: str):
    assert type_text(annotation) == text


def test_every_analysis_is_in_the_index_with_a_description():
    from sae_reference.analysis import modules, own

    page = sae_reference.GENERATED["analysis"]()
    assert len(modules()) > 30
    for module in modules():
        assert f"`{module.__name__}`" in page and len(module.__doc__ or "") > 20, module.__name__
        for name, value in own(module):
            assert inspect.getdoc(value), f"{module.__name__}.{name}"
            assert f"| `{name}" in page
