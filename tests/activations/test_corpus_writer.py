"""Rows of tokens of a text: how they are cut off, and the same files however often it stops and in however many
processes it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae.activations import corpus_state, corpus_writer, data_sets, text_chunks, text_workers
from sae.activations.corpus import PositionSelection
from sae.activations.corpus_state import STATE
from sae.activations.shards import Shards
from sae.activations.text import Text
from sae.activations.text_chunks import Chunk
from sae.activations.text_workers import in_order
from sae.activations.tokeniser import SPLITS, Tokeniser, split_of
from sae.model.loading import load_tokenizer
from sae.numerics.atomic_write import link_or_copy, write_atomically
from sae.registry import UserError
from sae.source import Progress
from sae.sources.transformer import Config
from tests.interruptions import interrupted_at
from tests.streaming import Killed, bytes_of, kill_after, silent
from tests.text_forms import FORMS, documents, write_form

Counts = dict[str, dict[str, int]]


@pytest.fixture
def tokenizer(tiny_models: Mapping[str, Path]) -> Any:
    return load_tokenizer(str(tiny_models["llama"]))


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks and files, and a state and a report after every chunk."""
    for module, name, value in (
        (corpus_writer, "ROWS_PER_FILE", 16),
        (corpus_writer, "REPORT_SECONDS", 0.0),
        (corpus_writer, "SAVE_DOCUMENTS", 1),
        (corpus_state, "SAVE_SECONDS", 0.0),
        (corpus_state, "MOST_SHARE", float("inf")),
        (text_chunks, "CHUNK_DOCUMENTS", 7),
        (data_sets, "RECORDS_AT_ONCE", 5),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("sae.activations.text.CHUNK_SIZE", 10)


def settings(text: Path, **more: Any) -> Config:
    base: dict[str, Any] = {"model": "tiny", "hook": "blocks.0.hook_resid_post", "context": 8, "heldout_share": 0.3}
    return Config(**base | {"text": str(text)} | more)


def write(config: Config, directory: Path, tokenizer: Any, progress: Progress = silent) -> Counts:
    directory.mkdir(exist_ok=True)
    select = PositionSelection.of(tokenizer, config.drop_position_0)
    return config._write_corpus(directory, tokenizer, 47, select, progress)


def naive(texts: list[list[int]], config: Config, special: set[int]) -> tuple[Counts, dict[str, list[list[int]]]]:
    """One document after another, one row after another: the rows of `bos = none`, and their counts."""
    half = None if config.n_heldout_tokens is None else config.n_heldout_tokens // 2
    targets = {"train": config.n_tokens, "choose": half, "test": half}
    counts = {split: {"documents": 0, "rows": 0, "tokens": 0} for split in SPLITS}
    rows: dict[str, list[list[int]]] = {split: [] for split in SPLITS}
    left: dict[str, list[int]] = {split: [] for split in SPLITS}

    def is_full(split: str) -> bool:
        return targets[split] is not None and counts[split]["tokens"] >= targets[split]

    for ids in texts:
        split = split_of(ids, config.seed, config.heldout_share)
        if not is_full(split):
            counts[split]["documents"] += 1
            left[split] += ids
            while len(left[split]) >= config.context and not is_full(split):
                row, left[split] = left[split][: config.context], left[split][config.context :]
                rows[split].append(row)
                counts[split]["rows"] += 1
                counts[split]["tokens"] += sum(i not in special for i in row[1:])
        least = max(config.heldout_share / 4 * counts["train"]["tokens"], 1)
        enough = [is_full(s) if targets[s] else counts[s]["tokens"] >= least for s in SPLITS]
        if is_full("train") and all(enough):
            break
    return counts, rows


@pytest.mark.parametrize("targets", [(None, None), (900, None), (900, 100), (None, 300), (20, 500), (1, 4), (7, None)])
def test_rows_end_with_the_token_that_is_asked_for(
    tmp_path: Path, tokenizer: Any, often: None, targets: tuple[int | None, int | None]
):
    texts = [text for text in documents(250) if text]
    form = write_form(tmp_path / "text", "jsonl", texts, tokenizer)
    more = {"bos": "none", "n_tokens": targets[0], "n_heldout_tokens": targets[1]}
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for seed in range(3):
        config = settings(**form, **more, seed=seed)
        out = tmp_path / str(seed)
        counts, rows = naive(ids, config, {0, 1, 2})
        assert write(config, out, tokenizer) == counts
        for split in SPLITS:
            stored = [*out.glob(f"rows-{split}-*")]
            assert len(stored) == -(-len(rows[split]) // 16)
            tokens = Shards(sorted(stored)).rows(np.arange(len(rows[split])), "tokens")
            assert tokens.tolist() == rows[split]


@pytest.mark.parametrize("form", FORMS)
def test_a_reading_that_is_stopped_again_and_again_goes_on_and_ends_on_the_same_bytes(
    tmp_path: Path, tokenizer: Any, often: None, form: str, monkeypatch: pytest.MonkeyPatch
):
    config = settings(**write_form(tmp_path / "text", form, documents(200), tokenizer), eos=True)
    with monkeypatch.context() as patch:
        patch.setattr(text_chunks, "CHUNK_DOCUMENTS", 1000)
        write(config, tmp_path / "whole", tokenizer)
    tokenised = list[int]()
    plain = Tokeniser.__call__

    def counted(self: Tokeniser, chunk: Chunk) -> Any:
        done = plain(self, chunk)
        tokenised.append(len(done.lengths))
        return done

    monkeypatch.setattr(Tokeniser, "__call__", counted)
    stops = 0
    while True:
        try:
            write(config, tmp_path / "stopped", tokenizer, kill_after(5))
            break
        except Killed:
            assert not (tmp_path / "stopped" / "rows.json").exists() or stops > 3
            stops += 1
    n = sum(bool(text) for text in documents(200))
    assert stops > 4 and n <= sum(tokenised) < 1.7 * n  # of each stop, one chunk is read again
    assert bytes_of(tmp_path / "stopped") == bytes_of(tmp_path / "whole")


def stopped(config: Config, directory: Path, tokenizer: Any) -> None:
    with pytest.raises(Killed):
        write(config, directory, tokenizer, kill_after(10))
    assert (directory / STATE).exists() and len(list(directory.glob("rows-train-*"))) > 1


@pytest.mark.parametrize("harm", ["none", "a bit", "cut", "rows", "cut rows", "text", "model"])
def test_a_state_counts_only_where_all_that_it_builds_on_is_there(
    tmp_path: Path, tokenizer: Any, often: None, harm: str, monkeypatch: pytest.MonkeyPatch
):
    form = write_form(tmp_path / "text", "jsonl", documents(200), tokenizer)
    config, out = settings(**form), tmp_path / "out"
    stopped(config, out, tokenizer)
    state, rows = out / STATE, out / "rows-train-00000.safetensors"
    match harm:
        case "a bit":
            state.write_bytes(state.read_bytes()[:-1] + b"\x07")
        case "cut":
            state.write_bytes(state.read_bytes()[:100])
        case "rows":
            rows.unlink()
        case "cut rows":
            rows.write_bytes(rows.read_bytes()[:-4])
        case "text":
            write_form(tmp_path / "text", "jsonl", documents(100, seed=1), tokenizer)
        case "model":
            tokenizer.backend_tokenizer.add_tokens(["w1 w2"])
        case _:
            pass
    first = list[Any]()
    plain = Config.documents.fget(config).open  # pyright: ignore

    def opened(self: Text) -> Any:
        reading = plain()
        return text_chunks.Reading(reading.identity, lambda at: (first.append(at), reading.chunks(at))[1])

    monkeypatch.setattr(Text, "open", opened)
    write(config, out, tokenizer)
    assert (first == [None]) == (harm != "none")
    write(config, tmp_path / "whole", tokenizer)
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def test_a_text_that_is_refused_leaves_nothing_but_one_on_the_hub_goes_on(
    tmp_path: Path, tokenizer: Any, tiny_models: Mapping[str, Path], often: None, monkeypatch: pytest.MonkeyPatch
):
    form = write_form(tmp_path / "text", "jsonl", documents(200), tokenizer)
    with (tmp_path / "text" / "a.jsonl").open("a") as file:
        file.write("\nno JSON")
    config = settings(**form, model=str(tiny_models["llama"]))
    with pytest.raises(UserError, match=r"line 201: not a JSON object"):
        config.prepare(tmp_path / "local", silent, "cpu")
    assert not list((tmp_path / "local").iterdir())
    monkeypatch.setattr(Text, "local", False)
    monkeypatch.setattr(Text, "open", lambda self: self._file())  # pyright: ignore
    with pytest.raises(UserError, match=r"line 201: not a JSON object"):
        config.prepare(tmp_path / "hub", silent, "cpu")
    assert (tmp_path / "hub" / STATE).exists() and list((tmp_path / "hub").glob("rows-*"))


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def use(processes: int) -> None:
        monkeypatch.setattr(corpus_writer, "usable_processes", lambda: processes)
        monkeypatch.setattr(text_workers, "ALONE_SECONDS", 0.0)

    return use


def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, tokenizer: Any, often: None, two: Callable[[int], None]
):
    for form in ("jsonl", "parquet of ids"):
        text = write_form(tmp_path / form, form, documents(200), tokenizer)
        config = settings(**text)
        for processes in (1, 2):
            two(processes)
            write(config, tmp_path / f"{form} {processes}", tokenizer)
        assert bytes_of(tmp_path / f"{form} 1") == bytes_of(tmp_path / f"{form} 2")


@pytest.mark.slow
def test_an_error_in_the_text_is_that_of_one_process_and_none_if_it_is_behind_the_end(
    tmp_path: Path, tokenizer: Any, often: None, two: Callable[[int], None]
):
    form = write_form(tmp_path / "text", "jsonl", documents(200), tokenizer)
    with (tmp_path / "text" / "a.jsonl").open("a") as file:
        file.write('\n{"text": [3, 99]}\nno JSON')
    two(2)
    words = "source.column: document .*: 1 of 2 token ids are outside the model's 0 to 46, such as 99"
    with pytest.raises(UserError, match=words):
        write(settings(**form), tmp_path / "all", tokenizer)
    write(settings(**form, n_tokens=1200, n_heldout_tokens=40), tmp_path / "some", tokenizer)


def test_a_process_that_dies_is_stood_in_for(tokenizer: Any, monkeypatch: pytest.MonkeyPatch):
    tokeniser = Tokeniser(Text("a.jsonl"), tokenizer, d_vocab=47, seed=0, heldout_share=0.1)
    chunks = [Chunk([text], n) for n, text in enumerate(documents(20))]
    monkeypatch.setattr(text_workers, "SERVE", "import sys; sys.exit()")
    with pytest.warns(UserWarning, match="a process that tokenises text has failed"):
        done = list(in_order(tokeniser, iter(chunks), 2, 0.0))
    assert [each.position for each in done] == list(range(20))
    assert [each.ids.tolist() for each in done] == [tokeniser(chunk).ids.tolist() for chunk in chunks]


def test_what_only_this_process_knows_is_tokenised_here():
    class Lengths:
        bos_token_id = 0

        def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
            return {"input_ids": [[len(t)] for t in texts]}

    tokeniser = Tokeniser(Text("a.jsonl"), Lengths(), d_vocab=47, seed=0, heldout_share=0.1)
    done = list(in_order(tokeniser, iter([Chunk(["abc"], None)]), 2, 0.0))
    assert done[0].ids.tolist() == [3]


@pytest.mark.parametrize("links", [True, False])
def test_a_link_keeps_its_content_when_the_other_name_is_written_again(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
):
    if not links:
        monkeypatch.setattr("os.link", interrupted_at(0, lambda *_: (_ for _ in ()).throw(OSError("no links"))))
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"rows")
    for _ in range(2):  # the second time it is there already
        link_or_copy(one, other)
        assert (one.stat().st_ino == other.stat().st_ino) == links and other.read_bytes() == b"rows"
    write_atomically(one, b"new")
    assert other.read_bytes() == b"rows" and sorted(f.name for f in tmp_path.iterdir()) == ["one", "other"]


def test_hook_points_share_the_files_of_rows(tmp_path: Path, tokenizer: Any, tiny_models: Mapping[str, Path]):
    form = write_form(tmp_path / "text", "jsonl", documents(200), tokenizer)
    hooks = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    config = settings(**form, model=str(tiny_models["llama"]))
    pairs = [(config.model_copy(update={"hook": hook}), tmp_path / hook) for hook in hooks]
    Config.prepare_together(pairs, silent, "cpu")
    one, other = (tmp_path / h / "rows-train-00000.safetensors" for h in hooks)
    assert one.samefile(other)
    assert all(config.open(where, "cpu").batch(0, 8).acts.shape == (8, 16) for config, where in pairs)


def test_no_more_processes_than_threads_of_torch(monkeypatch: pytest.MonkeyPatch):
    torch.set_num_threads(1)
    assert text_workers.usable_processes() == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    assert 1 <= text_workers.usable_processes() <= text_workers.MOST_PROCESSES
