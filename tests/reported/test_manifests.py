"""A finished step is believed only where its folder holds that step: reported were scores of other dictionaries."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.runner import execution, run, standings
from pipelines.steps.manifest import hash_of
from pipelines.steps.progress import Board
from pipelines.steps.source_steps import open_step
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from sae.registry import UserError

TABLE: dict[str, Any] = {
    "name": "tiny",
    "source": {"kind": "independent", "n_features": 16, "d_in": 8, "probability": 0.1},
    "dictionary": {"kind": "relu", "n_latents": 16, "l1": [0.1, 0.5]},
    "train": {"seeds": 0, "steps": 20, "batch_size": 32, "log_every": 10, "n_scale": 64},
    "baselines": {"kinds": []},
    "score": {"n_rows": 400, "metrics": ["reconstruction"]},
    "runtime": {"device": "cpu", "threads": 1},
}


def work(out: Path) -> list[Step]:
    steps = plan(parse(TABLE))[:-1]
    run(steps, Store(out), execution(parse(TABLE).runtime), Board(Console(quiet=True)))
    return steps


def refusal(out: Path) -> str:
    """The one line with which a run over damaged steps ends; `standings` has to report it too."""
    with pytest.raises(UserError) as caught:
        work(out)
    message = str(caught.value)
    problems = [s.problem for s in standings(plan(parse(TABLE))[:-1], Store(out)) if s.state == "damaged"]
    assert "\n" not in message and problems[0] == message
    return message


def edited(folder: Path, change: Callable[[dict[str, Any]], None], with_its_hash: bool = True) -> None:
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    if with_its_hash:
        manifest["sha256"] = hash_of(manifest)
    file.write_text(json.dumps(manifest))


def test_two_folders_renamed_into_each_other(tmp_path: Path):
    """With two train folders swapped, each setting was given the scores of the other and all steps were 'done'."""
    steps = work(tmp_path)
    one, other = (tmp_path / s.name for s in steps if s.stage == "train")
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    assert refusal(tmp_path) == (
        f"{one}: its manifest is that of another step, {other.name} (key differs); rename the folder back, or delete "
        f"{one} and run again"
    )


@pytest.mark.parametrize(
    ("stage", "path", "value"),
    [
        ("generate", ["config", "source", "probability"], 0.2),
        ("generate", ["config", "source", "seed"], False),  # equal to 0 in Python, not in JSON
        ("generate", ["version"], 0),
        ("train", ["inputs", "source"], "generate-0123456789abcdef"),
        ("train", ["config"], None),
        ("score", ["stage"], "scope"),
        ("score", ["key"], None),
    ],
)
def test_a_manifest_that_differs_from_the_plan(tmp_path: Path, stage: str, path: Sequence[str], value: Any):
    """A flipped bit in the manifest of a source changed the data that later steps were scored on, without a word."""
    steps = work(tmp_path)
    folder = tmp_path / next(s.name for s in steps if s.stage == stage)

    def change(manifest: dict[str, Any]) -> None:
        for name in path[:-1]:
            manifest = manifest[name]
        manifest[path[-1]] = value

    edited(folder, change)
    message = refusal(tmp_path)
    assert str(folder) in message and f"delete {folder} and run again" in message
    assert path[0] in message


@pytest.mark.parametrize("files", [{}, [], None, {"scores.json": {}}, {"scores.json": "x", "vectors.safetensors": 3}])
def test_a_manifest_that_does_not_list_every_file(tmp_path: Path, files: Any):
    """With `files` emptied, a changed scores.json was shown as the result of a run."""
    steps = work(tmp_path)
    folder = tmp_path / next(s.name for s in steps if s.stage == "score")
    edited(folder, lambda m: m.update(files=files))
    assert f"delete {folder} and run again" in refusal(tmp_path)


def test_a_file_that_is_not_in_the_manifest(tmp_path: Path):
    """A shift.safetensors put beside the examples of probes was read by them; a hidden file is not."""
    steps = work(tmp_path)
    folder = tmp_path / steps[0].name
    (folder / ".DS_Store").write_text("")
    work(tmp_path)
    (folder / "new.json").write_text("{}")
    assert "move it away" in refusal(tmp_path) and str(folder / "new.json") in refusal(tmp_path)


def test_steps_of_another_run_are_verified_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What another process finished during the run was read without a look at it."""
    steps = plan(parse(TABLE))[:-1]
    done = Store.done
    hidden = {steps[0].name}

    def late(store: Store, step: Step) -> bool:  # as though the source were finished by another run, damaged
        return step.name not in hidden and done(store, step)

    work(tmp_path)
    (tmp_path / steps[0].name / "source.safetensors").write_bytes(b"")
    monkeypatch.setattr(Store, "done", late)

    def finished_elsewhere(*_: object) -> bool:
        hidden.clear()
        return True

    monkeypatch.setattr("pipelines.runner._Run._work_if_free", finished_elsewhere)
    with pytest.raises(UserError, match="damaged"):
        work(tmp_path)


def test_a_source_is_opened_from_its_step(tmp_path: Path):
    """The settings of a source were read from its manifest, not from the plan."""
    source = work(tmp_path)[0]
    folder = tmp_path / source.name
    before = open_step(source, folder, "cpu").batch(0, 8).acts
    edited(folder, lambda m: m["config"]["source"].update(probability=0.9, seed=3))
    assert (open_step(source, folder, "cpu").batch(0, 8).acts == before).all()


@pytest.mark.parametrize(
    "path", [["versions", "torch"], ["device"], ["title"], ["sha256"], ["files", "source.safetensors", "sha256"]]
)
def test_a_flipped_bit_in_an_entry(tmp_path: Path, path: list[str]):
    """A flipped bit in the versions of a manifest was printed in the report, and one in a hash was said to be damage of
    the file."""
    work(tmp_path)
    (source,) = tmp_path.glob("generate-*")

    def change(manifest: dict[str, Any]) -> None:
        *parents, name = path
        place = reduce(getitem, parents, manifest)
        place[name] = place[name][:-1] + "?"

    edited(source, change, with_its_hash=False)
    assert refusal(tmp_path) == (
        f"{source / 'manifest.json'}: damaged, its own hash differs; delete {source} and run again"
    )


def test_a_manifest_of_an_earlier_version_has_no_hash(tmp_path: Path):
    """It is believed where it has the entries of that version, not where the name of the hash was damaged."""
    work(tmp_path)
    (source,) = tmp_path.glob("generate-*")
    edited(source, lambda manifest: manifest.pop("sha256"), with_its_hash=False)
    work(tmp_path)
    edited(source, lambda manifest: manifest.update(sha257="x"), with_its_hash=False)
    assert "its own hash differs" in refusal(tmp_path)
