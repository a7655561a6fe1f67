"""Reading pickles without running them.

A pickle is a program for a stack machine; Python's machine imports the names in the program and calls them. This one
cannot import or call anything: names are checked against a list and stay names, and a call becomes a
:class:`PickledObject` with the name and the arguments. The few calls that stand for tensors are built by the function
`build` of the caller. :mod:`pickletools` splits the program into operations, whose lengths are checked against the
bytes that remain.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, cast

from sae.files.tensors.tensor import StoredTensor
from sae.files.tensors.window import Window
from sae.registry import UserError

MAX_OPERATIONS = 500_000
Key = str | int | float | bool | bytes | None


class GlobalName(NamedTuple):
    """The name of a class or function in a pickle; it is never imported."""

    module: str
    """Module."""
    name: str
    """Name in the module."""


@dataclass(eq=False)
class PickledObject:
    """An object as its pickle describes it; it is never constructed."""

    type_name: GlobalName
    """Its class, or the function that would make it."""
    arguments: tuple[Any, ...] = ()
    """Arguments of the call that would make it."""
    state: dict[str, Any] = field(default_factory=dict)
    """Its attributes."""


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
"""Names that occur next to tensors in checkpoints. They become a `PickledObject` like all others."""
MAPPINGS = {
    GlobalName("collections", "OrderedDict"),
    GlobalName("collections", "defaultdict"),
    GlobalName("collections", "Counter"),
}

LITERALS = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_EFFECT = {"PROTO", "FRAME", "STOP"}


def read_pickle(
    stream: Window,
    label: str,
    known: Callable[[GlobalName], bool],
    build: Callable[[GlobalName, tuple[Any, ...]], Any],
    persistent: Callable[[Any], Any],
) -> Any:
    """The content of the next pickle of a stream. Raises `UserError` where it is damaged or is not plain data.

    `known` says which names may occur in addition to :data:`INERT`. `build` converts a call, usually to a
    :class:`PickledObject`. `persistent` converts a reference to data outside the pickle.
    """
    machine = PickleMachine(label, known, build, persistent)
    try:
        for n, (operation, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], stream))):
            if n > MAX_OPERATIONS:
                raise UserError(f"longer than {MAX_OPERATIONS} operations")
            machine.do(operation.name, argument)
        return machine.stack.pop()
    except UnsafePickle:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise UserError(f"{label}: not a complete pickle: {' '.join(str(error).split())[:200]}") from None


class UnsafePickle(UserError):
    """A pickle that asks for more than data."""


class PickleMachine:
    """Stack, marks and memo of a pickle, and its operations."""

    def __init__(
        self,
        label: str,
        known: Callable[[GlobalName], bool],
        build: Callable[[GlobalName, tuple[Any, ...]], Any],
        persistent: Callable[[Any], Any],
    ) -> None:
        self.label, self.known, self.build, self.persistent = label, known, build, persistent
        self.stack, self.marks, self.memo = list[Any](), list[list[Any]](), dict[int, Any]()

    def do(self, name: str, argument: Any) -> None:
        """Runs one operation."""
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in TUPLES:
            self.stack[-TUPLES[name] :] = [tuple(self.last_values(TUPLES[name]))]
        elif name not in _NO_EFFECT:
            if name not in OPERATIONS:
                raise UnsafePickle(
                    f"{self.label}: the pickle contains the operation {name}, which is not data; no code was run"
                )
            OPERATIONS[name](self, argument)

    def last_values(self, n: int) -> list[Any]:
        """The last `n` values; they stay on the stack."""
        if len(self.stack) < n:
            raise UserError("values are missing")
        return self.stack[-n:]

    def pop_mark(self) -> list[Any]:
        """The values since the last mark, removed from the stack."""
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

    def pop_to_mark(self, _: Any) -> None:
        self.pop_mark()

    def put(self, at: Any) -> None:
        self.memo[len(self.memo) if at is None else at] = self.stack[-1]

    def get(self, at: Any) -> None:
        self.stack.append(self.memo[at])

    def push_global(self, argument: Any) -> None:
        """GLOBAL, whose argument holds module and name, and STACK_GLOBAL, which takes them from the stack."""
        if argument is None:
            name, module = self.stack.pop(), self.stack.pop()
        else:
            module, _, name = argument.partition(" ")
        if not (isinstance(module, str) and isinstance(name, str)):
            raise UserError("a name is not text")
        global_name = GlobalName(module, name)
        if name not in INERT.get(module, ()) and not self.known(global_name):
            raise UnsafePickle(
                f"{self.label}: the pickle names {module[:60]}.{name[:60]}, which is not a tensor; no code was run"
            )
        self.stack.append(global_name)

    def call(self, _: Any) -> None:
        """REDUCE and NEWOBJ."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not (isinstance(function, GlobalName) and isinstance(arguments, tuple)):
            raise UserError("a call without a name")
        if function in MAPPINGS:
            self.stack.append({})
        elif function.name == "_reconstructor" and arguments and isinstance(arguments[0], GlobalName):
            self.stack.append(PickledObject(arguments[0]))
        else:
            self.stack.append(self.build(function, arguments))

    def call_with_keywords(self, _: Any) -> None:
        """NEWOBJ_EX; keyword arguments are ignored."""
        self.stack.pop()
        self.call(None)

    def build_state(self, _: Any) -> None:
        """BUILD; attributes of plain dictionaries and tensors are ignored, because they do not affect numbers."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, PickledObject):
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, Mapping):
                    target.state.update({str(name): _with_name(value, name) for name, value in part.items()})

    def push_persistent(self, _: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    def extend_list(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, PickledObject):
            raise UserError("an append to something that is not a list")

    def update_dict(self, items: list[Any]) -> None:
        target = self.stack[-1]
        pairs = {_key(key): _with_name(value, key) for key, value in zip(items[::2], items[1::2], strict=True)}
        if isinstance(target, dict):
            target.update(pairs)
        elif not isinstance(target, PickledObject):
            raise UserError("an entry for something that is not a dictionary")

    def append(self, _: Any) -> None:
        self.extend_list([self.stack.pop()])

    def appends(self, _: Any) -> None:
        self.extend_list(self.pop_mark())

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update_dict([key, value])

    def set_items(self, _: Any) -> None:
        self.update_dict(self.pop_mark())

    def make_tuple(self, _: Any) -> None:
        items = tuple(self.pop_mark())
        self.stack.append(items)

    def make_list(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    def make_dict(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.update_dict(items)


def _with_name(value: Any, key: Any) -> Any:
    """A value of a dictionary; a tensor takes its key as its name."""
    return value.with_name(str(key)) if isinstance(value, StoredTensor) else value


def _key(key: Any) -> Key:
    """A key of a dictionary. Tuples are refused, because the hash of a deeply nested one overflows the stack."""
    if key is None or isinstance(key, str | int | float | bool | bytes):
        return key
    raise UserError(f"a {type(key).__name__} is not a valid key")


OPERATIONS: dict[str, Callable[[PickleMachine, Any], None]] = {
    "MARK": PickleMachine.mark,
    "POP": PickleMachine.pop,
    "POP_MARK": PickleMachine.pop_to_mark,
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "PUT": PickleMachine.put,
    "BINPUT": PickleMachine.put,
    "LONG_BINPUT": PickleMachine.put,
    "MEMOIZE": PickleMachine.put,
    "GET": PickleMachine.get,
    "BINGET": PickleMachine.get,
    "LONG_BINGET": PickleMachine.get,
    "GLOBAL": PickleMachine.push_global,
    "STACK_GLOBAL": PickleMachine.push_global,
    "REDUCE": PickleMachine.call,
    "NEWOBJ": PickleMachine.call,
    "NEWOBJ_EX": PickleMachine.call_with_keywords,
    "BUILD": PickleMachine.build_state,
    "BINPERSID": PickleMachine.push_persistent,
    "TUPLE": PickleMachine.make_tuple,
    "LIST": PickleMachine.make_list,
    "FROZENSET": PickleMachine.make_list,
    "DICT": PickleMachine.make_dict,
    "APPEND": PickleMachine.append,
    "APPENDS": PickleMachine.appends,
    "ADDITEMS": PickleMachine.appends,
    "SETITEM": PickleMachine.set_item,
    "SETITEMS": PickleMachine.set_items,
}
