"""`sae show` and `sae plan` on damaged files: reported were tracebacks, and scores that no run had measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.steps.checksums import sha256
from pipelines.steps.manifest import write_manifest

Call = Callable[..., tuple[int, str, str]]


def step(folder: Path, name: str, content: str) -> Path:
    """A finished step with one file."""
    folder.mkdir()
    file = folder / name
    file.write_text(content)
    entry = {"size": file.stat().st_size, "sha256": sha256(file)}
    (folder / "manifest.json").write_text(json.dumps({"config": {}, "inputs": {}, "files": {name: entry}}))
    return file


CSV = "source,method,encoder,n_latents,l1,target_l0,seed,data_seed,mcc\ns,relu,,8,,,0,0,0.5\n"


@pytest.mark.parametrize(("name", "content"), [("scores.json", '{"scores": {"mcc": 0.5}}'), ("scores.csv", CSV)])
def test_scores_that_were_changed_are_not_shown(call: Call, tmp_path: Path, name: str, content: str):
    """A flipped digit in the scores of a finished step was shown as its score."""
    file = step(tmp_path / "score-0123456789abcdef", name, content)
    code, shown, _ = call("show", file.parent)
    assert code == 0 and "0.5" in shown
    file.write_text(content.replace("0.5", "0.7"))
    code, shown, told = call("show", file.parent)
    assert code == 2 and "0.7" not in shown
    assert told == (f"sae: {file}: damaged, its hash differs from the manifest; delete {file.parent} and run again\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [("scores.json", b"\xff"), ("scores.json", b"[1]"), ("scores.csv", CSV.replace("0.5", "0.\0" + "5").encode()),
     ("scores.csv", b"\xff"), ("scores.csv", b"mcc\n0.5\n")],
)  # fmt: skip
def test_scores_without_a_manifest_that_cannot_be_read(call: Call, tmp_path: Path, name: str, content: bytes):
    """A copied table of scores with one damaged byte ended in the traceback of a ValueError."""
    (tmp_path / name).write_bytes(content)
    code, _, told = call("show", tmp_path)
    assert code == 2 and told.startswith(f"sae: {tmp_path / name}: not readable as ") and told.count("\n") == 1


def test_a_manifest_that_is_nested_too_deeply(call: Call, tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"files": ' + "[" * 100_000 + "]" * 100_000 + "}")
    code, _, told = call("show", tmp_path)
    assert code == 2 and told.startswith(f"sae: {tmp_path / 'manifest.json'}: missing or damaged")


def test_a_number_of_thousands_of_digits_in_a_config(call: Call, tmp_path: Path):
    """`seed = 999...` with 5000 digits ended in the traceback of a ValueError."""
    file = tmp_path / "c.toml"
    file.write_text('name = "x"\n[source]\nkind = "independent"\nseed = ' + "9" * 5000)
    code, _, told = call("plan", file)
    assert code == 2 and told.startswith(f"sae: {file}: not readable as TOML: ") and told.count("\n") == 1


@pytest.mark.parametrize("inputs", ["null", "true", "3"])
def test_a_manifest_whose_inputs_are_none(call: Call, tmp_path: Path, inputs: str):
    """`sae show` on a step whose manifest has a damaged table of inputs ended in a TypeError."""
    (tmp_path / "manifest.json").write_text(f'{{"config": {{}}, "inputs": {inputs}, "files": {{}}}}')
    code, _, told = call("show", tmp_path)
    assert code == 2 and told.startswith(f"sae: {tmp_path / 'manifest.json'}: missing or damaged")


def test_a_manifest_whose_versions_were_changed_is_not_shown(call: Call, tmp_path: Path):
    write_manifest(tmp_path, {"config": {}, "inputs": {}, "files": {}, "versions": {"torch": "2.6.0"}})
    code, shown, _ = call("show", tmp_path)
    assert code == 0 and "2.6.0" in shown
    file = tmp_path / "manifest.json"
    file.write_text(file.read_text().replace("2.6.0", "2.7.0"))
    code, shown, told = call("show", tmp_path)
    assert code == 2 and "2.7.0" not in shown and told.startswith(f"sae: {file}: damaged, its own hash differs")
