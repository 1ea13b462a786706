"""Decoder of pickles of plain data, which imports and calls nothing that a file names.

A stack machine interprets the opcodes that build plain data. The few names that NumPy arrays need are mapped to
functions of this module; other names and opcodes are rejected. No file content causes an import, an attribute access,
or a call into NumPy with unchecked arguments.

Memory and time are bounded by the size of the file: values are counted, lengths are checked against the remaining
bytes, all arrays together cannot hold more bytes than the file, and keys have types whose hashes cannot be chosen to
collide. As in any pickle, a value can be referenced many times, so callers that concatenate parts of the result must
bound the total.

Format: the module `pickletools` of the standard library, protocols 3 to 5; sets of protocols 4 and 5 only.
"""

import dataclasses
import functools
import math
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from waymax_sim.datasets.errors import DataError

MAX_OPCODES = 4_000_000  # a recorded scene of 200 agents has 100,000
MAX_AXIS_LENGTH = 1_000_000
PICKLE_REMEDY = "only NumPy arrays of numbers or strings, dicts, lists, tuples, sets and plain values are supported"

NUMBER_FORMATS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
CONSTANTS = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}
EMPTY_CONTAINERS = {pickle.EMPTY_LIST: list, pickle.EMPTY_DICT: dict, pickle.EMPTY_SET: set}
TUPLE_LENGTHS = {pickle.EMPTY_TUPLE: 0, pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
# Opcode -> size of the length before the content, bytes, and decoder of the content.
LENGTH_PREFIXED: dict[bytes, tuple[int, Callable[[bytes], Any]]] = {
    pickle.SHORT_BINUNICODE: (1, bytes.decode),
    pickle.BINUNICODE: (4, bytes.decode),
    pickle.BINUNICODE8: (8, bytes.decode),
    pickle.SHORT_BINBYTES: (1, bytes),
    pickle.BINBYTES: (4, bytes),
    pickle.BINBYTES8: (8, bytes),
    pickle.BYTEARRAY8: (8, bytes),
    pickle.LONG1: (1, functools.partial(int.from_bytes, byteorder="little", signed=True)),
}
MEMO_GET_BYTES = {pickle.BINGET: 1, pickle.LONG_BINGET: 4}
MEMO_PUT_BYTES = {pickle.BINPUT: 1, pickle.LONG_BINPUT: 4}
SKIPPED_BYTES = {pickle.PROTO: 1, pickle.FRAME: 8}
# Booleans, integers and floats of up to 64 bits, and short strings; no objects, records or times.
DTYPE_PATTERN = re.compile(r"b1|[iu][1248]|f[248]|[US][1-9]\d{0,2}")


_length = functools.partial(int.from_bytes, byteorder="little")


@dataclasses.dataclass(frozen=True)
class Name:
    """An allowed global name, such as numpy.dtype."""

    text: str


# Subclasses of dict without attributes; an instance becomes a dict.
DICT_CLASSES = [Name("metadrive.scenario.scenario_description.ScenarioDescription")]
# NumPy 2 renamed numpy.core to numpy._core; both are mapped to the latter.
ALLOWED_NAMES = {
    "numpy.ndarray",
    "numpy.dtype",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
    "collections.defaultdict",
    *(name.text for name in DICT_CLASSES),
    # Factories of a defaultdict, which are never called.
    *(f"builtins.{name}" for name in ("int", "float", "str", "list", "dict", "set")),
}


def loads(data: bytes) -> Any:
    """Decodes a pickle of dicts, lists, tuples, sets, strings, bytes, numbers, booleans, None and arrays.

    A defaultdict and MetaDrive's `ScenarioDescription` become a dict, a NumPy scalar a Python number. Arrays are C or
    Fortran ordered, little-endian, of booleans, numbers or strings.

    Raises:
      DataError: The pickle has other values or names, is damaged, or has too many values.
    """
    try:
        return _Machine(data).run()
    except DataError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error):
        raise DataError("is not a valid pickle", remedy=PICKLE_REMEDY) from None


class _Machine:
    """State of the decoder: the stack, the stacks below marks, and the memo."""

    def __init__(self, data: bytes):
        self.data, self.position = data, 0
        self.stack, self.below, self.memo = [], [], {}
        self.bytes_left = len(data)

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            opcode = self.take(1)
            if opcode == pickle.STOP:
                return self.stack.pop()
            self.step(opcode)
        raise DataError(f"has more than {MAX_OPCODES} values", remedy="give a file with one scene")

    def take(self, size: int) -> bytes:
        taken = self.data[self.position : self.position + size]
        if len(taken) < size:
            raise IndexError
        self.position += size
        return taken

    def take_line(self) -> str:
        return self.take(self.data.index(b"\n", self.position) + 1 - self.position)[:-1].decode()

    def pop_to_mark(self) -> list:
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self, count: int) -> list:
        if count > len(self.stack):
            raise IndexError
        return [self.stack.pop() for _ in range(count)][::-1]

    def step(self, opcode: bytes) -> None:
        stack = self.stack
        if opcode in MEMO_GET_BYTES:
            stack.append(self.memo[_length(self.take(MEMO_GET_BYTES[opcode]))])
        elif opcode == pickle.MEMOIZE:
            self.memo[len(self.memo)] = stack[-1]
        elif opcode in MEMO_PUT_BYTES:
            self.memo[_length(self.take(MEMO_PUT_BYTES[opcode]))] = stack[-1]
        elif opcode in LENGTH_PREFIXED:
            width, read = LENGTH_PREFIXED[opcode]
            content = self.take(_length(self.take(width)))
            if opcode == pickle.LONG1 and len(content) > 8:
                raise DataError("has an integer of more than 64 bits", remedy=PICKLE_REMEDY)
            stack.append(read(content))
        elif opcode in NUMBER_FORMATS:
            form = NUMBER_FORMATS[opcode]
            stack.append(struct.unpack(form, self.take(struct.calcsize(form)))[0])
        elif opcode in TUPLE_LENGTHS:
            stack.append(tuple(self.pop(TUPLE_LENGTHS[opcode])))
        elif opcode == pickle.MARK:
            self.below.append(stack)
            self.stack = []
        elif opcode == pickle.TUPLE:
            items = self.pop_to_mark()
            self.stack.append(tuple(items))
        elif opcode in EMPTY_CONTAINERS:
            stack.append(EMPTY_CONTAINERS[opcode]())
        elif opcode in CONSTANTS:
            stack.append(CONSTANTS[opcode])
        elif opcode == pickle.REDUCE or (opcode == pickle.NEWOBJ and stack[-2] in DICT_CLASSES):
            name, arguments = self.pop(2)
            stack.append(self.call(name, arguments))
        elif opcode == pickle.BUILD:
            (state,) = self.pop(1)
            self.build(stack[-1], state)
        elif opcode in (pickle.APPEND, pickle.SETITEM):
            self.add(self.pop(1 if opcode == pickle.APPEND else 2))
        elif opcode in (pickle.APPENDS, pickle.SETITEMS, pickle.ADDITEMS):
            self.add(self.pop_to_mark())
        elif opcode == pickle.FROZENSET:
            items = self.pop_to_mark()
            self.stack.append(frozenset(_key(item) for item in items))
        elif opcode == pickle.GLOBAL:
            stack.append(_name(self.take_line(), self.take_line()))
        elif opcode == pickle.STACK_GLOBAL:
            stack.append(_name(*self.pop(2)))
        elif opcode in SKIPPED_BYTES:
            self.take(SKIPPED_BYTES[opcode])
        else:
            raise DataError(f"has opcode {opcode!r}, which does not build plain data", remedy=PICKLE_REMEDY)

    def add(self, items: list) -> None:
        """Adds items to the list, set or dict on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, list):
            target += items
        elif isinstance(target, set):
            target.update(_key(item) for item in items)
        elif isinstance(target, dict):
            target.update(zip((_key(key) for key in items[::2]), items[1::2], strict=True))
        else:
            raise TypeError

    def call(self, name: Any, arguments: Any) -> Any:
        match name, arguments:
            case Name("numpy._core.multiarray._reconstruct"), (Name("numpy.ndarray"), (0,), bytes()):
                # An empty array, which `build` fills.
                return np.ndarray((0,), np.int8)
            case Name("numpy._core.numeric._frombuffer"), (
                bytes(raw),
                np.dtype() as dtype,
                tuple(shape),
                "C" | "F" as order,
            ):
                return self.array(raw, dtype, shape, order)
            case Name("numpy._core.multiarray.scalar"), (np.dtype() as dtype, bytes(raw)):
                return self.array(raw, dtype, (), "C").item()
            case Name("numpy.dtype"), (str(kind), *_) if DTYPE_PATTERN.fullmatch(kind):
                return np.dtype("<" + kind)
            case Name("collections.defaultdict"), () | (None | Name(),):
                return {}
            case Name(), () if name in DICT_CLASSES:
                return {}
        called = name.text if isinstance(name, Name) else f"a {type(name).__name__}"
        raise DataError(f"calls {called} with arguments that do not build plain data", remedy=PICKLE_REMEDY)

    def build(self, target: Any, state: Any) -> None:
        match target, state:
            case np.dtype(), (int(), "<" | "|" | "=", None, None, None, *_):
                return
            case np.ndarray(), (1, tuple(shape), np.dtype() as dtype, bool(), bytes(raw)):
                self.check(raw, dtype, shape)
                target.__setstate__(tuple(state))
                return
        raise DataError(f"sets the state of a {type(target).__name__} to other than plain data", remedy=PICKLE_REMEDY)

    def array(self, raw: bytes, dtype: np.dtype, shape: tuple, order: Any) -> np.ndarray:
        self.check(raw, dtype, shape)
        return np.ndarray(shape, dtype, raw, order=order)

    def check(self, raw: bytes, dtype: np.dtype, shape: tuple) -> None:
        self.bytes_left -= len(raw)
        is_valid = len(shape) <= 4 and all(type(size) is int and 0 <= size <= MAX_AXIS_LENGTH for size in shape)
        if not is_valid or math.prod(shape) * dtype.itemsize != len(raw):
            raise DataError("has an array whose shape does not match its bytes", remedy=PICKLE_REMEDY)
        if self.bytes_left < 0:
            raise DataError("has arrays that hold more bytes than the file", remedy=PICKLE_REMEDY)


def _name(module: Any, name: Any) -> Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise TypeError
    text = f"{module}.{name}"
    known = re.sub(r"^numpy\.core\.", "numpy._core.", text)
    if known not in ALLOWED_NAMES:
        raise DataError(f"refers to {text[:80]}, which is not allowed", remedy=PICKLE_REMEDY)
    return Name(known)


def _key(value: Any) -> Any:
    if not isinstance(value, (str, int, float, type(None))):
        raise DataError(f"has a {type(value).__name__} as a key", remedy=PICKLE_REMEDY)
    return value
