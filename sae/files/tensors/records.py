"""Pickles, read without running them.

A pickle is a program for a machine with a stack; usually the machine imports what the program names and calls it.
This one has no means to import or to call: names are checked against a list and stay names, a call becomes a
:class:`PickledObject` of the name and its arguments, and of those, the few that stand for tensors are built by `build`,
which is ours. :mod:`pickletools` splits the program into operations, whose lengths are held against the bytes that
are there.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, cast

from sae.files.tensors.tensor import StoredTensor
from sae.files.tensors.window import Window
from sae.registry import UserError

MOST_OPERATIONS = 500_000
Key = str | int | float | bool | bytes | None


class Name(NamedTuple):
    """What a pickle calls by the name of a module and one in it. It is never looked up."""

    module: str
    name: str


@dataclass(eq=False)
class PickledObject:
    """An object as its pickle describes it: what it is called, what it was made from, and its attributes."""

    what: Name
    arguments: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)


INERT = {
    "collections": {"OrderedDict", "defaultdict", "Counter"},
    "builtins": {"set", "frozenset", "list", "dict", "tuple", "int", "float", "bool", "str", "bytes", "bytearray"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy._core.multiarray": {"scalar", "_reconstruct"},
    "_codecs": {"encode"},
    "copyreg": {"_reconstructor"},
    "copy_reg": {"_reconstructor"},
    "pathlib": {"PosixPath", "WindowsPath", "Path"},
    "argparse": {"Namespace"},
}
INERT["__builtin__"] = INERT["builtins"] | {"object", "unicode", "long"}
INERT["builtins"] = INERT["builtins"] | {"object"}
"""Names that occur beside tensors in files of trainers. They become records like everything else."""
DICTIONARIES = {Name("collections", "OrderedDict"), Name("collections", "defaultdict"), Name("collections", "Counter")}

PUSHED = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = {"PROTO", "FRAME", "STOP"}


def read_pickle(
    stream: Window,
    label: str,
    known: Callable[[Name], bool],
    build: Callable[[Name, tuple[Any, ...]], Any],
    persistent: Callable[[Any], Any],
) -> Any:
    """What the next pickle of a stream describes; a ``ValueError`` of one line where that is no plain data.

    `known` says which names may occur beside :data:`INERT`, `build` makes something of a call, a
    :class:`PickledObject` as a
    rule, and `persistent` of a reference to what lies outside the pickle.
    """
    machine = Machine(label, known, build, persistent)
    try:
        for n, (operation, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], stream))):
            if n > MOST_OPERATIONS:
                raise UserError(f"longer than {MOST_OPERATIONS} operations")
            machine.do(operation.name, argument)
        return machine.stack.pop()
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise UserError(f"{label}: not a whole pickle: {' '.join(str(error).split())[:200]}") from None


class Refused(ValueError):
    """A pickle that asks for more than data."""


class Machine:
    """The stack, the marks in it and what is remembered."""

    def __init__(
        self,
        label: str,
        known: Callable[[Name], bool],
        build: Callable[[Name, tuple[Any, ...]], Any],
        persistent: Callable[[Any], Any],
    ) -> None:
        self.label, self.known, self.build, self.persistent = label, known, build, persistent
        self.stack, self.marks, self.memo = list[Any](), list[list[Any]](), dict[int, Any]()

    def do(self, name: str, argument: Any) -> None:
        """One operation."""
        if name in PUSHED:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in TUPLES:
            self.stack[-TUPLES[name] :] = [tuple(self.taken(TUPLES[name]))]
        elif name not in _NOTHING:
            if name not in OPERATIONS:
                raise Refused(f"{self.label}: the pickle asks for {name}, which is not data; nothing of it was run")
            OPERATIONS[name](self, argument)

    def taken(self, n: int) -> list[Any]:
        """The last `n` values, still on the stack."""
        if len(self.stack) < n:
            raise UserError("values are missing")
        return self.stack[-n:]

    def pop_mark(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def forget(self, _: Any) -> None:
        self.pop_mark()

    def put(self, at: Any) -> None:
        self.memo[len(self.memo) if at is None else at] = self.stack[-1]

    def get(self, at: Any) -> None:
        self.stack.append(self.memo[at])

    def named(self, argument: Any) -> None:
        """GLOBAL, whose argument is both names, and STACK_GLOBAL."""
        if argument is None:
            name, module = self.stack.pop(), self.stack.pop()
        else:
            module, _, name = argument.partition(" ")
        if not (isinstance(module, str) and isinstance(name, str)):
            raise UserError("a name is no text")
        found = Name(module, name)
        if name not in INERT.get(module, ()) and not self.known(found):
            raise Refused(
                f"{self.label}: the pickle names {module[:60]}.{name[:60]}, which is no tensor; nothing of it was run"
            )
        self.stack.append(found)

    def call(self, _: Any) -> None:
        """REDUCE and NEWOBJ."""
        arguments, what = self.stack.pop(), self.stack.pop()
        if not (isinstance(what, Name) and isinstance(arguments, tuple)):
            raise UserError("a call of what is no name")
        if what in DICTIONARIES:
            self.stack.append({})
        elif what.name == "_reconstructor" and arguments and isinstance(arguments[0], Name):
            self.stack.append(PickledObject(arguments[0]))
        else:
            self.stack.append(self.build(what, arguments))

    def call_named(self, _: Any) -> None:
        """NEWOBJ_EX, whose keywords are forgotten."""
        self.stack.pop()
        self.call(None)

    def attributes(self, _: Any) -> None:
        """BUILD; what a plain dictionary or a tensor would have of attributes says nothing of numbers."""
        state, of = self.stack.pop(), self.stack[-1]
        if isinstance(of, PickledObject):
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, Mapping):
                    of.state.update({str(name): _kept(value, name) for name, value in part.items()})

    def outside(self, _: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    def into_list(self, items: list[Any]) -> None:
        of = self.stack[-1]
        if isinstance(of, list):
            of.extend(items)
        elif not isinstance(of, PickledObject):
            raise UserError("something is appended to what is no list")

    def into_dict(self, items: list[Any]) -> None:
        of = self.stack[-1]
        pairs = {_key(key): _kept(value, key) for key, value in zip(items[::2], items[1::2], strict=True)}
        if isinstance(of, dict):
            of.update(pairs)
        elif not isinstance(of, PickledObject):
            raise UserError("something is put into what is no dictionary")

    def append(self, _: Any) -> None:
        self.into_list([self.stack.pop()])

    def appends(self, _: Any) -> None:
        self.into_list(self.pop_mark())

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.into_dict([key, value])

    def set_items(self, _: Any) -> None:
        self.into_dict(self.pop_mark())

    def make_tuple(self, _: Any) -> None:
        items = tuple(self.pop_mark())
        self.stack.append(items)

    def make_list(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    def make_dict(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.into_dict(items)


def _kept(value: Any, key: Any) -> Any:
    """A value of a dictionary; a tensor is called by its key."""
    return value.named(str(key)) if isinstance(value, StoredTensor) else value


def _key(key: Any) -> Key:
    """A key of a dictionary. Deep tuples, whose hash has no bottom, are none."""
    if key is None or isinstance(key, str | int | float | bool | bytes):
        return key
    raise UserError(f"a {type(key).__name__} is no key")


OPERATIONS: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.forget,
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "PUT": Machine.put,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MEMOIZE": Machine.put,
    "GET": Machine.get,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "GLOBAL": Machine.named,
    "STACK_GLOBAL": Machine.named,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.call,
    "NEWOBJ_EX": Machine.call_named,
    "BUILD": Machine.attributes,
    "BINPERSID": Machine.outside,
    "TUPLE": Machine.make_tuple,
    "LIST": Machine.make_list,
    "FROZENSET": Machine.make_list,
    "DICT": Machine.make_dict,
    "APPEND": Machine.append,
    "APPENDS": Machine.appends,
    "ADDITEMS": Machine.appends,
    "SETITEM": Machine.set_item,
    "SETITEMS": Machine.set_items,
}
