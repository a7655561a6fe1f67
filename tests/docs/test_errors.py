"""The errors of docs/errors.md, made as the page says, have the messages that the page shows."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import sae
from pipelines.cli import main
from tests.docs.pages import MODEL, ROOT, Snippet, snippets, with_data

PAGE = ROOT / "docs" / "errors.md"
BLOCKS = snippets(PAGE, "python|sh|text")
CASES = [(code, shown) for code, shown in itertools.pairwise(BLOCKS) if shown.language == "text"]


TINY = """
[source]
kind = "independent"
n_features = 6
d_in = 4
probability = 0.2
[dictionary]
kind = "relu"
n_latents = 6
l1 = 1.0
[train]
steps = 5
batch_size = 16
[score]
metrics = ["firing"]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the snippets name: files that cannot be loaded, a text of one document, damaged steps."""
    home = tmp_path_factory.mktemp("errors")
    # A pickle that would call print, written by hand: protocol 0.
    (home / "a-pickle.pt").write_bytes(b"cbuiltins\nprint\n(S'run'\ntR.")
    torch.save({"weird": torch.zeros(3)}, home / "unknown.pt")
    (home / "empty-folder").mkdir()
    (home / "one-document.txt").write_text(" ".join(map(str, range(400))))
    (home / "tiny.toml").write_text(TINY)
    sae.run(home / "tiny.toml", out=home / "damaged-runs")
    trained = next((home / "damaged-runs").glob("train-*/**/*.safetensors"))
    content = bytearray(trained.read_bytes())
    content[-1] ^= 1
    trained.write_bytes(bytes(content))
    return home


@pytest.fixture(scope="module")
def trained() -> sae.Dictionary:
    [d] = sae.fit(_x(), kind="relu", n_latents=32, l1=1.0, steps=5, batch_size=64)
    return d


def _x() -> torch.Tensor:
    return torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))


def _pattern(text: str) -> re.Pattern[str]:
    """The text as a pattern in which ``...`` stands for anything within a line."""
    return re.compile(re.escape(text.strip()).replace(re.escape("..."), ".*"))


def _of_command(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    written = capsys.readouterr()
    return written.out + written.err


def _of_python(code: str, d: sae.Dictionary, capsys: pytest.CaptureFixture[str]) -> str:
    try:
        exec(code, {"sae": sae, "x": _x(), "d": d})
    except sae.UserError as error:
        return str(error)
    return capsys.readouterr().out


@pytest.mark.parametrize(("code", "shown"), CASES, ids=[f"line-{code.line}" for code, _ in CASES])
def test_messages(
    code: Snippet,
    shown: Snippet,
    home: Path,
    trained: sae.Dictionary,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shapes_unchecked: None,
):
    if ("=MODEL" in code.code or "=TEXT.txt" in code.code) and not MODEL.is_dir():
        pytest.skip(f"there is no model at {MODEL}")
    monkeypatch.chdir(home)
    text = with_data(code.code)
    said = _of_command(text, monkeypatch, capsys) if code.language == "sh" else _of_python(text, trained, capsys)
    assert _pattern(shown.code).fullmatch(said.strip()), said


def test_every_message_is_made():
    assert len(CASES) == sum(block.language == "text" for block in BLOCKS) > 15
