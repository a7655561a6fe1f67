"""The program of studies on small language models, with models that are hardly trained."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

import benchmarks.small_models.__main__ as program
from benchmarks.small_models import Models, Trained, monosemantic, neuron_values, studies
from benchmarks.studies import Fact
from sae.registry import UserError
from tests.toys.language.texts import stories

SHORT = {"steps": 2, "batch_size": 4, "measure_every": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("small")
    text, heldout = (folder / f"{name}.txt" for name in ("text", "heldout"))
    for seed, file in enumerate((text, heldout)):
        words = stories(file, seed=seed).read_text().replace("|", "\n\n")
        file.write_text("\n\n".join(f"Once {i} times. {words}" for i in range(30)))
    return Models(text, heldout, folder / "out", SHORT)


@pytest.fixture(scope="module")
def trained(models: Models) -> Trained:
    return models.trained({"d_model": 16, "n_heads": 2, "n_ctx": 16})


def test_a_model_is_trained_once_and_kept_by_its_settings(models: Models, trained: Trained):
    again = models.trained({"d_model": 16, "n_heads": 2, "n_ctx": 16})
    other = models.trained({"d_model": 16, "n_heads": 2, "n_ctx": 16}, seed=1)
    assert again.folder == trained.folder != other.folder
    assert trained.settings.training.steps == 2 and trained.scores["model"] > 0


def test_neurons_are_those_of_the_hooked_model(trained: Trained):
    rows = trained.rows(40)
    ours = torch.cat([*neuron_values(trained.network(), rows)])
    [theirs] = trained.model().activations_at(rows.tokens, rows.attended, ["blocks.0.mlp.hook_post"])
    torch.testing.assert_close(ours, theirs[rows.kept], rtol=1e-4, atol=1e-5)


def test_a_unit_of_one_token_is_monosemantic_and_one_of_no_token_is_not(trained: Trained):
    rows = trained.rows(60)
    tokens = rows.tokens[rows.kept]
    common = tokens.bincount().argmax()
    parts = iter(tokens.split([len(x) for x in neuron_values(trained.network(), rows)]))

    def units(x: torch.Tensor) -> torch.Tensor:
        part = next(parts)
        return torch.stack([(part == common).float(), 1.0 + torch.rand(len(part), generator=draw)], 1)

    draw = torch.Generator().manual_seed(0)
    found = monosemantic(trained.network(), rows, {"units": (2, units)})["units"]
    assert found.n_units == 2 and found.share.value == 0.5 and found.largest[0] == 10


def test_a_study_prints_its_facts_and_an_unknown_one_is_refused(
    models: Models, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def one(given: Models) -> Iterator[Fact]:
        """What it is
        about."""
        yield Fact("steps", "2", str(given.training["steps"]))

    assert {"solu_twins", "mlp_width", "widening", "heads_16", "induction_codes", "ioi_codes"} <= studies().keys()
    monkeypatch.setattr(program, "studies", lambda: {"one": one})
    given = {"text": models.text, "heldout": models.heldout, "out": models.out, "training": json.dumps(SHORT)}
    [line] = program.small_models("one", **given)
    [shown] = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert shown == line
    assert (line["benchmark"], line["about"], line["claim"], line["measured"]) == (
        "small_models", "What it is about.", "steps", "2"
    )  # fmt: skip
    with pytest.raises(UserError, match="'won' is not a known study"):
        program.small_models("won", **given)
