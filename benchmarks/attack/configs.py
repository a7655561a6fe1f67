"""Edits the configs that come with the package at random, and plans the runs."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.attack.children import Child, command, limit
from benchmarks.attack.trials import Trial, dice
from pipelines.config.shipped import SHIPPED

TRIALS, QUICK = 600, 60
SECONDS, MEMORY = 20, 2**30
"""Limits of a plan: processor time, and memory beyond that of the imports."""
VALUES = ["-1", "0", "0.5", "1e999", "nan", "-inf", "true", '""', '"x"', "[]", "{}", "[[1]]", "1e-320",
          "99999999999999999999999", "9223372036854775807", "[0, 0]", "[1, 'a']", "1979-05-27", '"\\u0000\\u001b[2J"',
          "'''a\nb'''", '"../../x"', '"' + "n" * 300 + '"', "[" * 50 + "]" * 50, "[" * 5000 + "]" * 5000,
          "{a = " * 300 + "1" + "}" * 300, "9" * 5000, "[" + "1," * 3000 + "]", '"🙂"', "0x7fffffffffffffff",
          "[1.5, nan]", "{kind = 'topk'}", "{kind = 7}", "[{}]", "1000000000"]  # fmt: skip
LINES = ["[source]", "[[source]]", "[train.seeds]", "kind = 1", "name = 'a/b'", "\x00", "\x1b[2J = 1", "= 1",
         "a.b.c.d = 1", "[" + "a." * 3000 + "b]", "seed = [0, 1", "'''", "runtime.out = 3", "plugin = 'x.py'",
         "\ufeff", "[tiers.full]", "source.seed = 1"]  # fmt: skip


def attack(folder: Path, numbers: range, seed: int) -> Iterator[Trial]:
    """A plan has to be printed, or refused in one line, within the limits."""
    folder.mkdir()
    shipped = sorted(SHIPPED.resolve().rglob("*.toml"))
    for number in numbers:
        chance = dice("configs", seed, number)
        config = chance.choice(shipped)
        file = folder / f"{number}.toml"
        edits = [chance.randrange(10**6) for _ in range(chance.choice([1, 1, 2, 4]))]
        content = config.read_text(encoding="utf-8")
        for edit in edits:
            content = edited(content, random.Random(edit))
        file.write_bytes(content.encode("utf-8", "replace") + (b"\xff" if chance.random() < 0.01 else b""))
        failure = _plan(file, folder)
        yield Trial(number, f"{config.relative_to(SHIPPED.resolve())}, edits {edits}", failure)


def _plan(file: Path, folder: Path) -> str:
    work = command("plan", file, "--out", folder / "out")
    ended = Child(work, folder / "printed.txt", lambda: limit(SECONDS, MEMORY)).wait(3 * SECONDS)
    return "" if ended.code == 0 or ended.refusal else f"neither a plan nor one line, {ended.told()}"


def edited(text: str, chance: random.Random) -> str:
    """A config with one line changed, removed, doubled, moved or added."""
    lines = text.splitlines()
    places = [i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")]
    if not places:
        return text
    i, how = chance.choice(places), chance.randrange(10)
    if how < 5:
        lines[i] = _with_value(lines[i], chance)
    elif how == 5:
        del lines[i]
    elif how == 6:
        lines.insert(i, lines[i])
    elif how == 7:
        lines.insert(chance.choice(places), lines[i])
    elif how == 8:
        lines.insert(i, chance.choice(LINES))
    else:
        at = chance.randrange(len(lines[i]) + 1)
        lines[i] = (
            lines[i][:at] + chance.choice(["\t", "\x07", '"', "=", ".", "[", "#", "\\", "-", "e"]) + lines[i][at:]
        )
    return "\n".join(lines) + "\n"


def _with_value(line: str, chance: random.Random) -> str:
    """A line with its value, or one word of it, replaced."""
    name, equals, value = line.partition("=")
    words = list(re.finditer(r"[\w.+-]+", value))
    if not equals or not words or chance.random() < 0.6:
        return f"{name}= {chance.choice(VALUES)}"
    word = chance.choice(words)
    return f"{name}={value[: word.start()]}{chance.choice(VALUES)}{value[word.end() :]}"
