"""What a pickle says, found by a machine that makes plain containers and calls nothing."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol, TypeGuard, cast

import torch

from rrm_transfer.core.weights.archives import find_pickle

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""What torch.save wrote first before it wrote zip archives."""

LONGEST = 1 << 22
"""Bytes of instructions; a tensor takes some 250."""
DEEPEST = 64
"""Levels of tuples, whose hash is computed by recursion."""

REBUILDERS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
_OTHER_TENSORS = {
    ("torch.serialization", "_get_layout"),
    *(
        ("torch._utils", f"_rebuild_{kind}")
        for kind in ("qtensor", "sparse_tensor", "sparse_csr_tensor", "nested_tensor", "tensor_v3")
    ),
}
_PLAIN_CALLS = {
    ("collections", "OrderedDict"), ("collections", "Counter"), ("_codecs", "encode"), ("torch", "Size"),
    ("torch", "device"),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("set", "bytearray", "complex")),
}  # fmt: skip
_CALLS = _PLAIN_CALLS | {("torch._utils", name) for name in REBUILDERS}
"""What torch's safe reader may be had call. It knows more, which allocate or set what they are told."""
_BROKEN = (ValueError, MemoryError, OverflowError)
"""What reading ends in where there are no instructions; a made-up length asks for too much memory."""


class Name(tuple[str, str]):
    """A module and what in it a pickle names; nothing is imported."""

    __slots__ = ()
    # The older format compares a pickled module's source with the class of that name.
    __name__ = "inert"
    dump_patches = False


class Inert:
    """Stands for what a pickle would have made; it keeps what it is given and does nothing."""

    state: object = None

    def __init__(self, *args: object) -> None:
        self.args = args

    def __setitem__(self, key: object, value: object) -> None:
        """Takes a pickled mapping's items."""

    def append(self, value: object) -> None:
        """Takes a pickled list's items."""

    extend = add = append


class InertUnpickler(pickle._Unpickler):
    """An unpickler that calls `callables` only: no import, no constructor, no ``__setstate__``.

    It is the one written in Python, because every instruction that could call something, or take more
    memory or stack than its own bytes, is replaced.
    """

    callables: ClassVar[Mapping[tuple[str, str], Callable[..., object]]] = {}
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    # The base class has these; its type stubs do not name them.
    stack: list[Any]
    append: Callable[[object], None]
    pop_mark: Callable[[], list[Any]]
    readline: Callable[[], bytes]

    def __init__(self, stream: Readable, **options: Any) -> None:
        super().__init__(stream, **options)
        self._depths: dict[int, tuple[int, object]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns an allowed function, or a name for anything else."""
        return self.callables.get((module, name)) or Name((module, name))

    def call(self, function: object, args: object) -> object:
        """Returns what stands for ``function(*args)``."""
        if isinstance(args, tuple) and any(function is allowed for allowed in self.callables.values()):
            return function(*args)  # type: ignore[operator]
        return Inert(function, args)

    def new(self, cls: object, args: object) -> object:
        """Returns what stands for ``cls.__new__(cls, *args)``."""
        return OrderedDict() if cls is OrderedDict else Inert(cls, args)

    def build(self, instance: object, state: object) -> None:
        """Takes the state that ``instance`` would have been given."""
        if isinstance(instance, Inert):
            instance.state = state

    def get_extension(self, code: int) -> None:
        """Stands for a name out of ``copyreg``'s table."""
        self.append(Inert(code))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.new(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        keywords, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = Inert(self.stack[-1], args, keywords)

    def load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode() for _ in range(2))
        self.append(Inert(self.find_class(module, name), self.pop_mark()))

    def load_obj(self) -> None:
        self.append(Inert(*self.pop_mark()))

    def load_build(self) -> None:
        state = self.stack.pop()
        self.build(self.stack[-1], state)

    def load_set(self) -> None:
        self.append(Inert())

    def load_frozenset(self) -> None:
        self.append(Inert(self.pop_mark()))

    def load_bytearray(self) -> None:
        raise pickle.UnpicklingError("a bytearray")

    def load_tuple(self) -> None:
        self._put(tuple(self.pop_mark()))

    def load_tuple1(self) -> None:
        self._put((self.stack.pop(),))

    def load_tuple2(self) -> None:
        self._put(tuple(reversed([self.stack.pop() for _ in range(2)])))

    def load_tuple3(self) -> None:
        self._put(tuple(reversed([self.stack.pop() for _ in range(3)])))

    def _put(self, made: tuple[Any, ...]) -> None:
        depth = 1 + max((self._depths.get(id(item), (0, None))[0] for item in made), default=0)
        if depth > DEEPEST:
            raise pickle.UnpicklingError(f"tuples are nested more than {DEEPEST} levels deep")
        self._depths[id(made)] = depth, made  # kept, so that its id stays its own
        self.append(made)

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.INST[0]] = load_inst
    dispatch[pickle.OBJ[0]] = load_obj
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.EMPTY_SET[0]] = load_set
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray
    dispatch[pickle.TUPLE[0]] = load_tuple
    dispatch[pickle.TUPLE1[0]] = load_tuple1
    dispatch[pickle.TUPLE2[0]] = load_tuple2
    dispatch[pickle.TUPLE3[0]] = load_tuple3


class Readable(Protocol):
    """What an unpickler reads."""

    def read(self, count: int = ..., /) -> bytes: ...
    def readline(self) -> bytes: ...


class _Bounded:
    """A stream of which no more is read than instructions may take."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = LONGEST

    def read(self, count: int = -1, /) -> bytes:
        return self._counted(self._stream.read(count if 0 <= count <= self._left else self._left + 1))

    def readline(self) -> bytes:
        return self._counted(self._stream.readline(self._left + 1))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise pickle.UnpicklingError("more instructions than a network's weights need")
        return data


@dataclass
class Survey:
    """What a torch file's pickles would have made.

    Attributes:
        foreign: What they would import, less what a file of tensors needs.
        problem: Why their end was not reached, or what in them no file of tensors needs; None: all is well.
        whole: Whether every pickle goes to its end.
        claimed: Bytes of all storages.
        storages: Their number.
        length: Bytes of the pickles.
    """

    foreign: tuple[str, ...] = ()
    problem: str | None = None
    whole: bool = True
    claimed: int = 0
    storages: int = 0
    length: int = 0


def survey(path: Path, *, archive: bool) -> Survey:
    """Reads the pickles of a torch checkpoint with nothing made but containers.

    Args:
        path: The checkpoint.
        archive: Whether it is a zip archive; else it is the older chain of five pickles and raw data.
    """
    machine = _Surveyor()
    found = Survey()
    try:
        if archive:
            with zipfile.ZipFile(path) as content, content.open(find_pickle(content)) as stream:
                machine.run(stream)
                found.length = stream.tell()
        else:
            with open(path, "rb") as stream:
                for _ in range(_LEGACY_PICKLES):
                    machine.run(stream)
                found.length = stream.tell()
    except Exception as problem:  # a damaged pickle can fail in any way: every instruction trusts the last
        found.problem, found.whole = str(problem) or type(problem).__name__, False
    found.foreign = tuple(
        sorted(f"{module}.{name}" for module, name in machine.named if not is_harmless(module, name))
    )
    found.claimed, found.storages = sum(machine.storages.values()), len(machine.storages)
    found.problem = found.problem or machine.problem
    return found


_LEGACY_PICKLES = 5  # magic number, protocol, system, content, storage keys


class _Surveyor:
    """Notes what pickles name, call, set and claim."""

    def __init__(self) -> None:
        self.named: set[tuple[str, str]] = set()
        self.storages: dict[object, int] = {}
        self.problem: str | None = None
        self._copied = 0

    def run(self, stream: IO[bytes]) -> None:
        """Reads one pickle."""
        surveyor = self

        class Machine(InertUnpickler):
            def find_class(self, module: str, name: str) -> Any:
                surveyor.named.add((module, name))
                return super().find_class(module, name)

            def call(self, function: object, args: object) -> object:
                return surveyor.called(function, args)

            def new(self, cls: object, args: object) -> object:
                return surveyor.called(cls, args if cls == ("collections", "OrderedDict") else None)

            def build(self, instance: object, state: object) -> None:
                surveyor.built(instance, state)

            def persistent_load(self, key: Any) -> object:
                return surveyor.stored(key)

        Machine(_Bounded(stream)).load()

    def called(self, function: object, args: object) -> object:
        if function in _OTHER_TENSORS:
            return self._odd("holds tensors that are sparse, quantised, nested or of a rare type", Inert())
        if function not in _CALLS or not isinstance(args, tuple):
            return self._odd("calls what no file of tensors needs", Inert(function, args))
        for argument in args:
            self._copied += len(argument) if isinstance(argument, str | bytes | list | tuple | dict) else 0
        if self._copied > LONGEST:
            self._odd("copies more than it holds")
        module, name = function
        if name == "OrderedDict" and not args:
            return OrderedDict()
        if name == "bytearray" and args and isinstance(args[0], int):
            self._odd("asks for memory by a number")
        if name == "encode" and not (len(args) == 2 and args[1] in ("latin1", "latin-1", "ascii", "utf-8")):
            self._odd("encodes what is no text")
        if module == "torch._utils" and name in REBUILDERS[:2]:
            self._viewed(*args)
        return Inert(function, args)

    def built(self, instance: object, state: object) -> None:
        if type(instance) is not OrderedDict or not isinstance(state, dict):
            self._odd("sets attributes of what is no mapping")
        elif any(not isinstance(key, str) or hasattr(instance, key) for key in state):
            self._odd("sets attributes that a mapping has already")

    def stored(self, key: Any) -> object:
        try:
            kind, (_, dtype), name, _, count = key[:5]
            size = _STORAGES[dtype] * count
        except (TypeError, ValueError, KeyError):
            return self._odd("refers to a storage that is none")
        if (
            kind not in ("storage", b"storage")
            or type(count) is not int
            or count < 0
            or type(name) is not str
        ):
            return self._odd("refers to a storage that is none")
        self.storages[name] = max(size, self.storages.get(name, 0))
        return Inert("storage", count)

    def _viewed(self, storage: object, offset: object, shape: object, stride: object, *_: object) -> None:
        if not (isinstance(storage, Inert) and storage.args[:1] == ("storage",)):
            self._odd("makes a tensor of no storage")
        elif not (_counts((offset,)) and _counts(shape) and _counts(stride) and len(shape) == len(stride)):
            self._odd("makes a tensor whose shape is none")
        elif all(shape):
            steps = sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
            if cast(int, offset) + steps >= cast(int, storage.args[1]):
                self._odd("makes a tensor that is larger than its storage")

    def _odd(self, problem: str, result: object = None) -> object:
        self.problem = self.problem or f"it {problem}"
        return result


def _counts(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


_STORAGES = {
    f"{name}Storage": size
    for size, names in {
        1: ("Byte", "Char", "Bool", "Untyped", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"),
        2: ("Half", "BFloat16", "Short"), 4: ("Float", "Int", "QInt32"),
        8: ("Double", "Long", "ComplexFloat"), 16: ("ComplexDouble",),
    }.items()
    for name in names
}  # fmt: skip


def is_harmless(module: str, name: str) -> bool:
    """Tells whether a file of tensors may name ``module.name``."""
    if module in ("torch", "torch.storage"):
        kind = isinstance(vars(torch).get(name), torch.dtype | torch.qscheme)
        return kind or name in _STORAGES or (module, name) in _CALLS
    return (module, name) in _CALLS | _OTHER_TENSORS


def leading_value(path: Path) -> object:
    """Returns the argument of a pickle's first instruction, framing aside."""
    with open(path, "rb") as stream:
        head = io.BytesIO(stream.read(64))
    try:
        return next(
            argument
            for opcode, argument, _ in pickletools.genops(head)
            if opcode.name not in ("PROTO", "FRAME")
        )
    except (*_BROKEN, StopIteration):
        return None
