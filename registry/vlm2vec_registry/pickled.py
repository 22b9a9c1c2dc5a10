"""The pickle inside ``adapter_model.bin``, read by an interpreter that can make nothing but
tensors.

A pickle is a program, and Python's own unpickler runs whatever it says. This interpreter knows the
few instructions with which ``torch.save`` writes a dictionary of tensors. A name in the program
stays a name: no object of Python is ever looked up by it, so there is nothing to call.
"""

import math
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from vlm2vec_registry.errors import ArtifactError
from vlm2vec_registry.strict import shown

MOST_DIMENSIONS = 32
ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER = (
    "collections.OrderedDict", "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
)  # fmt: skip
CALLED = (ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER)
"""What a program may ask to be called; what each of them means is in `_Interpreter._made`."""
DTYPES = {
    "torch.DoubleStorage": ("F64", 8), "torch.FloatStorage": ("F32", 4),
    "torch.HalfStorage": ("F16", 2), "torch.BFloat16Storage": ("BF16", 2),
    "torch.LongStorage": ("I64", 8), "torch.IntStorage": ("I32", 4),
    "torch.ShortStorage": ("I16", 2), "torch.CharStorage": ("I8", 1),
    "torch.ByteStorage": ("U8", 1), "torch.BoolStorage": ("BOOL", 1),
}  # fmt: skip
"""Kinds of storages, with the dtype of their elements as safetensors names it, and its bytes."""


@dataclass(frozen=True)
class Storage:
    """A run of ``count`` elements of one dtype; ``key`` is the name of the file that has them."""

    key: str
    dtype: str
    itemsize: int
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a view of a storage; ``strides`` and ``offset`` count elements.

    It is checked when it is made: no element lies outside the storage.
    """

    storage: Storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        """Counts its elements, which may be more than those of the storage."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class _Name:
    """A callable or a kind of storage that the program names."""

    name: str


def read_pickle(program: bytes) -> dict[str, StoredTensor]:
    """Runs ``program`` and returns the tensors of the dictionary that it makes, by name.

    Raises `ArtifactError` that names what it would make or do besides, and for anything else than
    a flat dictionary of tensors.
    """
    try:
        made = _Interpreter().run(program)
    except (ValueError, KeyError, IndexError) as error:
        raise ArtifactError(f"its pickle is damaged: {error}") from error
    if not isinstance(made, dict):
        _refuse(f"it holds a {type(made).__name__}, not a dictionary of tensors")
    for name, value in made.items():
        if not isinstance(value, StoredTensor):
            _refuse(f"{shown(name)} is a {type(value).__name__}, not a tensor")
    return made


class _Interpreter:
    """The stack, the marks in it and the memo of a pickle program that runs."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """Runs ``program`` to its end and returns what it made."""
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        if len(self._stack) != 1 or self._marks:
            raise ValueError("it does not end with one value")
        return self._pop()

    def _step(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "PROTO":
                pass
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._top()
            case "MARK":
                self._marks.append(len(self._stack))
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set([key, value])
            case "SETITEMS":
                self._set(self._since_mark())
            case "BUILD":
                # The attributes of an OrderedDict, such as the _metadata of a module's state.
                if not (isinstance(self._pop(), dict) and isinstance(self._top(), dict)):
                    _refuse("it would set attributes")
            case _:
                self._stack.append(self._value(opcode, argument))

    def _value(self, opcode: str, argument: Any) -> Any:
        """The value that an instruction puts on the stack."""
        match opcode:
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                return {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode]
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
                return argument
            case "EMPTY_DICT":
                return {}
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode[-1]) if opcode != "EMPTY_TUPLE" else 0
                return tuple(reversed([self._pop() for _ in range(size)]))
            case "TUPLE":
                return tuple(self._since_mark())
            case "BINGET" | "LONG_BINGET":
                return self._memo[argument]
            case "GLOBAL":
                return _named(argument.replace(" ", ".", 1))
            case "BINPERSID":
                return _storage(self._pop())
            case "REDUCE":
                arguments, called = self._pop(), self._pop()
                return self._made(called, arguments)
            case _:
                about = f" ({shown(argument)})" if isinstance(argument, str) else ""
                _refuse(f"its pickle has the instruction {opcode}{about}, which no tensor needs")

    def _made(self, called: Any, arguments: Any) -> Any:
        """What a call makes; ``_rebuild_tensor_v2`` and the others exist only here."""
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            _refuse(f"it would call a {type(called).__name__}")
        if called.name == ORDERED_DICT and not arguments:
            return {}
        if called.name == REBUILD_TENSOR and len(arguments) in (6, 7):
            storage, offset, shape, strides, _, *unused = arguments
            if any(unused):
                _refuse("a tensor has hooks or flags")
            return _tensor(storage, offset, shape, strides)
        if called.name == REBUILD_PARAMETER and len(arguments) == 3:
            if not isinstance(arguments[0], StoredTensor) or arguments[2]:
                _refuse("a parameter is no tensor, or has hooks")
            return arguments[0]
        _refuse(f"it would call {called.name} in another way than torch.save writes")

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items of what is no dictionary")
        for key, value in _pairs(items):
            if not isinstance(key, str):
                _refuse(f"a key is a {type(key).__name__}, not a text")
            target[key] = value

    def _top(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("its stack is empty")
        return self._stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("a mark is missing")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items


def _named(name: str) -> _Name:
    if name not in CALLED and name not in DTYPES:
        _refuse(f"it would make {shown(name)[1:-1]}; only tensors are made")
    return _Name(name)


def _storage(reference: Any) -> Storage:
    """The storage to which ``("storage", kind, key, device, count)`` refers."""
    if not isinstance(reference, tuple) or len(reference) != 5:
        raise ValueError("a reference to what is no storage")
    word, kind, key, _, count = reference
    if not (isinstance(word, str) and word == "storage" and isinstance(kind, _Name)):
        raise ValueError("a reference to what is no storage")
    # Digits, as torch.save numbers them: a key never becomes another name in the zip.
    if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10):
        raise ValueError("a storage has no number")
    if kind.name not in DTYPES or not _is_size(count):
        raise ValueError(f"a storage of {kind.name}, or of no count")
    return Storage(key, *DTYPES[kind.name], count)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        _refuse("a tensor has no storage")
    lists = all(
        isinstance(numbers, tuple)
        and len(numbers) <= MOST_DIMENSIONS
        and all(map(_is_size, numbers))
        for numbers in (shape, strides)
    )
    if not lists or len(shape) != len(strides) or not _is_size(offset):
        _refuse("a tensor's shape, strides or offset are no sizes")
    empty = 0 in shape
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if offset > storage.count or (not empty and offset + last >= storage.count):
        _refuse(f"a tensor reaches beyond its storage {storage.key}, {storage.count} elements")
    return StoredTensor(storage, shape, strides, offset)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def _refuse(problem: str) -> NoReturn:
    raise ArtifactError(problem)
