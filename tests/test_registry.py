"""Kinds from outside: by `register`, by a file, by an entry point; the same rules, keys that know their source code."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch

import sae
from pipelines import cli
from sae import testing
from sae.encoder import EncoderConfig
from sae.registry import KindSettings, UserError, configurable, discovery, fingerprint, kinds, load_plugin, register
from sae.source import Source

Call = Callable[..., tuple[int, str, str]]
EXAMPLES = Path(__file__).parents[1] / "examples" / "kinds"
CHECKS = {
    "spikes_source": testing.check_source,
    "root_dictionary": lambda config: testing.check_dictionary(config),
    "relative_encoder": testing.check_encoder,
    "differences_baseline": testing.check_baseline,
    "entropy_metric": testing.check_metric,
}
SETTINGS = {"root_dictionary": {"n_latents": 16, "l1": 0.1}, "differences_baseline": {"n_latents": 9}}
CONFIG = """
name = "outside"
encoder = ["own", "relative"]
[source]
kind = "spikes"
n_features = 12
d_in = 8
[dictionary]
kind = "root"
n_latents = 16
l1 = 0.1
[train]
steps = 30
batch_size = 64
[baselines]
kinds = ["differences"]
[score]
n_rows = 400
metrics = ["entropy", "recovery"]
[runtime]
device = "cpu"
"""


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(discovery, "_REGISTERED", {})
    yield
    discovery._installed.cache_clear()  # pyright: ignore[reportPrivateUsage]


def load_example(name: str) -> type[KindSettings]:
    [config] = load_plugin(EXAMPLES / f"{name}.py")
    return config


@pytest.mark.parametrize("name", CHECKS)
def test_an_example_of_each_interface_obeys_the_rules(name: str):
    config = load_example(name)
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 40
    kind = str(config.model_fields["kind"].default)
    assert configurable(config.interface)[kind].Config is config
    CHECKS[name](config(**SETTINGS.get(name, {})))  # pyright: ignore[reportArgumentType]


def test_a_config_object_takes_the_place_of_a_name():
    config = load_example("root_dictionary")
    x = torch.randn(400, 8)
    how = {"steps": 20, "batch_size": 64}
    [by_object] = sae.fit(x, config(n_latents=12, l1=0.1), **how)  # pyright: ignore
    [by_name] = sae.fit(x, "root", n_latents=12, l1=0.1, **how)
    assert torch.equal(by_object.W_dec, by_name.W_dec)
    with pytest.raises(UserError, match="l1: a config object has all its settings"):
        sae.fit(x, config(n_latents=12, l1=0.1), l1=0.2)  # pyright: ignore
    with pytest.raises(UserError, match="n_latents is missing"):
        sae.fit(x, "root", l1=0.2)
    entropy = load_example("entropy_metric")()
    assert sae.score(by_object, x, metrics=[entropy]) == sae.score(by_object, x, metrics=["entropy"])  # pyright: ignore
    assert 0 < sae.score(by_object, x, metrics=["entropy"])["firing_entropy"] <= 1


def test_a_saved_dictionary_of_a_kind_from_outside_loads_while_the_kind_is_known(tmp_path: Path):
    config = load_example("relative_encoder")
    [d] = sae.fit(torch.randn(400, 8), n_latents=12, l1=0.1, steps=20, batch_size=64)
    e = d.with_encoder(config(), None)
    sae.save(e, tmp_path)
    x = torch.randn(5, 8)
    assert torch.equal(sae.load(tmp_path).encode(x), e.encode(x))
    discovery._REGISTERED.clear()  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(UserError, match="'relative' is not a known kind of dictionary"):
        sae.load(tmp_path)


def test_what_cannot_be_registered_is_refused_in_one_line(tmp_path: Path):
    class Fista(EncoderConfig):
        kind: Literal["fista"] = "fista"

        def fit(self, d: sae.Dictionary, source: Source | None, seed: int) -> sae.Dictionary:
            return d

    class Nameless(EncoderConfig):
        def fit(self, d: sae.Dictionary, source: Source | None, seed: int) -> sae.Dictionary:
            return d

    with pytest.raises(UserError, match="kind 'fista' of encoders exists already"):
        register(Fista)
    with pytest.raises(UserError, match="'Nameless': not the config class of a kind"):
        register(Nameless)
    with pytest.raises(UserError, match="there is no such file"):
        load_plugin(tmp_path / "none.py")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="it defines no complete kind"):
        load_plugin(tmp_path / "empty.py")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):  # the user's own bug keeps its traceback
        load_plugin(tmp_path / "broken.py")
    assert register(load_example("entropy_metric")), "the same class again is no conflict"


def test_the_source_code_of_a_kind_is_its_fingerprint(tmp_path: Path):
    text = (EXAMPLES / "entropy_metric.py").read_text()
    prints = []
    for content in (text, text, text + "# changed\n"):
        discovery._REGISTERED.clear()  # pyright: ignore[reportPrivateUsage]
        file = tmp_path / f"m{len(prints)}.py"
        file.write_text(content)
        [config] = load_plugin(file)
        prints.append(fingerprint(config()))
    assert prints[0] == prints[1] != prints[2] and prints[0] is not None
    assert fingerprint(kinds("metrics")["recovery"].Config()) is None


def test_what_a_plugin_imports_is_part_of_its_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = (EXAMPLES / "entropy_metric.py").read_text()
    prints = []
    for value in (1, 1, 2):
        discovery._REGISTERED.clear()  # pyright: ignore[reportPrivateUsage]
        monkeypatch.delitem(sys.modules, "helper_of_a_plugin", raising=False)
        folder = tmp_path / f"at{len(prints)}"
        folder.mkdir()
        monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.startswith(str(tmp_path))])
        (folder / "helper_of_a_plugin.py").write_text(f"VALUE = {value}\n")
        (folder / "mine.py").write_text(text + "\nimport helper_of_a_plugin\n")
        [config] = load_plugin(folder / "mine.py")
        prints.append(fingerprint(config()))
    assert prints[0] == prints[1] != prints[2]


def test_packages_of_another_environment_on_the_path_are_not_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As of a torch that was installed for one user alone, whose compiled parts have no source code to read."""
    prints = []
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
    (tmp_path / "mine.py").write_text((EXAMPLES / "entropy_metric.py").read_text() + "\nimport installed_elsewhere\n")
    for value in (1, 2):
        discovery._REGISTERED.clear()  # pyright: ignore[reportPrivateUsage]
        monkeypatch.delitem(sys.modules, "installed_elsewhere", raising=False)
        (packages / "installed_elsewhere.py").write_text(f"VALUE = {value}\n")
        [config] = load_plugin(tmp_path / "mine.py")
        prints.append(fingerprint(config()))
    assert prints[0] == prints[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def f(:", "line 1: not valid Python"),
        ("x = 'a\0b'", "not valid Python"),
        ("from sae.metric import MetricConfig\nclass M(MetricConfig):\n    kind: str = 'm'\n", "M has no score"),
        (
            "from sae.metric import MetricConfig\nclass M(MetricConfig):\n    def score(self, case): ...\n",
            'M has no field kind: Literal["name"]',
        ),
        (
            "from sae.metric import MetricConfig\nclass M(MetricConfig):\n    kind: str = 'm'\n"
            "    def score(self, case): ...\n",
            "M.kind: must be one name, given twice",
        ),
    ],
)
def test_a_plugin_that_is_no_kind_is_refused_with_the_reason(content: str, words: str, tmp_path: Path):
    (tmp_path / "wrong.py").write_text(content)
    with pytest.raises(UserError, match=re.escape(words)):
        load_plugin(tmp_path / "wrong.py")


def test_a_broken_entry_point_does_no_harm_to_others(install: Callable[..., None]):
    install("[sae.metrics]\nnothing = entropy_metric:Nothing\n", entropy_metric="")
    with pytest.warns(UserWarning, match="'nothing' of outside-kinds: entropy_metric:Nothing cannot be loaded"):
        assert "recovery" in configurable("metrics")


def distribution(folder: Path, entry_points: str, **modules: str) -> None:
    """A package as pip leaves it: modules, and the metadata that names its entry points."""
    info = folder / "outside_kinds-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-kinds\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for name, content in modules.items():
        (folder / f"{name}.py").write_text(content)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Installs such a package until the test ends."""

    def install(entry_points: str, **modules: str) -> None:
        distribution(tmp_path / "site", entry_points, **modules)
        monkeypatch.syspath_prepend(tmp_path / "site")
        for name in modules:
            monkeypatch.delitem(sys.modules, name, raising=False)
        discovery._installed.cache_clear()  # pyright: ignore[reportPrivateUsage]

    return install


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """The command in this process, in a folder with the config: exit code, stdout, stderr."""
    (tmp_path / "outside.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        discovery._REGISTERED.clear()  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(sys, "argv", ["sae", *arguments])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_from_a_config_to_scores_with_all_five_by_entry_point(install: Callable[..., None], call: Call, tmp_path: Path):
    names = {"spikes_source": "Spikes", "root_dictionary": "Root", "relative_encoder": "Relative"}
    names |= {"differences_baseline": "Differences", "entropy_metric": "Entropy"}
    lines = [
        f"[sae.{'dictionaries' if 'dictionary' in module else module.rpartition('_')[2] + 's'}]\n"
        f"{cls.lower()} = {module}:{cls}Config\n"
        for module, cls in names.items()
    ]
    install("\n".join(lines), **{name: (EXAMPLES / f"{name}.py").read_text() for name in names})
    code, told, warned = call("run", "outside.toml", "--out", "runs")
    assert code == 0, warned
    assert "root" in told and "differences" in told
    scores = (tmp_path / "runs/outside/scores.csv").read_text()
    assert "firing_entropy" in scores.splitlines()[0] and "relative" in scores
    assert call("run", "outside.toml", "--out", "runs")[0] == 0  # its source has stored no file, and is finished


def test_an_entry_point_that_takes_a_name_is_refused(install: Callable[..., None], call: Call):
    text = (EXAMPLES / "entropy_metric.py").read_text().replace('"entropy"', '"recovery"')
    install("[sae.metrics]\nrecovery = entropy_metric:EntropyConfig\n", entropy_metric=text)
    code, _, warned = call("plan", "demo")
    assert code == 2 and warned.count("\n") == 1
    assert "entry point 'recovery' of outside-kinds: kind 'recovery' of metrics exists already" in warned


def test_plugins_are_files_on_the_command_line_and_part_of_the_keys(call: Call, tmp_path: Path):
    plugins = list[str]()
    for name in CHECKS:
        (tmp_path / f"{name}.py").write_text((EXAMPLES / f"{name}.py").read_text())
        plugins += ["--plugin", f"{name}.py"]

    def plan(*arguments: str) -> dict[str, list[str]]:
        code, told, warned = call(*arguments)
        assert code == 0, warned
        steps = [line.split()[0] for line in told.splitlines() if "-" in line.split()[0]]
        return {stage: [s for s in steps if s.startswith(stage)] for stage in ("generate", "train", "encode", "score")}

    assert call("plan", "outside.toml")[0] == 2, "without the plugins the kinds are unknown"
    before = plan(*plugins, "plan", "outside.toml")
    assert plan("plan", "outside.toml", *plugins) == before, "before or after the command"
    with (tmp_path / "relative_encoder.py").open("a") as f:
        f.write("# another version\n")
    after = plan(*plugins, "plan", "outside.toml")
    assert after["generate"] == before["generate"] and after["train"] == before["train"]
    assert not set(after["encode"]) & set(before["encode"])
    assert len(set(after["score"]) & set(before["score"])) == 2, "only what uses the plugin has another key"


def test_a_config_cannot_name_a_plugin(call: Call, tmp_path: Path):
    (tmp_path / "outside.toml").write_text('plugin = "x.py"\n' + CONFIG)
    code, _, warned = call("plan", "outside.toml")
    assert code == 2 and "'plugin' is not a known key" in warned


def test_whose_error_it_is(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A mistake of the user is one line and exit code 2; a bug keeps its traceback; one of a plugin is called that."""
    code, _, warned = call("plan", "nowhere.toml")
    assert code == 2 and warned.count("\n") == 1 and "Traceback" not in warned
    code, _, warned = call("--debug", "plan", "nowhere.toml")
    assert code == 2 and "Traceback" in warned and warned.endswith("there is no such config file\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    code, _, warned = call("--plugin", "broken.py", "plan", "demo")
    assert code == 1 and "ZeroDivisionError" in warned and "broken.py, line 1" in warned.splitlines()[-1]

    def wrong(*_: object) -> None:
        list(zip([1], [1, 2], strict=True))

    monkeypatch.setattr("pipelines.config.shipped.find_config", wrong)
    code, _, warned = call("plan", "demo")
    assert code == 1 and "ValueError" in warned and "this is a bug of sae" in warned.splitlines()[-1]
    monkeypatch.setattr("pipelines.config.shipped.find_config", full_disk)
    code, _, warned = call("plan", "demo")
    assert (code, warned) == (2, "sae: runs/x: No space left on device\n")


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "runs/x")
