"""Data sets as the package datasets reads or saves them, a table of a few records at a time.

A data set of many files is streamed file by file. Reading goes on where it stopped by the state that the package keeps.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sae.activations.text_chunks import IdLists, Item
from sae.registry import UserError

RECORDS_AT_ONCE = 128
"""The number of records in a table."""


class RecordTable(NamedTuple):
    """Some records of a data set in a row."""

    records: Any
    """The records, a ``pyarrow.Table``."""
    position: Any
    """Where the next table begins, in JSON."""


@contextmanager
def load_errors(label: str) -> Generator[None]:
    """Raises `UserError`, in which the data set is called `label`, where the package cannot load it."""
    from datasets.exceptions import DatasetGenerationError

    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, DatasetGenerationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{label}: the data set cannot be loaded: {reason}") from None
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise UserError(
            f"{label}: the data set is a program that loads it, which the package datasets no longer runs; "
            "give its files, or a copy as files such as .parquet"
        ) from None


class Streamed:
    """A data set that is streamed: a folder, a hub id, or one file of the `kind` that is given."""

    def __init__(self, name: str, subset: str | None, split: str, kind: str | None = None) -> None:
        from datasets import load_dataset_builder

        if kind is None:
            self._builder = load_dataset_builder(name, subset)
        else:
            self._builder = load_dataset_builder(kind, data_files=name)
        self._split = split

    @property
    def version(self) -> list[str]:
        """What tells this state of a data set on the hub from others: names of files there have a commit in them."""
        return [str(self._builder.hash), str(self._builder.config.data_files)]

    def tables(self, position: Any) -> Iterator[RecordTable]:
        """The tables from a position on."""
        data_set: Any = self._builder.as_streaming_dataset(split=self._split)
        records = data_set.with_format("arrow")
        if position is not None:
            records.load_state_dict(position)
        for table in records.iter(RECORDS_AT_ONCE):
            yield RecordTable(table, records.state_dict())


class Saved:
    """The records of a data set that was saved with ``save_to_disk``, with splits or without."""

    version = ("saved",)
    """Files on this machine are told apart by their size and time of change."""

    def __init__(self, folder: Path, split: str, default_split: str) -> None:
        from datasets import DatasetDict, load_from_disk

        saved: Any = load_from_disk(str(folder))
        if isinstance(saved, DatasetDict):
            if split not in saved:
                raise UserError(f"source.text_split = {split!r}: {folder} has the splits {', '.join(map(str, saved))}")
            saved = saved[split]
        elif split not in (default_split, str(saved.split)):
            raise UserError(f"source.text_split = {split!r}: {folder} was saved without splits; leave it out")
        self._records = saved.with_format("arrow")

    def tables(self, position: Any) -> Iterator[RecordTable]:
        """The tables from a position on, which is a number of records."""
        for begin in range(position or 0, len(self._records), RECORDS_AT_ONCE):
            end = min(begin + RECORDS_AT_ONCE, len(self._records))
            yield RecordTable(self._records[begin:end], end)


def documents_of(records: Any, column: str) -> list[Item] | IdLists | None:
    """The documents in a column of a table; None where it is missing, or some of its values are no documents."""
    from pyarrow import types

    if column not in records.column_names or records[column].null_count:
        return None
    values = records[column].combine_chunks()
    if types.is_string(values.type) or types.is_large_string(values.type):
        return [text.removeprefix("﻿") for text in values.to_pylist()]
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    if not any(is_kind(values.type) for is_kind in lists) or not types.is_integer(values.type.value_type):
        return None
    ids = values.flatten()
    lengths = values.value_lengths().to_numpy(zero_copy_only=False)
    return None if ids.null_count else IdLists(ids.to_numpy(zero_copy_only=False), lengths.astype("int64"))
