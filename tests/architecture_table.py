"""What the project does with tiny models of every architecture: a right answer or one sentence for each cell.

    python -m tests.architecture_table

prints the table of docs/architectures.md, in two minutes on one core. A traceback ends it.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

import sae
from pipelines import runner
from pipelines.config.config import parse
from pipelines.explore.command import write_pages
from pipelines.plan import plan
from pipelines.question import Answer, answer_question
from pipelines.steps.progress import Board
from pipelines.steps.store import Store
from sae.analysis.latents import LatentsConfig
from sae.analysis.latents.explore import Absent, explore_latents
from sae.dictionaries.topk import TopK
from sae.model.hooked import Model
from sae.registry import UserError, configurable
from tests.architectures import ARCHITECTURES, write_model
from tests.streaming import silent, words

ASK: dict[str, dict[str, Any]] = {
    "monosemantic": {"n_rows": 500, "k": 4, "shuffles": 2},
    "smuggling": {"n_rows": 300},
    "readers": {"n_tasks": 1, "min_count": 5, "shuffles": 2},
    "all_units": {"n_tasks": 1, "min_count": 5, "draws": 2, "most": 4},
    "positional": {"n_rows": 30, "components": 3, "draws": 5},
    "decoder": {"n_rows": 500, "draws": 2},
    "heads": {"outcomes": "frequent", "n_rows": 20, "n_outcomes": 4, "events": 5, "draws": 10},
    "neuron_map": {"shuffles": 2, "randoms": 2},
    "embeddings": {"draws": 2},
    "superposition": {"n_rows": 400, "n_draws": 2, "n_gaussian": 2, "n_starts": 2},
    "genres": {"share": 0.55, "least": 10, "halvings": 2, "permutations": 5, "draws": 3, "separator": "|"},
}
"""Small settings of every question."""
OF_DICTIONARIES = ("monosemantic", "readers", "all_units", "decoder", "neuron_map", "genres")
COLUMNS = ("run", "explore", "splice", *ASK)


@dataclass(eq=False)
class Checkpoint:
    """A tiny model in a folder, with a text, labels and a config that trains a dictionary on its residual stream."""

    name: str
    folder: Path
    asked: dict[str, Answer] = field(default_factory=dict[str, Answer])
    """The answers to the questions so far."""

    def __post_init__(self) -> None:
        write_model(self.name, self.folder / "model")
        words(self.folder / "text.txt", 60)
        draw = random.Random(1)
        texts = [" ".join(f"w{draw.randrange(40)}" for _ in range(12)) for _ in range(100)]
        labelled = [{"text": text, "labels": {"early": int(int(text.rsplit("w")[-1]) < 20)}} for text in texts]
        (self.folder / "labels.jsonl").write_text("\n".join(map(json.dumps, labelled)))
        (self.folder / "genres").mkdir()
        for genre, half in (("early", range(20)), ("late", range(20, 40))):
            of_genre = (" ".join(f"w{draw.choice(half)}" for _ in range(12)) for _ in range(20))
            (self.folder / "genres" / f"{genre}.txt").write_text("|".join(of_genre))

    @cached_property
    def hook(self) -> str:
        return "encoder_blocks.1.hook_resid_post" if self.name == "t5" else "blocks.1.hook_resid_post"

    @cached_property
    def table(self) -> dict[str, Any]:
        where = {name: str(self.folder / file) for name, file in
                 (("model", "model"), ("text", "text.txt"), ("labels", "labels.jsonl"))}  # fmt: skip
        source = {"kind": "transformer", "hook": self.hook, "separator": "|", "context": 16, "n_tokens": 400,
                  "heldout_share": 0.4, "bos": "none", **where}  # fmt: skip
        return {
            "name": self.name,
            "source": source,
            "dictionary": {"kind": "topk", "n_latents": 24, "k": 4},
            "train": {"steps": 20, "batch_size": 64},
            "score": {"n_rows": 200},
            "runtime": {"device": "cpu", "threads": 1},
            "ask": {**ASK, "genres": {**ASK["genres"], "texts": str(self.folder / "genres")}},
        }

    @cached_property
    def runs(self) -> Path:
        return self.folder / "runs"

    @cached_property
    def dictionary(self) -> Path:
        """The folder of the trained dictionary."""
        [step] = [step for step in plan(parse(self.table)) if step.stage == "train"]
        return Store(self.runs).directory(step)

    def run(self) -> Sequence[str]:
        settings = parse(self.table)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            runner.run(plan(settings), Store(self.runs), runner.execution(settings.runtime), _board())
        shown = (str(warning.message) for warning in caught)
        return [message.split(": ", 1)[1] for message in shown if message.startswith("source.model")]

    def explore(self) -> Sequence[str]:
        settings, analysis = parse(self.table), LatentsConfig(latents=3, n_tokens=100, n_ablated=2)
        pages = write_pages(self.dictionary, settings, analysis, self.folder / "pages", True, _board())
        assert (pages / "index.html").is_file()
        [step] = [step for step in plan(settings) if step.stage == "stream"]
        source = settings.sources[0].open(Store(self.runs).directory(step), "cpu")
        found = explore_latents(sae.load(self.dictionary), source, analysis, silent)
        absent = {"effects on the logits": found.logits, "ablations": found.ablation}
        reasons = {what: part.why for what, part in absent.items() if isinstance(part, Absent)}
        if len(reasons) == 2 and len({*reasons.values()}) == 1:
            reasons = {" and no ".join(reasons): next(iter(reasons.values()))}
        return [f"no {what}: {why}" for what, why in reasons.items()]

    def splice(self) -> Sequence[str]:
        """Checks that a dictionary that loses nothing leaves the logits as they are, bit for bit where the error is
        added back, and that another changes them."""
        model = Model.boot(str(self.folder / "model"))
        tokens = torch.randint(4, 47, (3, 8), generator=torch.Generator().manual_seed(0))
        d, eye = sae.load(self.dictionary), torch.eye(16)
        both = torch.cat([eye, -eye])
        exact = TopK(both.T.contiguous(), both, torch.zeros(32), torch.zeros(16), k=16)
        with torch.no_grad():
            with sae.splice(model, {self.hook: d}):
                kept = model.bridge(tokens)
            clean = model.bridge(tokens)
            with sae.splice(model, {self.hook: exact}, error=False):
                close = model.bridge(tokens)
            with sae.splice(model, {self.hook: d}, error=False):
                other = model.bridge(tokens)
        assert torch.equal(kept, clean) and torch.allclose(close, clean, atol=1e-4)
        assert bool(other.isfinite().all()) and not torch.allclose(other, clean, atol=1e-2)
        return []

    def ask(self, question: str) -> Sequence[str]:
        d = self.dictionary if question in OF_DICTIONARIES and self.dictionary.is_dir() else None
        self.asked[question], _ = answer_question(question, parse(self.table), d, self.runs, _board())
        facts = self.asked[question].facts.items()
        return [f"{name} {value}" for name, value in facts if isinstance(value, str) and value.startswith("not shown")]

    def cells(self) -> Iterator[tuple[str, bool, Sequence[str]]]:
        """Each column, whether there is an answer, and what is missing in it or why there is none."""
        for column in COLUMNS:
            try:
                missing = self.ask(column) if column in ASK else getattr(self, column)()
                yield column, True, missing
            except UserError as error:
                yield column, False, [str(error).replace(str(self.folder / "model"), self.name)]


def _board() -> Board:
    return Board(Console(quiet=True))


def table() -> Iterator[str]:
    """The lines of a Markdown table, with the sentences of the cells that do not simply work in a list below it."""
    assert set(ASK) == set(configurable("pipelines.questions"))
    reasons: dict[str, int] = {}
    yield f"| | {' | '.join(column if column in COLUMNS[:3] else f'`{column}`' for column in COLUMNS)} |"
    yield "|---" * (1 + len(COLUMNS)) + "|"
    for name, title in ARCHITECTURES.items():
        with TemporaryDirectory() as folder:
            cells = [_cell(works, why, reasons) for _, works, why in Checkpoint(name, Path(folder)).cells()]
        yield f"| {title} | {' | '.join(cells)} |"
    yield ""
    yield from (f"{number}. {reason}" for reason, number in reasons.items())


def _cell(works: bool, why: Sequence[str], reasons: dict[str, int]) -> str:
    """``yes`` or ``no``, with the numbers of the sentences; a new sentence is added to `reasons`."""
    return " ".join(["yes" if works else "no", *(f"({reasons.setdefault(r, len(reasons) + 1)})" for r in why)])


if __name__ == "__main__":
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    for line in table():
        print(line, flush=True)
