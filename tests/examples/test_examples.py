"""The examples run to the end and print the expected results."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("your_own_activations", "l1 = 1.0 finds the features"),
        pytest.param("toy_model", "dimensions per feature: 0.40 0.40 0.40 0.40 0.40", marks=pytest.mark.slow),
        ("real_model", "recovered"),
        ("published_sae", "variance explained"),
    ],
)
def test_an_example_runs(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    shapes_unchecked: None,
):  # fmt: skip
    monkeypatch.setattr("sys.argv", [name])
    if name in ("real_model", "published_sae"):
        data = Path(__file__).parents[3] / "shared" / "data"
        monkeypatch.setenv("SAE_TEST_DATA", os.environ.get("SAE_TEST_DATA") or str(data))
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    except SystemExit:
        pytest.skip(capsys.readouterr().out.strip())
    assert says in capsys.readouterr().out
