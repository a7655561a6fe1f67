"""Shards: rows are read back in any order, and damaged files are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sae.activations.block_sums import BLOCK, block_sums
from sae.activations.pace import Pace
from sae.activations.shards import Shard, Shards, write_shard
from sae.registry import MissingFileError, UserError


def table(n: int, d: int = 5, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(n)
    return {
        "acts": torch.randn(n, d, generator=g).to(dtype),
        "document": torch.randint(0, 9, (n,), generator=g, dtype=torch.int32),
        "token": torch.randint(-1, 500, (n,), generator=g, dtype=torch.int32),
    }


def write(folder: Path, sizes: list[int], dtype: torch.dtype = torch.float32) -> tuple[Shards, dict[str, torch.Tensor]]:
    files, tables = [], []
    for i, n in enumerate(sizes):
        files.append(folder / f"train-{i:05d}.safetensors")
        tables.append(table(n, dtype=dtype))
        write_shard(files[-1], tables[-1])
    return Shards(files), {name: torch.cat([t[name] for t in tables]) for name in tables[0]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_come_back_in_the_order_asked_for(tmp_path: Path, dtype: torch.dtype, data: st.DataObject):
    shards, whole = write(tmp_path, data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5)), dtype)
    picks = data.draw(st.lists(st.integers(0, shards.n_rows - 1), max_size=40))
    index = np.array(picks, dtype=np.int64)
    assert shards.n_rows == len(whole["acts"]) and shards.width() == 5
    acts = shards.rows(index)
    assert acts.dtype == torch.float32 and torch.equal(acts, whole["acts"][index].float())
    assert torch.equal(shards.rows(index, "token"), whole["token"][index])


def test_an_empty_shard_among_others(tmp_path: Path):
    shards, whole = write(tmp_path, [3, 0, 4])
    assert torch.equal(shards.rows(np.arange(7)[::-1].copy()), whole["acts"].flip(0))


def test_the_result_is_the_callers_own(tmp_path: Path):
    shards, _ = write(tmp_path, [6])
    first = shards.rows(np.arange(6))
    kept = first.clone()
    first.zero_()
    assert torch.equal(shards.rows(np.arange(6)), kept)


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_a_truncated_shard_is_refused_by_name(tmp_path: Path, keep: int):
    write(tmp_path, [6])
    file = tmp_path / "train-00000.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"train-00000\.safetensors: this shard is cut short or damaged"):
        Shards([file])


@pytest.mark.parametrize("junk", [b"\xff" * 200, b"\x05\0\0\0\0\0\0\0[1,2]", b"\x02\0\0\0\0\0\0\0{}"])
def test_other_bytes_are_refused_by_name(tmp_path: Path, junk: bytes):
    file = tmp_path / "x.safetensors"
    file.write_bytes(junk)
    with pytest.raises(UserError, match=r"x\.safetensors"):
        Shards([file])


def test_shards_of_different_shape_and_missing_ones_are_refused(tmp_path: Path):
    write(tmp_path, [6])
    write_shard(tmp_path / "other.safetensors", table(3, d=4))
    with pytest.raises(UserError, match="its tensors differ from those of train-00000"):
        Shards([tmp_path / "train-00000.safetensors", tmp_path / "other.safetensors"])
    with pytest.raises(MissingFileError, match="gone"):
        Shards([tmp_path / "gone.safetensors"])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shards, _ = write(tmp_path, [6])
    before = shards.shards[0].file.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shard(shards.shards[0].file, table(2))
    assert shards.shards[0].file.read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numpy_and_compiled_loops_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype):
    pytest.importorskip("numba")
    shards, whole = write(tmp_path, [70, 0, 1, 200, 33], dtype)
    index = np.random.default_rng(0).integers(0, shards.n_rows, 500)
    index[:4] = 0, 69, 70, shards.n_rows - 1
    for name in shards.names:
        for part in (index, index[::2], index[:0]):
            monkeypatch.setattr("sae.activations.shards.HAS_NUMBA", True)
            compiled = shards.rows(part, name)
            monkeypatch.setattr("sae.activations.shards.HAS_NUMBA", False)
            assert compiled.dtype == shards.rows(part, name).dtype and torch.equal(compiled, shards.rows(part, name))
            assert torch.equal(compiled, whole[name][part].to(compiled.dtype))


def test_rows_of_shards_beyond_memory_are_requested_and_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shards, whole = write(tmp_path, [700, 0, 900], torch.bfloat16)
    assert not shards._beyond_memory
    requested: list[int] = []
    request = Shard.request
    monkeypatch.setattr(Shard, "request", lambda shard, name, row: requested.append(row) or request(shard, name, row))
    monkeypatch.setattr("sae.activations.shards.MEMORY_SHARE", 0.0)
    shards = Shards([shard.file for shard in shards.shards])
    index = np.array([1599, 0, 699, 700, 0])
    assert torch.equal(shards.rows(index), whole["acts"][index].float())
    assert requested == [0, 0, 699, 0, 899]
    assert torch.equal(shards.rows(index, "token"), whole["token"][index])


def test_rows_are_the_same_whatever_the_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("numba")
    monkeypatch.setattr("sae.activations.shards.BYTES_PER_THREAD", 100)
    shards, whole = write(tmp_path, [70, 1, 200])
    index = np.random.default_rng(0).integers(0, shards.n_rows, 501)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(shards.rows(index), whole["acts"][index])
        assert torch.equal(shards.rows(index, "token"), whole["token"][index])


def test_the_number_of_threads_that_was_faster_recently_is_chosen():
    pace = Pace()
    seconds = {4: 1.0, 1: 2.0}

    def choices(times: int) -> list[int]:
        chosen: list[int] = []
        for _ in range(times):
            chosen.append(pace.choose(4))
            pace.took(chosen[-1], seconds[chosen[-1]])
        return chosen

    assert pace.untried(4) == [4, 1] and choices(2) == [4, 1] and pace.untried(4) == []
    assert set(choices(Pace.AGAIN - 3)) == {4}
    assert choices(1) == [1]
    seconds[4] = 9.0
    assert choices(10)[-1] == 1
    seconds[4] = 0.1
    assert 4 in choices(Pace.AGAIN)
    choices(20 * Pace.AGAIN)
    assert choices(1) == [4]


@pytest.mark.parametrize("index", [-1, 6, 2**40])
def test_a_row_that_is_not_there_is_refused(tmp_path: Path, index: int):
    shards, _ = write(tmp_path, [2, 4])
    with pytest.raises(AssertionError, match="no such row"):
        shards.rows(np.array([0, index]))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", ["acts", "document", "token"])
def test_a_row_damaged_without_a_change_of_size_is_refused_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, compiled: bool
):
    if compiled:
        pytest.importorskip("numba")
    monkeypatch.setattr("sae.activations.shards.HAS_NUMBA", compiled)
    monkeypatch.setattr("sae.activations.block_sums.HAS_NUMBA", compiled)
    shards, _ = write(tmp_path, [3000, 0, 2500])
    damaged = shards.shards[2]
    begin = damaged.start + damaged.entries[name]["data_offsets"][0]
    row_bytes = 20 if name == "acts" else 4
    content = bytearray(damaged.file.read_bytes())
    content[begin + 2400 * row_bytes] ^= 16
    damaged.file.write_bytes(content)
    shards = Shards([shard.file for shard in shards.shards])
    near = 3000 + 2400 - BLOCK // row_bytes
    assert len(shards.rows(np.arange(near), name)) == near  # rows in other blocks are as they were
    with pytest.raises(UserError, match=rf"00002.*damaged since it was written, `{name}` of row 2400 differs"):
        shards.rows(np.array([5, 5400, 7]), name)
    for other in set(shards.names) - {name}:
        shards.rows(np.arange(shards.n_rows), other)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3 * BLOCK + 9), st.data())
def test_sums_see_a_change_of_any_word_and_are_the_same_with_compiled_loops(content: bytes, data: st.DataObject):
    pytest.importorskip("numba")
    array = np.frombuffer(content, np.uint8)
    sums = block_sums(array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae.activations.block_sums.HAS_NUMBA", False)
        assert (block_sums(array) == sums).all()
    assert len(sums) == -(-len(content) // BLOCK) and (sums != 0).all()
    if content:
        changed = array.copy()
        at = data.draw(st.integers(0, len(content) - 1))
        changed[at] ^= data.draw(st.integers(1, 255))
        assert np.flatnonzero(block_sums(changed) != sums).tolist() == [at // BLOCK]


def test_shards_of_an_earlier_version_have_no_sums_and_are_read(tmp_path: Path):
    new, whole = write(tmp_path, [5, 6])
    save_file(table(6), new.shards[1].file)
    assert torch.equal(Shards([shard.file for shard in new.shards]).rows(np.arange(11)), whole["acts"])
