"""Labelled texts from .csv files, in both forms, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae.activations.labels import label_tokens, read_labelled
from sae.registry import UserError


def write(folder: Path, text: str, name: str = "tasks.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_column_for_each_label(tmp_path: Path):
    file = write(tmp_path, 'text,sport,late\n"A game, won.",1,0\nMidnight,0,1\n')
    first, second = read_labelled(file)
    assert first.text == "A game, won." and first.spans == (((0, 12), {"sport": 1, "late": 0}),)
    assert second.spans == (((0, 8), {"sport": 0, "late": 1}),) and first.group != second.group


def test_prompts_with_two_targets_make_one_label_named_like_the_file(tmp_path: Path):
    file = write(tmp_path, "prompt,prompt_len,target\nParis,1,France\nRome,1,Italy\n", "capital.csv")
    assert [t.spans[0][1] for t in read_labelled(file)] == [{"capital": 0}, {"capital": 1}]


def test_prompts_with_more_targets_make_a_label_each(tmp_path: Path):
    file = write(tmp_path, "prompt,target\na,x\nb,y\nc,z\n", "t.csv")
    assert [t.spans[0][1] for t in read_labelled(file)][1] == {"t_x": 0, "t_y": 1, "t_z": 0}


def test_texts_of_one_group_stay_together(tmp_path: Path):
    file = write(tmp_path, "text,group,y\na,g,1\nb,g,0\nc,h,0\n")
    assert [t.group for t in read_labelled(file)] == ["g", "g", "h"]


def test_lines_are_counted_as_an_editor_does(tmp_path: Path):
    with pytest.raises(UserError, match=r"tasks.csv, line 4: y = '2'; a label must be 0 or 1"):
        read_labelled(write(tmp_path, 'text,y\n"two\nlines",1\nc,2\n'))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"line 1: give a column 'text' or 'prompt'.*it has none|it has no texts"),
        ("sentence,y\na,1\n", r"line 1: give a column 'text' or 'prompt'.*it has 'sentence', 'y'"),
        ("text\na\n", r"line 1: .*columns of 0 and 1"),
        ("text,y\na,1,3\n", r"line 2: 3 cells, but the header has 2"),
        ("text,y\na,yes\n", r"line 2: y = 'yes'; a label must be 0 or 1"),
        ("text,y\n ,1\n", r"line 2: 'text' is empty"),
        ("text,y\n", r"it has no texts"),
        ("prompt,target\na,x\nb,x\n", r"every target is 'x'"),
        ('text,y\n"a,1\n', r"line \d: not valid CSV"),
    ],
)
def test_mistakes_name_the_file_and_the_line(tmp_path: Path, text: str, words: str):
    file = write(tmp_path, text)
    with pytest.raises(UserError, match=words) as caught:
        read_labelled(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"text,y\n\xff\xfe,1\n")
    with pytest.raises(UserError, match=r"a.csv: not UTF-8 text"):
        read_labelled(tmp_path / "a.csv")


class Words:
    """A tokenizer of single words."""

    def __call__(self, text: str, **_: object) -> dict[str, list[tuple[int, int]]]:
        offsets, at = [], 0
        for word in text.split(" "):
            offsets.append((at, at + len(word)))
            at += len(word) + 1
        return {"offset_mapping": offsets}


def test_a_function_labels_tokens():
    def capital(text: str, start: int, end: int) -> dict[str, int]:
        return {} if text[start] == "-" else {"capital": int(text[start].isupper())}

    (text,) = label_tokens(["The cat - Tom"], Words(), capital)
    assert text.spans == (((0, 3), {"capital": 1}), ((4, 7), {"capital": 0}), ((10, 13), {"capital": 1}))


@pytest.mark.parametrize("labels", [{"a": 2}, {"a": 0.5}, {"b": 1}])
def test_a_function_that_gives_something_else_is_refused(labels: dict[str, float]):
    with pytest.raises(UserError, match=r"label: .* for 'cat'; give 0 or 1, and the same names"):
        label_tokens(["The cat"], Words(), lambda text, start, end: {"a": 1} if start == 0 else labels)  # pyright: ignore
