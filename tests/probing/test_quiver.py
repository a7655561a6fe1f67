"""The quiver: selection by validation, by the fixed order without it, and never by test labels."""

from __future__ import annotations

import math

import numpy as np
import torch

from sae.probing import ProbeExamples, ProbeResult, StudySettings, quiver, study, summary
from sae.probing.quiver import best_by_validation
from sae.probing.summary import Condition

NAN = math.nan


def result(method: str, val: float, test: float, task: str = "t", reading: str = "acts", **more: object) -> ProbeResult:
    known = {"regime": "standard", "level": 0.0, "seed": 0, "n": 9, "n_positive": 4, "f1": 0.5, "accuracy": 0.5}
    return ProbeResult(reading=reading, method=method, task=task, val_auc=val, test_auc=test, setting="", why="", **{  # pyright: ignore
        **known, **more})  # fmt: skip


def test_the_best_by_validation_is_taken_whatever_its_test_auc():
    taken = best_by_validation([result("lr", 0.7, 0.9), result("knn", 0.8, 0.2)])
    assert (taken.result.method, taken.why) == ("knn", "validation")


def test_ties_go_to_the_first_in_the_order_and_are_marked():
    taken = best_by_validation(
        [result("lr", 0.5, 0.1), result("pca", 1.0, 0.2), result("k16", 1.0, 0.9, reading="codes")]
    )
    assert (taken.result.method, taken.why) == ("pca", "tie")


def test_without_validation_the_first_is_taken_and_marked():
    taken = best_by_validation([result("lr", NAN, 0.6), result("knn", NAN, 0.9)])
    assert (taken.result.method, taken.why) == ("lr", "prior")
    assert best_by_validation([result("lr", NAN, 0.6), result("knn", 0.4, 0.9)]).result.method == "knn"


def test_controls_are_never_taken():
    found = quiver([result("lr", 0.6, 0.6), result("shuffled", 0.9, 0.5), result("untrained_k16", 0.99, 0.5)])
    assert [t.result.method for t in found.values()] == ["lr"]


def test_a_summary_by_hand():
    tasks = {"a": (0.9, 0.8, 0.95), "b": (0.8, 0.9, 0.85), "c": (0.7, 0.6, 0.60)}
    raw, own = list[ProbeResult](), list[ProbeResult]()
    for task, (lr, knn, k1) in tasks.items():
        raw += [result("lr", 0.5, lr, task), result("knn", 0.6, knn, task), result("shuffled", 0.9, 0.5, task)]
        own += [result("k1", 0.7 if task == "a" else 0.1, k1, task, "codes")]
        own += [result("untrained_k1", 0.9, 0.6, task, "untrained")]
    found = summary(raw, {"relu": [own]})
    (help,) = found.helps
    assert help.condition == Condition("standard", None) and help.taken == 1 / 3
    np.testing.assert_allclose(help.without.mean, (0.8 + 0.9 + 0.6) / 3)  # knn everywhere
    np.testing.assert_allclose(help.joined.mean, (0.95 + 0.9 + 0.6) / 3)  # k1 on task a alone
    np.testing.assert_allclose(help.own.mean, (0.95 + 0.85 + 0.6) / 3)
    np.testing.assert_allclose(help.added.difference, 0.15 / 3)
    assert (help.added.wins, help.added.losses, help.added.ties) == (1, 0, 2)
    np.testing.assert_allclose(help.alone.difference, (0.05 + 0.05 - 0.1) / 3, atol=1e-12)  # against lr
    k1 = next(o for o in found.outcomes if o.method == "k1")
    assert k1.untrained is not None
    np.testing.assert_allclose(k1.untrained.difference, (0.35 + 0.25 + 0) / 3, atol=1e-12)


def test_draws_of_rows_make_a_task_surer_and_not_more_numerous():
    raw = [result("lr", 0.6, 0.8 + 0.1 * seed, task, seed=seed) for task in "ab" for seed in (0, 1)]
    (outcome,) = summary(raw, {}).outcomes
    assert outcome.auc.n == 2 and abs(outcome.auc.mean - 0.85) < 1e-12 and outcome.auc.half == 0


def test_levels_are_told_apart_and_together():
    raw = [result("lr", 0.6, 0.5 + 0.1 * level, "t", regime="noise", level=float(level)) for level in (1, 2)]
    found = {o.condition: o.auc.mean for o in summary(raw, {}).outcomes}
    assert {c.level for c in found} == {None, 1.0, 2.0}
    np.testing.assert_allclose(found[Condition("noise", None)], 0.65)


def test_test_labels_decide_nothing_that_is_chosen():
    draw = np.random.default_rng(0)
    y, y_test = draw.random(400) < 0.5, draw.random(300) < 0.5
    x, x_test = (draw.normal(size=(len(v), 8)) + 0.8 * v[:, None] for v in (y, y_test))
    settings = StudySettings(
        regimes=("standard", "scarcity"),
        scarcity=(2, 8),
        probes=("lr", "knn", "diff_means"),
        k=(1,),
        seeds=(0,),
        n_settings=3,
    )

    def run(labels: np.ndarray) -> list[ProbeResult]:
        train, test = (
            ProbeExamples.each(torch.from_numpy(a).float(), {"t": torch.from_numpy(b).long()})
            for a, b in ((x, y), (x_test, labels))
        )
        return [r for part in study(settings, train, test) for r in part]

    honest, scrambled = run(y_test), run(draw.permutation(y_test))
    blind = [r._replace(test_auc=0.0, f1=0.0, accuracy=0.0) for r in honest]
    assert [str(r) for r in blind] == [str(r._replace(test_auc=0.0, f1=0.0, accuracy=0.0)) for r in scrambled]
    assert max(r.test_auc for r in honest) > 0.85 and max(r.test_auc for r in scrambled) < 0.7
    a, b = quiver(honest), quiver(scrambled)
    assert {c: (t.result.method, t.why) for c, t in a.items()} == {c: (t.result.method, t.why) for c, t in b.items()}
    assert a["t", "scarcity", 2, 0].why == "prior"
