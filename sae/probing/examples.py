"""What is probed: vectors, which of them make up an example, and what is known of each example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae.registry import UserError

Pooling = Literal["last", "mean", "max"]
Encode = Callable[[Tensor], Tensor]
VECTORS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class ProbeExamples:
    """Vectors ``acts``, in the order of the examples ``of`` that they belong to (one vector each, or the tokens of a
    text), and for each example its `groups` number, which rows of one document share, and its labels: 1, 0, or -1
    where a property is not known of it.

    `pooling` makes one row of an example with several vectors, after they are encoded: the last of them, the mean,
    or the maximum of every column.
    """

    acts: Float[Tensor, "n_vectors d_in"]
    labels: Mapping[str, Int[Tensor, " n_examples"]]
    groups: Int[Tensor, " n_examples"]
    of: Int[Tensor, " n_vectors"]
    pooling: Pooling = "last"

    @classmethod
    def each(
        cls, acts: Float[Tensor, "n_examples d_in"], labels: Mapping[str, Tensor], groups: Tensor | None = None
    ) -> ProbeExamples:
        """One vector an example; without `groups` every example is a document of its own.

        Raises ``ValueError`` of one line where shapes or values do not fit.
        """
        if acts.ndim != 2 or not bool(torch.isfinite(acts).all()):
            raise UserError(f"acts: a finite matrix [rows, d_in] expected, not one of shape {list(acts.shape)}")
        own = torch.arange(len(acts))
        groups = own if groups is None else groups
        for name, vector in {**labels, "groups": groups}.items():
            if vector.shape != (len(acts),):
                raise UserError(f"{name}: shape {list(vector.shape)} for {len(acts)} rows; give one entry for each row")
        for name, vector in labels.items():
            if not set(vector.unique().tolist()) <= {-1, 0, 1}:
                raise UserError(f"{name}: a label is 1, 0, or -1 where it is not known; give one label to each class")
        marks = {name: vector.to("cpu", torch.int8) for name, vector in labels.items()}
        return cls(acts.detach().float().cpu(), marks, groups.cpu().long(), own)

    def __len__(self) -> int:
        return len(self.groups)

    def read(self, encode: Encode) -> NDArray[np.float32]:
        """One row an example, ``[n_examples, n_columns]``, of what `encode` makes of the vectors."""
        with torch.no_grad():
            pieces = [encode(piece).float() for piece in self.acts.split(VECTORS_AT_ONCE)]
        return self._pooled(torch.cat(pieces)).cpu().numpy()

    def _pooled(self, rows: Float[Tensor, "n_vectors n_columns"]) -> Float[Tensor, "n_examples n_columns"]:
        if len(self.acts) == len(self):
            return rows
        last = torch.bincount(self.of, minlength=len(self)).cumsum(0) - 1
        if self.pooling == "last":
            return rows[last]
        how = "mean" if self.pooling == "mean" else "amax"
        out = rows.new_zeros(len(self), rows.shape[1])
        return out.index_reduce_(0, self.of, rows, how, include_self=False)

    def at(self, index: Int[Tensor, " n_kept"]) -> ProbeExamples:
        """Those examples alone; `index` ascends."""
        place = torch.full((len(self),), -1)
        place[index] = torch.arange(len(index))
        of = place[self.of]
        labels = {name: vector[index] for name, vector in self.labels.items()}
        return ProbeExamples(self.acts[of >= 0], labels, self.groups[index], of[of >= 0], self.pooling)

    def save(self, file: Path) -> None:
        from safetensors.torch import save_file

        own = {"acts": self.acts, "groups": self.groups, "of": self.of}
        named = own | {f"label.{name}": vector for name, vector in self.labels.items()}
        save_file(
            {name: tensor.clone().contiguous() for name, tensor in named.items()}, file, {"pooling": self.pooling}
        )

    @classmethod
    def load(cls, file: Path) -> ProbeExamples:
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            pooling = opened.metadata()["pooling"]
        labels = {n.removeprefix("label."): t for n, t in tensors.items() if n.startswith("label.")}
        return cls(tensors["acts"], labels, tensors["groups"], tensors["of"], pooling)


def joined(parts: Sequence[ProbeExamples]) -> ProbeExamples:
    """Several sets of examples as one; what a set does not label is not known of its examples."""
    names = list(dict.fromkeys(name for part in parts for name in part.labels))
    before = np.cumsum([0, *(len(part) for part in parts)])
    unknown = [torch.full((len(part),), -1, dtype=torch.int8) for part in parts]
    return ProbeExamples(
        torch.cat([part.acts for part in parts]),
        {n: torch.cat([p.labels.get(n, u) for p, u in zip(parts, unknown, strict=True)]) for n in names},
        torch.cat([part.groups for part in parts]),
        torch.cat([part.of + int(n) for part, n in zip(parts, before, strict=False)]),
        parts[0].pooling,
    )


@dataclass(frozen=True, eq=False)
class PropertyRows:
    """The examples of which a property is known: their numbers, whether they have it, and their documents."""

    index: NDArray[np.int64]
    positive: NDArray[np.bool_]
    groups: NDArray[np.int64]

    @classmethod
    def of(cls, examples: ProbeExamples, name: str) -> PropertyRows:
        label = examples.labels[name].numpy()
        index = np.flatnonzero(label >= 0)
        return cls(index, label[index] == 1, examples.groups.numpy()[index])


@dataclass(frozen=True, eq=False)
class ProbeTask:
    """A binary property: the rows that probes are fitted and chosen on, those they are scored on, and, where there
    are any, those of another distribution that they are scored on too."""

    name: str
    train: PropertyRows
    test: PropertyRows
    shift: PropertyRows | None = None


def tasks_of(
    train: ProbeExamples, test: ProbeExamples, shift: ProbeExamples | None = None, min_count: int = 1
) -> list[ProbeTask]:
    """The properties with `min_count` rows of either class in both parts; the shifted part must have one of each.

    Raises ``ValueError`` where there is none.
    """
    found: list[ProbeTask] = []
    for name in train.labels:
        if name not in test.labels:
            raise UserError(f"test: there is no label {name!r}, which train has; give both the same labels")
        parts = PropertyRows.of(train, name), PropertyRows.of(test, name)
        moved = None if shift is None or name not in shift.labels else PropertyRows.of(shift, name)
        moved = moved if moved is not None and rarer(moved) else None
        if min(map(rarer, parts)) >= min_count:
            found.append(ProbeTask(name, *parts, moved))
    if not found:
        raise UserError(
            f"probe.tasks: none of {len(train.labels)} properties has {min_count} rows of either class to be fitted on "
            "and as many to be scored on; give more labelled rows"
        )
    return found


def rarer(rows: PropertyRows) -> int:
    """The number of rows of the rarer class."""
    return int(min(rows.positive.sum(), (~rows.positive).sum()))
