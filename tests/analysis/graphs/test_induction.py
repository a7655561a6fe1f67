"""On two layers that do induction, the known path carries the effect, and a graph without that knowledge finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.circuits import circuits


@pytest.mark.slow
def test_the_known_path_carries_the_effect_and_random_parts_of_its_size_do_not(
    tmp_path: Path, shapes_unchecked: None
) -> None:
    lines = circuits("induction", seeds=(0,), prompts=8, steps=1000, cache=tmp_path)
    by_name = {(line["nodes"], line["dictionaries"]): line for line in lines}
    for dictionaries in ("identity", "trained"):
        path, graph = (by_name[name, dictionaries] for name in ("known path, zero", "graph, zero"))
        assert path["kept"][0] >= 0.8 and path["random"][0] <= 0.2
        assert graph["kept"][0] >= 0.7 and graph["random"][0] <= 0.2
        assert graph["first_layer_on_path"][0] >= 5 * graph["of_all_latents"][0]
        assert by_name["induction heads alone, zero", dictionaries]["kept"][0] <= 0.2
    assert by_name["known path, zero", "identity"]["latents"][0] == pytest.approx(1, abs=1e-3)
