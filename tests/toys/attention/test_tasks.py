"""Tasks against brute force: plain Python integers, and loops over positions."""

from __future__ import annotations

import math

import pytest
import torch

from sae.model.token_rows import NOTHING
from sae.toys.attention.addition import Addition
from sae.toys.attention.names import Names
from sae.toys.attention.recent import Recent
from sae.toys.attention.repeats import Repeats
from sae.toys.attention.skip_trigram import SkipTrigram
from sae.toys.attention.task import TokenTask, defined

TASKS: dict[str, TokenTask] = {
    "addition": Addition(n_digits=3, n_train=500, n_test=200),
    "skip_trigram": SkipTrigram(k=4),
    "recent": Recent(),
    "repeats": Repeats(),
    "names": Names(),
}


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> TokenTask:
    return TASKS[request.param]


def test_a_batch_is_a_function_of_seed_split_and_step(task: TokenTask):
    first = task.batch(0, "train", 3, 32)
    assert torch.equal(first, task.batch(0, "train", 3, 32)) and first.shape == (32, task.n_tokens)
    for other in (task.batch(1, "train", 3, 32), task.batch(0, "train", 4, 32), task.batch(0, "test", 3, 32)):
        assert not torch.equal(first, other)
    assert int(first.min()) >= 0 and int(first.max()) < task.d_vocab


def test_answers_and_labels_follow_from_tokens_and_are_of_the_vocabulary(task: TokenTask):
    tokens = task.batch(0, "train", 0, 64)
    answers, labels = task.answers(tokens), task.labels(tokens)
    again = task.answers(tokens[5:7])
    assert torch.equal(answers[5:7], again)
    assert int(answers.max()) < task.d_vocab_out and int(answers.min()) == NOTHING
    at = defined(labels)
    assert bool(at.any()) and all(bool((label[at] >= 0).all()) for label in labels.values())
    assert task.floor(tokens).shape == tokens.shape
    if task.bos is not None:
        assert bool((tokens[:, 0] == task.bos).all()) and not bool(at[:, 0].any())


@pytest.mark.parametrize("n_digits", [2, 3, 6])
def test_addition_is_that_of_integers(n_digits: int):
    task = Addition(n_digits=n_digits, n_train=300, n_test=100)
    tokens = task.batch(0, "train", 0, 300)
    answers, labels = task.answers(tokens), task.labels(tokens)
    for row, answer, i in zip(tokens.tolist(), answers.tolist(), range(300), strict=True):
        a, b = (int("".join(map(str, reversed(row[first : first + n_digits])))) for first in (0, n_digits))
        assert row[2 * n_digits :] == [10] * (n_digits + 1)
        assert answer[: 2 * n_digits] == [NOTHING] * (2 * n_digits)
        assert int("".join(map(str, reversed(answer[2 * n_digits :])))) == a + b
        for place in range(n_digits + 1):
            low, high = 10**place, 10 ** (place + 1)
            expected = {
                "a": a % high // low,
                "b": b % high // low,
                "sum": a % high // low + b % high // low,
                "carry": int(a % low + b % low >= low),
                "carry_out": int(a % high + b % high >= high),
                "answer": (a + b) % high // low,
                "carry_at": 2 * place + int(a % low + b % low >= low),
                "answer_at": 10 * place + (a + b) % high // low,
            }
            at = [2 * n_digits + place] + ([n_digits + place] if place < n_digits else [])
            assert {n: {int(labels[n][i, p]) for p in at} for n in labels} == {n: {v} for n, v in expected.items()}
        assert all(bool((label[i, :n_digits] == NOTHING).all()) for label in labels.values())


def test_pairs_of_numbers_are_never_drawn_twice_and_never_in_two_splits():
    task = Addition(n_digits=2, n_train=9000, n_test=1000)
    rows = [task.batch(0, split, 0, n) for split, n in (("train", 9000), ("choose", 500), ("test", 500))]  # pyright: ignore
    assert len({tuple(r[:4]) for r in torch.cat(rows).tolist()}) == 100**2


def test_an_epoch_of_addition_has_every_pair_once_in_a_new_order():
    task = Addition(n_digits=3, n_train=64, n_test=2)
    first, second = (task.batch(0, "train", epoch, 64) for epoch in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) and first.tolist() != second.tolist()


def test_skip_trigrams_are_complete_once_a_was_seen_and_only_then():
    task = SkipTrigram(k=3)
    tokens = task.batch(0, "train", 0, 2000)
    answers, labels, floor = task.answers(tokens), task.labels(tokens), task.floor(tokens)
    after_b: list[int] = []
    for i, row in enumerate(tokens.tolist()):
        for p in range(1, 11):
            seen, is_b = 0 in row[: p + 1], 1 <= row[p] <= 3
            assert int(labels["a_seen"][i, p]) == seen and int(labels["b"][i, p]) == row[p] * is_b
            assert int(labels["trigram"][i, p]) == row[p] * is_b * seen
            assert int(answers[i, p]) == (row[p + 1] if is_b and p < 10 else NOTHING)
            if is_b and seen and p < 10:
                assert row[p + 1] == row[p] + 3 and float(floor[i, p]) == 0
            elif is_b and p < 10:
                after_b.append(row[p + 1])
                assert float(floor[i, p]) == pytest.approx(math.log(7))
    share = torch.tensor(after_b).bincount(minlength=8) / len(after_b)
    assert float(share[7]) == 0 and float((share[:7] - 1 / 7).abs().max()) < 4 * (6 / 49 / len(after_b)) ** 0.5


def test_the_most_recent_a_is_the_answer_at_every_b():
    task = Recent(n_a=3, n_b=2, n_other=1, length=9)
    tokens = task.batch(0, "train", 0, 500)
    answers, labels = task.answers(tokens), task.labels(tokens)
    for i, row in enumerate(tokens.tolist()):
        for p, token in enumerate(row):
            before = [q for q in range(p + 1) if row[q] < 3]
            expected = row[before[-1]] if before else NOTHING
            assert int(labels["recent"][i, p]) == expected
            assert int(labels["distance"][i, p]) == (p - before[-1] if before else NOTHING)
            assert int(answers[i, p]) == (expected if token in (3, 4) else NOTHING)


def test_a_repeated_sequence_continues_as_before():
    task = Repeats(vocabulary=50, shortest=3, longest=6, length=16)
    tokens = task.batch(0, "train", 0, 300)
    answers, labels, period = task.answers(tokens), task.labels(tokens), task.period(tokens)
    assert set(period.tolist()) == {3, 4, 5, 6}
    for i, row in enumerate(tokens.tolist()):
        n = int(period[i])
        assert all(row[p] == row[p - n] for p in range(n + 1, 16))
        for p in range(16):
            second = p > n
            assert int(answers[i, p]) == (row[p - n + 1] if second and p < 15 else NOTHING)
            if 0 < p < 15:
                target = row[p - n + 1] if second else 50
                found = {name: int(label[i, p]) for name, label in labels.items()}
                assert found == {"second": second, "previous": row[p - 1], "target": target}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Addition(n_digits=2, n_train=9999, n_test=2),
            r"n_train \+ n_test = 10001: there are only 10000 pairs",
        ),
        (lambda: Repeats(shortest=6, longest=23), "longest = 23, length = 25: .*set shortest <= longest <= length - 3"),
        (lambda: Repeats(shortest=9, longest=8), "shortest = 9, longest = 8"),
    ],
)
def test_impossible_settings_are_errors(make: object, message: str):
    with pytest.raises(ValueError, match=message):
        make()  # pyright: ignore


def test_the_name_that_was_said_once_is_asked_for():
    task = Names(n_names=5, n_fillers=3, length=9)
    tokens = task.batch(0, "train", 0, 400)
    answers, labels = task.answers(tokens), task.labels(tokens)
    firsts, lasts, places = list[bool](), list[bool](), set[tuple[int, ...]]()
    for i, row in enumerate(tokens.tolist()):
        at = [j for j, token in enumerate(row) if token < 5]
        names = [row[j] for j in at]
        [once], [twice] = ({n for n in names if names.count(n) == k} for k in (1, 2))
        assert row[0] == task.bos and row[-1] == task.end and len(names) == 3
        assert answers[i].tolist() == [NOTHING] * 8 + [once]
        assert {name: int(label[i, -1]) for name, label in labels.items()} == {
            "once": once, "twice": twice, "once_first": int(names[0] == once)
        }  # fmt: skip
        firsts.append(names[0] == once)
        lasts.append(names[2] == once)
        places.add(tuple(at))
    assert 0.4 < sum(firsts) / 400 < 0.6 and not any(lasts), "one of the first two, either"
    assert len(places) == math.comb(7, 3)
