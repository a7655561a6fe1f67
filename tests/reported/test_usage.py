"""Mistakes in plugins, at the command line and on the network: reported were tracebacks that blamed sae, or no word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

import sae
from pipelines import cli
from pipelines.config.config import read_config
from sae.dictionaries.relu import Relu
from sae.metric import Case, MetricConfig, Scores
from sae.metrics.cost import Config as Cost
from sae.registry import UserError

Call = Callable[..., tuple[int, str, str]]
X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
D = Relu.tied(torch.eye(4))


class Given(MetricConfig):
    """A metric that returns what it is given."""

    kind: Literal["given"] = "given"
    returned: Any = None

    def score(self, case: Case) -> Scores:
        return self.returned


SCORES: Any = Scores
"""The class as a plugin's author may misuse it."""


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda: {"x": 1.0}, "metric 'given' returned dict; a metric returns sae.metric.Scores"),
        (lambda: None, "metric 'given' returned NoneType; a metric returns sae.metric.Scores"),
        (lambda: SCORES({"x": "high"}), "score 'x' is of type str; give one number"),
        (lambda: SCORES({"x": torch.ones(3)}), "score 'x' is of type Tensor; give one number"),
        (lambda: SCORES({"x": 1.0}, {"v": [1.0]}), "vector 'v' is of type list; give a tensor"),
        (lambda: SCORES([0.5]), "the scalars of Scores are no mapping"),
        (lambda: SCORES({1: 0.5}), "the scalars of Scores are no mapping from names"),
        (
            lambda: SCORES({"encoder_cost": 1.0}),
            "metrics 'cost' and 'given': both return a score called 'encoder_cost'",
        ),
    ],
)
def test_what_a_metric_returns_is_checked(returned: Callable[[], Any], words: str):
    """A dict in place of `Scores` was reported as a bug of sae; of two scores of one name the last was kept."""
    with pytest.raises(UserError, match=words):
        sae.score(D, X, metrics=[Cost(), Given(returned=returned())])


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("value", [np.float32(0.5), torch.tensor(0.5), 0.5])
def test_numbers_of_other_libraries_are_numbers(value: Any):
    """A metric that returned a tensor of one number failed only when its run wrote the scores."""
    found = sae.score(D, X, metrics=[Given(returned=SCORES({"x": value}))])
    assert found == {"x": 0.5} and type(found["x"]) is float


PLUGIN = """
from typing import Literal
import sys
from sae.metric import MetricConfig, Scores

class Config(MetricConfig):
    kind: Literal["leaves"] = "leaves"
    def score(self, case):
        sys.exit(0)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sae.registry.discovery._REGISTERED", {})
    monkeypatch.setattr(cli, "_PLUGINS", set[Path]())
    file = tmp_path / "leaves.py"
    file.write_text(PLUGIN)
    return file


def test_a_plugin_that_ends_python_is_named(call: Call, plugin: Path, tiny_file: Path, tmp_path: Path):
    """`sys.exit(0)` in a metric ended the run with exit code 0 and no report; at the top of the file with its text."""
    options = ("--set", 'score.metrics=["leaves"]', "--set", "train.steps=2", "--out", tmp_path / "out")
    code, _, told = call("run", tiny_file, "--plugin", plugin, *options)
    assert code == 1 and told.count("\n") == 1
    assert told.startswith(f"sae: {plugin}, line 9: the plugin ended the command with sys.exit(0)")
    plugin.write_text(f"{PLUGIN}\nsys.exit('done')\n")
    code, _, told = call("run", tiny_file, "--plugin", plugin, *options)
    assert code == 2 and f"--plugin {plugin}: it calls sys.exit('done') while it is loaded" in told


def test_several_files_after_one_plugin(call: Call, plugin: Path, tiny_file: Path):
    """`--plugin a.py b.py` was `Unused Tokens: ['b.py']`, or the config was unused and b.py the config."""
    for arguments in (("plan", tiny_file, "--plugin", plugin, "b.py"), ("plan", "--plugin", plugin, "b.py", tiny_file)):
        code, _, told = call(*arguments)
        assert (
            code == 2
            and told == f"sae: --plugin {plugin} b.py: it takes one file; give --plugin {plugin} --plugin b.py\n"
        )
    code, _, told = call("plan", tiny_file, "other.toml")
    assert code == 2 and told == "sae: other.toml: more than the command takes; see `sae plan --help`\n"


def test_a_folder_in_place_of_a_config(call: Call, tiny_file: Path, tmp_path: Path):
    """`sae run FOLDER` asked whether a config of a similar name was meant."""
    code, _, told = call("plan", tmp_path)
    assert code == 2 and told == f"sae: {tmp_path}: a folder, not a config; give a file in it, such as {tiny_file}\n"
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "manifest.json").write_text("{}")
    code, _, told = call("run", tmp_path / "step")
    assert code == 2 and f"`sae show {tmp_path / 'step'}` prints what it holds" in told


def test_every_command_with_a_config_takes_a_tier(call: Call, tiny_file: Path, tmp_path: Path):
    """`sae run CONFIG --tier fast` was an unknown option, next to `sae bench` and `sae plan` that take it."""
    for command in ("plan", "run", "status", "suggest", "ask", "explore", "bench"):
        assert "--tier" in call(command, "--help")[1], command
    tiny_file.write_text(tiny_file.read_text() + "[tiers.fast.train]\nsteps = 3\n")
    assert read_config(tiny_file, tier="fast").trainings[0].steps == 3
    code, told, _ = call("run", tiny_file, "--tier", "fast", "--out", tmp_path / "out")
    assert code == 0 and f"report: {tmp_path / 'out' / 'tiny-fast-report' / 'report.html'}" in told
    assert not (tmp_path / "out" / "tiny").exists(), "the report of the whole file is another"


@dataclass(frozen=True, repr=False)
class Shifted(Relu):
    """A dictionary with a setting that must not be negative, and one without a value."""

    kind: ClassVar[str] = "shifted"
    shift: float = 0.0
    mode: str | None = None

    def settings(self) -> dict[str, Any]:
        return {"shift": self.shift} | ({} if self.mode == "" else {"mode": self.mode})


@pytest.mark.parametrize(("shift", "mode", "words"), [(-0.5, "", "shift = -0.5 is not"), (0.5, None, "mode = None is")])
def test_settings_that_could_not_be_loaded_are_not_saved(shift: float, mode: str | None, words: str, tmp_path: Path):
    """A dictionary with a negative setting, or one of None, was saved, and its file refused when it was loaded."""
    d = Shifted(D.W_enc, D.W_dec, D.b_enc, D.b_dec, shift=shift, mode=mode)
    with pytest.raises(UserError, match=rf"Shifted\.settings\(\): {words}.*could not be loaded again"):
        sae.save(d, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_kind_that_is_not_loaded_names_the_option(call: Call, tmp_path: Path):
    """A dictionary of a plugin's kind was an unknown kind, without a word on how to make it known."""
    sae.save(Shifted(D.W_enc, D.W_dec, D.b_enc, D.b_dec, mode=""), tmp_path / "d")
    code, _, told = call("show", tmp_path / "d")
    assert code == 2 and "'shifted' is not a known kind of dictionary" in told and "--plugin FILE" in told


def test_a_card_of_nulls_is_converted(call: Call, tmp_path: Path):
    """A card with `source: null` ended `sae convert` with an AttributeError."""
    sae.save(D.with_card(source=None, scores=None, training=None), tmp_path / "d")
    for form in ("saelens", "dictionary_learning"):
        assert call("convert", tmp_path / "d", tmp_path / form, "--format", form)[0] == 0
        assert torch.equal(sae.load(tmp_path / form).W_dec, D.W_dec)


def test_a_hub_that_cannot_be_reached_is_one_line(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`sae push` without a network ended in the traceback of the library that speaks HTTP."""
    transport: Any = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")

    def unreachable(self: Any, *arguments: Any, **options: Any) -> None:
        raise type("ConnectError", (transport,), {})("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", unreachable)
    sae.save(D, tmp_path / "d")
    code, _, told = call("push", tmp_path / "d", "owner/name")
    assert (
        code == 2
        and told == "sae: hf://owner/name: cannot push to it: no connection to the hub: Name or service not known\n"
    )


def test_a_log_sink_without_a_login_is_one_line(call: Call, tiny_file: Path, monkeypatch: pytest.MonkeyPatch):
    """wandb's 'No API key configured' ended in a traceback that blamed sae."""

    def refuse(*arguments: Any) -> None:
        raise type("UsageError", (Exception,), {"__module__": "wandb.errors"})("No API key configured.\nLog in.")

    monkeypatch.setattr("pipelines.commands.run.read_plan", refuse)
    code, _, told = call("plan", tiny_file)
    assert code == 2 and told == "sae: runtime.sinks: wandb: No API key configured. Log in.\n"


def test_values_whose_squares_overflow_are_refused():
    """Activations of 1e30 gave NaN scores, or a LinAlgError of a baseline."""
    words = r"x: the activations have values up to \S+e\+30, whose squares are beyond"
    with pytest.raises(UserError, match=words):
        sae.fit(X * 1e30, n_latents=8, l1=0.1, steps=2)
    with pytest.raises(UserError, match=words):
        sae.score(D, X * 1e30)
    assert np.isfinite(sae.score(D, X * 1e15, metrics="reconstruction")["fvu"])
