"""The recipes of docs/recipes.md, run as they are printed, in their order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import app
from tests.docs.pages import MODEL, ROOT, Snippet, snippets, with_data

PAGE = ROOT / "docs" / "recipes.md"
NEEDS_A_MODEL = "# needs a model"


def needs_a_model(snippet: Snippet) -> bool:
    return snippet.code.startswith(NEEDS_A_MODEL) or "=MODEL" in snippet.code


def python(snippet: Snippet, names: dict[str, Any]) -> None:
    """Runs a snippet with its lines numbered as on the page, so that a failure names the line."""
    exec(compile("\n" * (snippet.line - 1) + with_data(snippet.code), str(PAGE), "exec"), names)


def test_snippets_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes_unchecked: None):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "recipes"}
    own = [s for s in snippets(PAGE) if s.language == "python" and not needs_a_model(s)]
    assert len(own) > 15
    for snippet in own:
        python(snippet, names)


def test_snippets_in_python_on_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes_unchecked: None):
    if not MODEL.is_dir():
        pytest.skip(f"there is no model at {MODEL}")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "recipes"}
    exec("import torch\nimport sae", names)
    own = [s for s in snippets(PAGE) if s.language == "python" and needs_a_model(s)]
    assert own
    for snippet in own:
        python(snippet, names)


def commands() -> list[list[str]]:
    lines = [line for s in snippets(PAGE) if s.language == "sh" for line in s.code.splitlines()]
    return [shlex.split(line) for line in lines]


def test_commands_name_known_options():
    """Without running them: every command parses."""
    assert len(commands()) > 15
    for program, *words in commands():
        assert program == "sae"
        app.meta.parse_args(words, exit_on_error=False, print_error=False)
        app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.slow
def test_commands_run(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    names: dict[str, Any] = {"__name__": "recipes"}
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        for snippet in snippets(PAGE):
            if snippet.language == "toml":
                file = re.match(r"# (\S+\.toml)\n", snippet.code)
                assert file is not None, snippet.line
                Path(file[1]).write_text(snippet.code)
            elif snippet.language == "python" and ("np.save" in snippet.code or "generator =" in snippet.code):
                python(snippet, names)
            elif snippet.language == "sh" and (MODEL.is_dir() or not needs_a_model(snippet)):
                for line in with_data(snippet.code + " ").splitlines():
                    if not line.strip():
                        continue
                    command = [sys.executable, "-m", "pipelines", *shlex.split(line)[1:]]
                    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
                    assert done.returncode == 0, f"line {snippet.line}: {line}\n{done.stdout}\n{done.stderr}"
    finally:
        os.chdir(before)
