"""Long sweeps are planned in a time that grows with their length; those of a slip of the finger are refused."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.config.config import parse
from pipelines.config.names import labels_of
from pipelines.plan import plan
from sae.registry import UserError

SOURCE = {"kind": "independent", "n_features": 8, "d_in": 4, "probability": 0.2}


class Counted:
    """A value that counts how often it is compared."""

    comparisons = 0

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return isinstance(other, Counted) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)


def table(**changes: Any) -> dict[str, Any]:
    dictionary = {"kind": "relu", "n_latents": 8, "l1": 0.1}
    return {"name": "s", "source": SOURCE, "dictionary": dictionary, "train": {"steps": 3}} | changes


def test_the_work_for_labels_grows_with_their_number():
    """Each setting was compared with every other, for every field: a sweep of 1000 values was planned in 49 s."""
    n = 500
    Counted.comparisons = 0
    same, differ = {"kind": "relu", "same": Counted(0)}, [{"one": Counted(i)} for i in range(n)]
    labels = labels_of([{**same, **each, "nested": {"a": Counted(i)}} for i, each in enumerate(differ)], skip=set())
    assert len(set(labels)) == n and Counted.comparisons < 10 * n


def test_a_sweep_keeps_its_order_and_drops_what_is_given_twice():
    l1 = [0.3, 0.1, 0.3, 0.2]
    dictionary = {"kind": "relu", "n_latents": 8, "l1": l1, "refine": {"steps": [2, 3, 2]}}
    config = parse(table(dictionary=dictionary))
    assert [d.model_dump()["l1"] for d in config.dictionaries] == [0.3, 0.1, 0.2]
    assert [(d.model_dump()["l1"], r.steps) for d, r in config.refinements] == [
        (each, steps) for each in (0.3, 0.1, 0.2) for steps in (2, 3)
    ]
    refined = [step for step in plan(config) if step.stage == "refine"]
    assert [step.inputs["dictionary"].config["dictionary"]["l1"] for step in refined] == [0.3, 0.3, 0.1, 0.1, 0.2, 0.2]


SMALL = [i / 1000 for i in range(1, 200)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"dictionary": {"kind": "relu", "n_latents": list(range(1, 200)), "l1": SMALL}},
            r"dictionary.n_latents \(199\) x dictionary.l1 \(199\): 39,601 settings of a sweep, more than 20,000",
        ),
        ({"train": {"lr": list(range(20_001))}}, r"train.lr \(20,001\): 20,001 settings of a sweep"),
        ({"source": SOURCE | {"seed": list(range(20_001))}}, r"source.seed \(20,001\): 20,001 settings of a sweep"),
        (
            {"dictionary": {"kind": "relu", "n_latents": 8, "l1": SMALL}, "train": {"seeds": list(range(101))}},
            r"dictionary x train \(199\) x train.seeds \(101\): 20,099 dictionaries to score",
        ),
        (
            {"baselines": {"kinds": ["random"], "seeds": list(range(20_001))}},
            r"baselines.seeds \(20,001\): 20,001 baselines to score",
        ),
    ],
    ids=["product", "train", "source", "seeds", "baselines"],
)
def test_a_sweep_beyond_any_machine(changes: dict[str, Any], words: str):
    """A million settings filled the memory before the first line was printed."""
    with pytest.raises(UserError, match=words) as error:
        parse(table(**changes))
    assert "\n" not in str(error.value) and "shorten a list" in str(error.value)
