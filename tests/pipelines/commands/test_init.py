"""Configs to start from: every kind of source gives one that can be planned, with every setting in it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.config.config import read_config
from sae.registry import config_class, kinds

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("dictionary", ["relu", "jumprelu"])
@pytest.mark.parametrize("source", sorted(kinds("sources")))
def test_a_config_of_every_kind_can_be_read_and_has_every_setting(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, dictionary: str
):
    monkeypatch.chdir(tmp_path)
    np.save("ACTIVATIONS.npy", np.zeros((9, 4), np.float32))
    code, printed, warned = call("init", source, "mine.toml", "--dictionary", dictionary)
    assert code == 0 and "sae run mine.toml" in printed, warned
    config, text = read_config(Path("mine.toml")), Path("mine.toml").read_text()
    assert config.name == "mine" and config.sources[0].model_dump()["kind"] == source
    for interface, kind in (("sources", source), ("dictionaries", dictionary)):
        for field in config_class(interface, kind).model_fields:
            assert re.search(rf"^(# )?{field} =", text, re.MULTILINE), field
    assert max(map(len, (line for line in text.splitlines() if line.startswith("#")))) <= 200


def test_a_setting_that_is_no_comment_any_more_is_what_it_was(call: Call, tmp_path: Path):
    """The commented values are the defaults: the file with all of them in force describes the same run."""
    file = tmp_path / "mine.toml"
    assert call("init", "correlated", file)[0] == 0
    plain, lines = read_config(file), file.read_text().splitlines()
    told = [line.removeprefix("# ") if re.match(r"# \w+ = \S", line) else line for line in lines]
    told = [line for line in told if not line.startswith(("device", "checkpoint_seconds", "out "))]
    assert len(tomllib.loads("\n".join(told))["source"]) > len(tomllib.loads("\n".join(lines))["source"])
    file.write_text("\n".join(told))
    full = read_config(file)
    assert (full.sources, full.dictionaries, full.trainings) == (plain.sources, plain.dictionaries, plain.trainings)


def test_it_is_printed_without_a_file_and_replaces_none(call: Call, tmp_path: Path):
    code, printed, _ = call("init", "independent")
    assert code == 0 and tomllib.loads(printed)["source"]["kind"] == "independent"
    file = tmp_path / "there.toml"
    file.write_text("mine")
    code, _, warned = call("init", "independent", file)
    assert code == 2 and "exists already" in warned and file.read_text() == "mine"
    assert "did you mean 'independent'" in call("init", "independnt")[2]


def test_a_config_without_a_name_is_called_as_its_file(tmp_path: Path):
    file = tmp_path / "my run.v2.toml"
    file.write_text('[source]\nkind = "correlated"\n[baselines]\nkinds = ["pca"]\n')
    assert read_config(file).name == "my-run.v2"
    assert read_config(file, ["name=other"]).name == "other"


def test_the_version_is_told_without_importing_torch():
    code = "import sys; from pipelines.cli import _version; print(_version(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S* False\n", done.stdout)
