"""What a command prints: text from files cannot steer the terminal, and a stream that fails does not fail the work."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.table import Table
from rich.text import Text
from safetensors.torch import save_file

import sae
from pipelines.commands.output import REPLACEMENT, Terminal, printable
from sae.dictionaries.relu import Relu

Call = Callable[..., tuple[int, str, str]]
HOSTILE = "\x1b]0;title\x07\x1b[31mRED\x9b1m\u202eabc"


def clean(text: str) -> bool:
    return not {c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e")}


def test_a_card_cannot_steer_the_terminal(call: Call, tmp_path: Path):
    """Escape sequences in the keys of a card reached the terminal."""
    card = {HOSTILE: "v", "key": HOSTILE, "scores": {HOSTILE: 0.5}, "training": {"config": {HOSTILE: HOSTILE}}}
    sae.save(Relu.tied(torch.eye(3)).with_card(**card), tmp_path / "d")
    code, told, _ = call("show", tmp_path / "d")
    assert code == 0 and clean(told) and "[31mRED" in told and "0.5" in told


def test_a_step_cannot_steer_the_terminal_or_fake_a_line(call: Call, tmp_path: Path):
    """Escape sequences in a manifest, in scores.json and in the methods of a scores.csv reached the terminal."""
    manifest = {"stage": HOSTILE, "config": {HOSTILE: {HOSTILE: f"{HOSTILE}\nreport: fake"}}, "inputs": {}, "files": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "scores.json").write_text(json.dumps({HOSTILE: 1}))
    header = "source,method,encoder,n_latents,l1,target_l0,seed,data_seed,l0,mcc"
    (tmp_path / "scores.csv").write_text(f"{header}\ns{HOSTILE},relu {HOSTILE},,8,,,0,0,4,0.5\n")
    code, told, _ = call("show", tmp_path)
    assert code == 0 and clean(told) and "0.500" in told
    assert not any(line.startswith("report: fake") for line in told.splitlines())


def test_names_in_messages_cannot_steer_the_terminal(call: Call, tmp_path: Path):
    """A file's tensor names and a path were printed with their escape sequences in the message of a mistake."""
    save_file({HOSTILE: torch.eye(3), f"b{HOSTILE}": torch.eye(2)}, tmp_path / "d.safetensors")
    code, _, warned = call("show", tmp_path / "d.safetensors")
    assert code == 2 and clean(warned) and "[31mRED" in warned
    code, _, warned = call("run", f"{HOSTILE}.toml")
    assert code == 2 and clean(warned) and REPLACEMENT in warned


def test_printable_keeps_text():
    """Only what a terminal obeys is replaced."""
    assert printable("a ± b\t漢字\né ✓") == "a ± b\t漢字\né ✓"
    assert printable("a\rb\u2028\udc80\x7f") == "a" + f"{REPLACEMENT}b" + 3 * REPLACEMENT
    stream = io.StringIO()
    Terminal(file=stream, force_terminal=True, color_system="truecolor").print(Text("x\x1b[0m", style="red"))
    assert stream.getvalue() == f"\x1b[31mx{REPLACEMENT}[0m\x1b[0m\n", "the colours of rich stay"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_table_is_readable_where_the_terminal_lacks_its_signs(encoding: str):
    """`PYTHONIOENCODING=ascii sae run` ended with a traceback after all work was done."""
    bytes_of = io.BytesIO()
    terminal = Terminal(file=io.TextIOWrapper(bytes_of, encoding=encoding), width=30)
    table = Table("mcc", "漢", box=None)
    table.add_row("0.912 ±.004", "−1 ≤ ∞")  # noqa: RUF001
    terminal.print(table)
    terminal.say("±" * 60)
    told = bytes_of.getvalue().decode(encoding)
    assert "-1 <= inf" in told and ("0.912 +-.004" in told or "0.912 ±.004" in told)


def test_a_reader_that_leaves_does_not_end_the_work():
    """`sae run CONFIG 2>&1 | head -1` ended the run at its second line."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        terminal = Terminal(file=stream)
        for _ in range(3):
            terminal.print("a line")
        assert terminal.quiet


@pytest.mark.parametrize("shell", ["{sae} | head -1", "{sae} >&- 2>&-"])
def test_the_exit_code_is_that_of_the_work(shell: str):
    """A closed or narrow stdout ended in a traceback and a failing exit code."""
    line = shell.format(sae=f"{sys.executable} -m pipelines.cli configs")
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and b"Traceback" not in done.stderr and b"Exception" not in done.stderr, done.stderr


def test_a_copied_config_is_the_file_whatever_the_encoding(tmp_path: Path):
    """`PYTHONIOENCODING=ascii sae configs NAME > my.toml` could not write a config with an accent."""
    file = tmp_path / "c.toml"
    file.write_bytes('name = "c"\t# Größe, 漢\r\n'.encode())
    copy = io.BytesIO()
    stream = io.TextIOWrapper(copy, encoding="ascii")
    Terminal(file=stream).copy_file(file)
    assert copy.getvalue() == file.read_bytes()
