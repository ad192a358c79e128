"""Runs a pickle without executing anything of it: only plain values and allow-listed names exist.

A pickle is a program for a stack machine. This machine has those opcodes of protocols 2 to 5
(https://docs.python.org/3/library/pickletools.html) that `torch.save` writes; where Python's would
import a name and call it, this one asks `find_global`, which has a table of a few names. Python's
own `pickle.Unpickler` with `find_class` overridden would not do: one PUT of a few bytes makes it
allocate 16 bytes times the index that it names, and a nested pickle overflows its stack.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

from convmesh.weights.binary_file import Refused, printable

LONGEST_PICKLE = 2**25  # bytes
_MOST_OPERATIONS = 2_000_000  # about 100 an array
_MOST_INTEGER_KEYS = 10_000  # integers can be chosen so that all have one hash; texts cannot
_LONGEST_INTEGER = 16  # bytes
_LONGEST_NAME = 256  # of a global
_PROTOCOLS = range(2, 6)


class Function:
    """What a name of the allow-list stands for: `apply` makes a value from the arguments."""

    def __init__(self, name: str, apply: Callable[..., Any]):
        self.name, self.apply = name, apply


class Inert:
    """An object without use for weights (a number of NumPy, a namespace): it keeps nothing."""

    __slots__ = ()


class PickleMachine:
    """Runs the pickles of one file.

    data: what they are read from. find_global: called with module and name, returns a `Function` or
    a value, or raises Refused. find_storage: called with a persistent id.
    """

    def __init__(
        self,
        data: bytes,
        find_global: Callable[[str, str], Any],
        find_storage: Callable[[Any], Any],
    ):
        self._data = data
        self._find_global, self._find_storage = find_global, find_storage
        self._operations = 0
        self._integer_keys = 0

    def run(self, start: int = 0) -> tuple[Any, int]:
        """Run the pickle that starts at `start`; return its value, and where it ends.

        Raises Refused for what no weights need, and other errors if it is damaged.
        """
        self._at = start
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        while (code := self._take(1)) != pickle.STOP:
            self._count(1)
            if code not in _HANDLERS:
                raise Refused(f"its pickle has the opcode {code!r}, which no weights need")
            _HANDLERS[code](self)
        return self._pop(), self._at

    def _count(self, operations: int) -> None:
        self._operations += operations
        if self._operations > _MOST_OPERATIONS:
            raise Refused(f"its pickle has more than {_MOST_OPERATIONS} operations")

    def _take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        end = self._at + count
        if end > len(self._data):
            raise Refused("its pickle is cut short or damaged: it says more bytes follow than do")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _number(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _line(self) -> str:
        """Return the text up to the end of the line."""
        end = self._data.find(b"\n", self._at, self._at + _LONGEST_NAME)
        if end < 0:
            raise Refused("its pickle has a name without end")
        return self._take(end + 1 - self._at)[:-1].decode("utf-8")

    def _pop(self) -> Any:
        if not self._stack:
            raise Refused("its pickle is damaged: it takes a value that is not there")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise Refused("its pickle is damaged: it takes a value that is not there")
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        """Return the values since the last mark."""
        if not self._marks:
            raise Refused("its pickle is damaged: it takes values without a mark")
        items, self._stack = self._stack, self._marks.pop()
        return items

    # Handlers of opcodes.

    def _protocol(self) -> None:
        protocol = self._take(1)[0]
        if protocol not in _PROTOCOLS:
            raise Refused(f"its pickle is of protocol {protocol}; 2 to 5 can be read")

    def _frame(self) -> None:
        self._take(8)  # the length of a frame, which only helps to read ahead

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _drop_mark(self) -> None:
        self._pop_mark()

    def _long(self) -> None:
        size = self._take(1)[0]
        if size > _LONGEST_INTEGER:
            raise Refused(f"its pickle has an integer of {size} bytes")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _tuple(self) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _last_as_tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise Refused(f"its pickle is damaged: it appends to {type(target).__name__}")

    def _set(self, items: list[Any]) -> None:
        """Add keys and values, in turns, to the dictionary on top."""
        target = self._top()
        if isinstance(target, Inert):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused("its pickle is damaged: it sets items of what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._key(key)] = value

    def _key(self, key: Any) -> Any:
        """Return a key that takes no long time to find."""
        if isinstance(key, int):
            self._integer_keys += 1
            if self._integer_keys > _MOST_INTEGER_KEYS:
                raise Refused(f"its pickle has more than {_MOST_INTEGER_KEYS} integers as keys")
        elif not isinstance(key, str | bytes | None):
            raise Refused(f"its pickle has a dictionary with a {type(key).__name__} as a key")
        return key

    def _set_one(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _append_one(self) -> None:
        value = self._pop()
        self._append([value])

    def _global(self) -> None:
        module, name = self._line(), self._line()
        self._stack.append(self._find_global(module, name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Refused("its pickle is damaged: a global has no name")
        self._stack.append(self._find_global(module, name))

    def _reduce(self) -> None:
        """Call, in Python's machine; here make what the allow-list has for a name."""
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise Refused(f"its pickle calls a {type(function).__name__}, which no weights need")
        if function.name == "OrderedDict" and arguments:  # of Python 2: with a list of pairs
            [pairs] = arguments
            self._count(len(pairs))
            self._stack.append({})
            self._set([part for key, value in pairs for part in (key, value)])
        else:
            self._stack.append(function.apply(*arguments))

    def _build(self) -> None:
        """Set attributes, in Python's machine: a state_dict's `_metadata`; no weights."""
        self._pop()
        target = self._top()
        if not isinstance(target, dict | Inert):
            raise Refused(f"its pickle sets attributes of a {type(target).__name__}")

    def _storage(self) -> None:
        self._stack.append(self._find_storage(self._pop()))

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise Refused(f"its pickle is damaged: it has no value number {index}")
        self._stack.append(self._memo[index])

    def _text(self, length: struct.Struct) -> None:
        self._stack.append(self._take(self._number(length)).decode("utf-8"))

    def _old_text(self, length: struct.Struct) -> None:
        """Push a `str` of Python 2."""
        data = self._take(self._number(length))
        try:
            self._stack.append(data.decode("utf-8"))
        except UnicodeDecodeError:
            self._stack.append(data.decode("latin-1"))

    def _bytes(self, length: struct.Struct) -> None:
        self._stack.append(self._take(self._number(length)))


_U1, _U2, _U4, _U8 = (struct.Struct(f"<{letter}") for letter in "BHIQ")
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")


def _push(make: Callable[[], Any]) -> Callable[[PickleMachine], None]:
    return lambda machine: machine._stack.append(make())


def _push_number(form: struct.Struct) -> Callable[[PickleMachine], None]:
    return lambda machine: machine._stack.append(machine._number(form))


_HANDLERS: dict[bytes, Callable[[PickleMachine], None]] = {
    pickle.PROTO: PickleMachine._protocol,
    pickle.FRAME: PickleMachine._frame,
    pickle.MARK: PickleMachine._mark,
    pickle.POP: lambda machine: machine._pop() and None,
    pickle.POP_MARK: lambda machine: machine._drop_mark(),
    pickle.NONE: _push(lambda: None),
    pickle.NEWTRUE: _push(lambda: True),
    pickle.NEWFALSE: _push(lambda: False),
    pickle.EMPTY_DICT: _push(dict),
    pickle.EMPTY_LIST: _push(list),
    pickle.EMPTY_TUPLE: _push(tuple),
    pickle.EMPTY_SET: _push(Inert),
    pickle.BININT: _push_number(_I4),
    pickle.BININT1: _push_number(_U1),
    pickle.BININT2: _push_number(_U2),
    pickle.BINFLOAT: _push_number(_F8),
    pickle.LONG1: PickleMachine._long,
    pickle.TUPLE: PickleMachine._tuple,
    pickle.TUPLE1: lambda machine: machine._last_as_tuple(1),
    pickle.TUPLE2: lambda machine: machine._last_as_tuple(2),
    pickle.TUPLE3: lambda machine: machine._last_as_tuple(3),
    pickle.BINUNICODE: lambda machine: machine._text(_U4),
    pickle.SHORT_BINUNICODE: lambda machine: machine._text(_U1),
    pickle.BINUNICODE8: lambda machine: machine._text(_U8),
    pickle.BINSTRING: lambda machine: machine._old_text(_U4),
    pickle.SHORT_BINSTRING: lambda machine: machine._old_text(_U1),
    pickle.BINBYTES: lambda machine: machine._bytes(_U4),
    pickle.SHORT_BINBYTES: lambda machine: machine._bytes(_U1),
    pickle.BINBYTES8: lambda machine: machine._bytes(_U8),
    pickle.APPEND: PickleMachine._append_one,
    pickle.APPENDS: lambda machine: machine._append(machine._pop_mark()),
    pickle.ADDITEMS: lambda machine: machine._append(machine._pop_mark()),
    pickle.SETITEM: PickleMachine._set_one,
    pickle.SETITEMS: lambda machine: machine._set(machine._pop_mark()),
    pickle.GLOBAL: PickleMachine._global,
    pickle.STACK_GLOBAL: PickleMachine._stack_global,
    pickle.REDUCE: PickleMachine._reduce,
    pickle.NEWOBJ: PickleMachine._reduce,
    pickle.BUILD: PickleMachine._build,
    pickle.BINPERSID: PickleMachine._storage,
    pickle.BINPUT: lambda machine: machine._put(machine._number(_U1)),
    pickle.LONG_BINPUT: lambda machine: machine._put(machine._number(_U4)),
    pickle.MEMOIZE: lambda machine: machine._put(len(machine._memo)),
    pickle.BINGET: lambda machine: machine._get(machine._number(_U1)),
    pickle.LONG_BINGET: lambda machine: machine._get(machine._number(_U4)),
}


def refused_global(module: str, name: str) -> Refused:
    """Return the error for a name that is not on the allow-list."""
    return Refused(
        f"its pickle asks for {printable(f'{module}.{name}'[:120])}, which no weights need; nothing"
        " was run. If you trust where it comes from, open it with its own program and save"
        " model.state_dict() alone"
    )
