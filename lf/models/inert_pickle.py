"""Read a pickle without running its code: only functions of a given table are called.

A class or function outside the table becomes a `Placeholder`. Calling, building or filling one only makes or fills
placeholders. Nothing in a pickle is hashed (except names), compared or printed, so nested content cannot make it slow
or end the process.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from types import FunctionType
from typing import Any

MOST_OPCODES = 5_000_000  # opcodes of one pickle; a state dict of a thousand tensors has 30,000
MOST_NAMED = 500  # characters of the name of a class
MOST_SHOWN = 80  # characters of a name in an error
_WITH_VALUE = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
LITERALS = frozenset(_WITH_VALUE.split())  # opcodes that push their own argument
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
REBUILDERS = ("._reconstruct", "._reconstructor", ".__newobj__")  # of numpy, copyreg; the class comes first


class Placeholder:
    """Stands for an object of a class that is not in the table.

    Attributes:
        name: MODULE.CLASS, or the object that the pickle calls instead of a class.
        items: items that the pickle sets by name, as in a dictionary; None without items.
    """

    __slots__ = ("items", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: dict[str | int, Any] | None = None


class OtherTensor(Placeholder):
    """Stands for numbers that may be weights in an unsupported form: quantized, sparse, a numpy array."""

    __slots__ = ()


def load(file: io.BytesIO, table: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """Return the object of the next pickle in `file`.

    Args:
        file: read up to the end of that pickle.
        table: MODULE.NAME -> replacement; functions in it are called when the pickle calls them.
        persistent: returns the object of a persistent id.

    Raises:
        Exception: of any kind, if the pickle is damaged or has more than MOST_OPCODES opcodes.
    """
    return _Machine(table, persistent).run(file)


def shown(name: object) -> str:
    """Make a name from a file printable and short, for an error."""
    text = str(name)[: MOST_SHOWN + 1]
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def put(target: dict[Any, Any], key: Any, value: Any) -> None:
    """Set an item if the key is a name or a small number. Other keys may be slow to hash or collide."""
    if type(key) is str or (type(key) is int and abs(key) < 1 << 60):
        target[key] = value


class _Machine:
    """Executes opcodes: the method `do_x` is the opcode X; it receives the argument in the pickle, or None."""

    def __init__(self, table: Mapping[str, Any], persistent: Callable[[Any], Any]) -> None:
        self.table, self.persistent = table, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.names: dict[str, str] = {}  # one string for equal names

    def run(self, file: io.BytesIO) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count >= MOST_OPCODES:
                raise UnpicklingError(f"a pickle of more than {MOST_OPCODES} opcodes; save the state dict alone")
            if opcode.name in LITERALS:
                self.stack.append(argument)
            elif opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name])
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            else:
                raise UnpicklingError(f"its opcode {opcode.name} is not supported")
        return self.stack.pop()

    def do_proto(self, _: Any) -> None: ...

    do_frame = do_stop = do_proto

    # --- the stack and the memo ---

    def do_mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """Pop all items above the last mark from the stack, and the mark."""
        above, self.stack = self.stack, self.below.pop()
        return above

    def do_pop_mark(self, _: Any) -> None:
        self.marked()

    def do_pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def do_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def do_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def do_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    do_binget = do_long_binget = do_get
    do_binput = do_long_binput = do_put

    # --- containers ---

    def do_tuple(self, _: Any) -> None:
        items = tuple(self.marked())
        self.stack.append(items)

    def do_tuple1(self, _: Any) -> None:
        self.stack.append((self.stack.pop(),))

    def do_tuple2(self, _: Any) -> None:
        b, a = self.stack.pop(), self.stack.pop()
        self.stack.append((a, b))

    def do_tuple3(self, _: Any) -> None:
        c, b, a = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append((a, b, c))

    def do_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def do_list(self, _: Any) -> None:
        items = self.marked()
        self.stack.append(items)

    def do_append(self, _: Any) -> None:
        self.extend([self.stack.pop()])

    def do_appends(self, _: Any) -> None:
        self.extend(self.marked())

    def extend(self, values: list[Any]) -> None:
        """Append to the list on the stack; a placeholder forgets the values."""
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(values)

    def do_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def do_dict(self, _: Any) -> None:
        pairs = self.marked()
        self.stack.append({})
        self.fill(pairs)

    def do_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.fill([key, value])

    def do_setitems(self, _: Any) -> None:
        self.fill(self.marked())

    def fill(self, pairs: list[Any]) -> None:
        """Set items of the dictionary or placeholder on the stack."""
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target.items = target.items or {}
            target = target.items
        if type(target) is dict:
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                put(target, key, value)

    def do_empty_set(self, _: Any) -> None:
        self.stack.append(Placeholder("builtins.set"))

    def do_additems(self, _: Any) -> None:
        self.marked()

    def do_frozenset(self, _: Any) -> None:
        self.marked()
        self.stack.append(Placeholder("builtins.frozenset"))

    # --- opcodes that run code in a real unpickler ---

    def find(self, module: Any, name: Any) -> Any:
        """Return the table's function for a class or function name, or a placeholder."""
        if type(module) is not str or type(name) is not str or len(module) + len(name) > MOST_NAMED:
            raise UnpicklingError(f"a class whose name is no text of at most {MOST_NAMED} characters")
        full = f"{module}.{name}"
        return self.table[full] if full in self.table else Placeholder(self.names.setdefault(full, full))

    def call(self, function: Any, arguments: Any) -> None:
        """Push the result of a function of the table, or a placeholder."""
        if type(arguments) is not tuple:
            raise UnpicklingError("a call whose arguments are no tuple")
        if isinstance(function, FunctionType):  # only the table holds functions
            self.stack.append(function(*arguments))
            return
        name = function.name if isinstance(function, Placeholder) else type(function).__name__
        if name.endswith(REBUILDERS) and arguments and isinstance(arguments[0], Placeholder):
            name = arguments[0].name
        self.stack.append((OtherTensor if name == "numpy.ndarray" else Placeholder)(name))

    def do_global(self, names: str) -> None:
        self.stack.append(self.find(*names.split(" ", 1)))

    def do_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.find(module, name))

    def do_reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.call(function, arguments)

    do_newobj = do_reduce

    def do_newobj_ex(self, _: Any) -> None:
        self.stack.pop()  # keyword arguments
        self.do_reduce(None)

    def do_inst(self, names: str) -> None:
        arguments = tuple(self.marked())
        self.call(self.find(*names.split(" ", 1)), arguments)

    def do_obj(self, _: Any) -> None:
        function, *arguments = self.marked()
        self.call(function, tuple(arguments))

    def do_build(self, _: Any) -> None:
        self.stack.pop()  # attributes, of a state dict for example `_metadata`

    def do_persid(self, argument: Any) -> None:
        self.stack.append(self.persistent(argument))

    def do_binpersid(self, _: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    name.removeprefix("do_").upper(): step for name, step in vars(_Machine).items() if name.startswith("do_")
}
