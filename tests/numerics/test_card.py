"""The schema of cards: what is written has its types, and cards of earlier versions are read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import sae
from sae.dictionaries.relu import Relu
from sae.files.native import HEADER
from sae.numerics.card import SCHEMA, Card, upgraded, wrong_entries
from sae.sources.independent import Config as Independent

PAGE = Path(__file__).parents[2] / "docs" / "files.md"
SHORT: dict[str, Any] = {"steps": 3, "batch_size": 32, "n_scale": 64}


def test_fit_writes_the_entries_of_the_schema():
    source = Independent(n_features=16, d_in=8, probability=0.1)
    [d] = sae.fit(source.build(), "relu", n_latents=12, l1=0.5, seeds=[3], **SHORT)
    assert set(d.card) == {"source", "dictionary", "train", "seed", "spent", "input_scale"}
    assert wrong_entries(d.card) == []
    assert d.card["source"] == source.model_dump(mode="json") and d.card["seed"] == 3
    assert d.card["dictionary"] == sae.relu(n_latents=12, l1=0.5).model_dump(mode="json")
    assert d.card["train"] == sae.TrainConfig(**SHORT).model_dump(mode="json")
    limited = source.model_copy(update={"n_train": 500})
    assert sae.fit(limited.build(), "relu", n_latents=12, l1=0.5, **SHORT)[0].card["source"]["n_train"] == 500


def test_a_matrix_in_memory_is_named_by_its_split():
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    [d] = sae.fit(x, "topk", n_latents=12, k=2, **SHORT)
    assert d.card["source"] == {"kind": "tensor", "heldout": 0.2, "seed": 0}
    refined = sae.refine(d, x, steps=2, batch_size=64).with_encoder("omp", x, k=2)
    assert set(refined.card) == {*d.card, "refine", "encoder"} and wrong_entries(refined.card) == []
    assert json.loads(json.dumps(refined.card)) == refined.card


def test_the_settings_of_training_in_one_table():
    card = Card({"train": {"steps": 3}, "dictionary": {"kind": "relu", "l1": 0.5}, "seed": 1})
    assert card["training"] == {"steps": 3, "kind": "relu", "l1": 0.5, "seed": 1}
    assert "training" not in card and card.get("training") is None and len(json.loads(json.dumps(card))) == 3
    for name in ("training", "scores"):
        with pytest.raises(KeyError):
            Card({"seed": 1})[name]


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path):
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    [d] = sae.fit(x, "relu", n_latents=12, l1=0.5, seeds=[3], **SHORT)
    sae.save(d, tmp_path)
    header = json.loads((tmp_path / HEADER).read_text())
    new = header["card"]
    old = {name: new[name] for name in ("spent", "input_scale")} | {"training": d.card["training"]}
    (tmp_path / HEADER).write_text(json.dumps(header | {"card": old}))
    read = sae.load(tmp_path)
    assert read.card == {name: entry for name, entry in new.items() if name != "source"}
    assert read.card["training"] == old["training"]
    sae.save(read, tmp_path / "again")
    assert "training" not in json.loads((tmp_path / "again" / HEADER).read_text())["card"]


@pytest.mark.parametrize("table", [None, "text", {"steps": 3}, {"kind": "relu", "seed": 0}])
def test_a_training_entry_of_ones_own_is_left_alone(table: Any, tmp_path: Path):
    assert upgraded({"training": table}, frozenset({"steps"})) == {"training": table}
    sae.save(Relu.tied(torch.eye(3)).with_card(training=table), tmp_path)
    assert sae.load(tmp_path).card["training"] == table


def test_the_page_has_the_schema():
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: meaning for name, _, meaning in rows} == {name: entry.meaning for name, entry in SCHEMA.items()}
    assert wrong_entries({"seed": "3", "scores": {}, "own": 1}) == ["seed: str"]
