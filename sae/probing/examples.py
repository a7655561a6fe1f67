"""Labelled examples for probes, each of one activation vector or several, and the tasks that they define."""

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

from sae.metric import block_rows
from sae.numerics.atomic_write import write_tensors
from sae.numerics.memory import check_memory
from sae.registry import UserError

Pooling = Literal["last", "mean", "max"]
"""How the vectors of an example are reduced to one: the last, the mean, or the maximum of each column."""
Encode = Callable[[Tensor], Tensor]
VECTORS_AT_ONCE = 4096
"""Vectors that are encoded at once."""


@dataclass(frozen=True, eq=False)
class ProbeExamples:
    """Labelled examples, each with one activation vector or several (the tokens of a text)."""

    acts: Float[Tensor, "n_vectors d_in"]
    """The activation vectors, in the order of their examples."""
    labels: Mapping[str, Int[Tensor, " n_examples"]]
    """For each property, the label of every example: 1, 0, or -1 if it is not known."""
    groups: Int[Tensor, " n_examples"]
    """The document of each example."""
    of: Int[Tensor, " n_vectors"]
    """The example that each vector belongs to."""
    pooling: Pooling = "last"
    """How several vectors are reduced to one, after encoding."""

    @classmethod
    def each(
        cls, acts: Float[Tensor, "n_examples d_in"], labels: Mapping[str, Tensor], groups: Tensor | None = None
    ) -> ProbeExamples:
        """Examples of one vector each; without `groups` every example is a document of its own.

        Raises `UserError` if shapes or values do not fit.
        """
        if acts.ndim != 2 or not bool(torch.isfinite(acts).all()):
            raise UserError(f"acts: shape {list(acts.shape)}, or values not finite; give a finite matrix [rows, d_in]")
        numbers = torch.arange(len(acts))
        groups = numbers if groups is None else groups
        for name, vector in {**labels, "groups": groups}.items():
            if vector.shape != (len(acts),):
                raise UserError(f"{name}: shape {list(vector.shape)} for {len(acts)} rows; give one entry for each row")
        for name, vector in labels.items():
            wrong = (vector != -1) & (vector != 0) & (vector != 1)  # NaN too
            if bool(wrong.any()):
                raise UserError(
                    f"{name}: values other than 1, 0 and -1 (unknown) in {int(wrong.sum())} of {len(vector)} entries, "
                    f"such as {float(vector[wrong][0]):g}; give a separate label for each class"
                )
        int_labels = {name: vector.to("cpu", torch.int8) for name, vector in labels.items()}
        return cls(acts.detach().float().cpu(), int_labels, groups.cpu().long(), numbers)

    def __len__(self) -> int:
        return len(self.groups)

    def read(self, encode: Encode) -> NDArray[np.float32]:
        """The encoded and pooled vectors, one row for each example: ``[n_examples, n_columns]``.

        Vectors are encoded and pooled in blocks of whole examples, so that only the result grows with the width of the
        codes. Raises `UserError` where the machine has less memory than it takes.
        """
        with torch.no_grad():
            n_columns = encode(self.acts[:1]).shape[1]
            check_memory(f"probe.tasks.max_rows: {len(self)} rows of {n_columns} codes", 4 * len(self) * n_columns)
            at_once = min(VECTORS_AT_ONCE, block_rows(n_columns))
            out = np.empty((len(self), n_columns), dtype=np.float32)
            ends = torch.bincount(self.of, minlength=len(self)).cumsum(0)
            begin = done = 0
            while begin < len(self):
                # As many whole examples as fit, but one at least.
                end = max(begin + 1, int(torch.searchsorted(ends, done + at_once, right=True)))
                vectors = slice(done, int(ends[end - 1]))
                rows = torch.cat([encode(piece).float() for piece in self.acts[vectors].split(at_once)])
                out[begin:end] = self._pooled(rows, self.of[vectors] - begin, end - begin).cpu().numpy()
                begin, done = end, vectors.stop
        return out

    def _pooled(
        self, rows: Float[Tensor, "vectors n_columns"], of: Int[Tensor, " vectors"], n: int
    ) -> Float[Tensor, "n n_columns"]:
        """The rows of `n` whole examples, one for each."""
        if len(rows) == n:
            return rows
        last = torch.bincount(of, minlength=n).cumsum(0) - 1
        if self.pooling == "last":
            return rows[last]
        reduction = "mean" if self.pooling == "mean" else "amax"
        out = rows.new_zeros(n, rows.shape[1])
        return out.index_reduce_(0, of.to(rows.device), rows, reduction, include_self=False)

    def at(self, index: Int[Tensor, " n_kept"]) -> ProbeExamples:
        """The examples with the numbers `index`, which must ascend."""
        place = torch.full((len(self),), -1)
        place[index] = torch.arange(len(index))
        of = place[self.of]
        labels = {name: vector[index] for name, vector in self.labels.items()}
        return ProbeExamples(self.acts[of >= 0], labels, self.groups[index], of[of >= 0], self.pooling)

    def save(self, file: Path) -> None:
        """Writes a safetensors file."""
        tensors = {"acts": self.acts, "groups": self.groups, "of": self.of}
        named = tensors | {f"label.{name}": vector for name, vector in self.labels.items()}
        copied = {name: tensor.clone().contiguous() for name, tensor in named.items()}
        write_tensors(file, copied, {"pooling": self.pooling})

    @classmethod
    def load(cls, file: Path) -> ProbeExamples:
        """Reads the file that :meth:`save` wrote."""
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            pooling = opened.metadata()["pooling"]
        labels = {n.removeprefix("label."): t for n, t in tensors.items() if n.startswith("label.")}
        return cls(tensors["acts"], labels, tensors["groups"], tensors["of"], pooling)


def joined(parts: Sequence[ProbeExamples]) -> ProbeExamples:
    """Concatenates sets of examples; labels that a set lacks are -1 (unknown) for its examples."""
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
    """The examples for which a property is known."""

    index: NDArray[np.int64]
    """The numbers of the examples."""
    positive: NDArray[np.bool_]
    """Whether each has the property."""
    groups: NDArray[np.int64]
    """The document of each."""

    @classmethod
    def of(cls, examples: ProbeExamples, name: str) -> PropertyRows:
        """From the label `name` of examples."""
        label = examples.labels[name].numpy()
        index = np.flatnonzero(label >= 0)
        return cls(index, label[index] == 1, examples.groups.numpy()[index])


@dataclass(frozen=True, eq=False)
class ProbeTask:
    """A binary property to be probed."""

    name: str
    """The name of the property."""
    train: PropertyRows
    """The examples that probes are fitted and validated on."""
    test: PropertyRows
    """The examples that probes are scored on."""
    shift: PropertyRows | None = None
    """Test examples of another distribution, if there are any."""


def tasks_of(
    train: ProbeExamples, test: ProbeExamples, shift: ProbeExamples | None = None, min_count: int = 1
) -> list[ProbeTask]:
    """A task for each property with `min_count` examples of either class in `train` and in `test`; `shift` is used for
    a task if it has an example of each class.

    Raises `UserError` if there is no such property, or if `test` lacks a label of `train`.
    """
    tasks: list[ProbeTask] = []
    for name in train.labels:
        if name not in test.labels:
            raise UserError(f"test: there is no label {name!r}, which train has; give both the same labels")
        parts = PropertyRows.of(train, name), PropertyRows.of(test, name)
        shifted = None if shift is None or name not in shift.labels else PropertyRows.of(shift, name)
        shifted = shifted if shifted is not None and rarer(shifted) else None
        if min(map(rarer, parts)) >= min_count:
            tasks.append(ProbeTask(name, *parts, shifted))
    if not tasks:
        raise UserError(
            f"probe.tasks: none of {len(train.labels)} properties has {min_count} rows of either class for training "
            "and as many for the test; give more labelled rows"
        )
    return tasks


def rarer(rows: PropertyRows) -> int:
    """The number of examples of the rarer class."""
    return int(min(rows.positive.sum(), (~rows.positive).sum()))
