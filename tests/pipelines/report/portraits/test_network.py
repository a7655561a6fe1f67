"""Figures of toy networks: which ones a source has, and the points along which it varies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.report.portraits import FirstSeedDictionary, network
from pipelines.report.portraits._points import line, thinned
from sae.dictionaries.relu import Relu
from sae.sources.network import Config, Hidden


def settings(**given: Any) -> Config:
    table = {
        "n_features": 5,
        "activity": {"kind": "independent", "probability": 0.1},
        "network": {"hidden": (2,)},
        "training": {"steps": 20, "batch_size": 32},
        "instances": 3,
    }
    return Config(**(table | given))


def finished(config: Config, directory: Path) -> Path:
    """The directory of a source's finished step, with the files that the figures need."""
    config.prepare(directory, lambda done, total, unit: None, "cpu")
    manifest = {"config": {"source": config.model_dump(mode="json")}, "inputs": {}, "files": {}}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def shown(directory: Path) -> dict[str, Any]:
    return {name: figure for name, _, _, figure in network.draw(directory) if figure is not None}


def test_points_lie_along_one_name_with_the_others_as_they_are_read():
    vary = {"importance": ([1.0, 0.5], [1.0, 2.0]), "activity.probability": (0.5, 0.2, 0.1), "network.dropout": (0.0,)}
    source = settings(n_features=2, network={"hidden": (1,)}, vary=vary, point=4).build()
    found = line(source)
    assert found.name == "activity.probability" and found.points == [3, 4, 5]
    assert found.labels == ["p = 0.5", "p = 0.2", "p = 0.1"]
    assert [source.points[p].activity.probability.value for p in found.points] == [0.5, 0.2, 0.1]
    across = line(source, "importance")
    assert across.points == [1, 4] and across.labels == ["importance = (…, 0.5)", "importance = (…, 2)"]
    assert line(source, "network.dropout").name == "" and line(source, "network.dropout").points == [4]
    assert thinned(list(range(9)), 3) == [0, 4, 8]


COMPUTES = {"task": "absolute", "signed": True, "network": {"hidden": (4,), "tied": False, "activation": "relu"}}
GRID = {"importance": ([1.0, 0.5], [1.0, 2.0]), "activity.probability": (0.5, 0.1)}


@pytest.mark.parametrize(
    "given, names",
    [
        ({}, {"interference", "instances", "training"}),
        ({"instances": 1}, {"interference", "training"}),
        ({"network": {"hidden": (3,)}, "n_features": 101}, {"training"}),
        (COMPUTES, {"neurons", "training"}),
        (COMPUTES | {"vary": {"activity.probability": (0.5, 0.1)}}, {"neurons", "training"}),
        ({"network": {"hidden": (2, 2), "tied": False}}, {"instances", "training"}),
        (
            {"network": {"hidden": (2,), "tied": False}, "vary": {"network.dropout": (0.0, 0.5)}},
            {"interference", "vectors", "instances", "dropout", "training"},
        ),
        (
            {"n_features": 2, "network": {"hidden": (1,)}, "vary": GRID},
            {"interference", "dimensions", "phases", "training"},
        ),
        (
            {"n_features": 3, "network": {"hidden": (1,)}, "vary": {**GRID, "importance": ([1.0, 1.0, 2.0],)}},
            {"interference", "dimensions", "training"},
        ),
    ],
)
def test_a_source_shows_what_it_has(given: dict[str, Any], names: set[str], tmp_path: Path):
    network_of = given.get("network", {"hidden": (2,)})
    start = {"start": "unit"} if "start" not in network_of else {}
    directory = finished(settings(**(given | {"network": network_of | start})), tmp_path)
    assert set(shown(directory)) == {f"network-{name}" for name in names}


def test_a_dictionary_is_drawn_over_the_plane_of_the_features_it_was_to_find(tmp_path: Path):
    directory = finished(settings(training={"steps": 300, "batch_size": 128}), tmp_path)
    source = Config.model_validate(json.loads((directory / "manifest.json").read_text())["config"]["source"]).open(
        directory, "cpu"
    )
    assert isinstance(source, Hidden) and source.truth is not None
    truth = Relu.tied(source.truth.directions[source.truth.represented])
    blind = Relu(torch.zeros(2, 1), torch.ones(1, 2), torch.zeros(1), torch.zeros(2))
    scores = {"mcc": 1.0, "fvu": 0.25, "fvu_active_2": 0.2, "fvu_active_1": 0.1, "fvu_active_3": float("nan")}
    candidates = [FirstSeedDictionary("truth", truth, scores), FirstSeedDictionary("blind", blind, {})]
    figures = {name: figure for name, _, _, figure in network.overlay(directory, candidates)}
    plane, active = figures["network-found"], figures["network-active"]
    assert plane is not None and active is not None
    assert [ax.get_title(loc="center") for ax in plane.axes] == ["truth\nmcc 1, fvu 0.25"], "none of the other fires"
    arrows = np.array([t.xy for t in plane.axes[0].texts])
    arrows /= np.linalg.norm(arrows, axis=1, keepdims=True)
    np.testing.assert_allclose(arrows, truth.W_dec.numpy(), atol=1e-5)
    np.testing.assert_allclose(active.axes[1].lines[0].get_xydata(), [[1, 0.1], [2, 0.2]])
