"""Pickles that are well-formed, whatever they ask for: values that become a pickle's instructions."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

Tree = tuple[Any, ...]
"""The kind of a value, and what it is made of."""

_NAMES = [
    "collections OrderedDict", "collections Counter", "_codecs encode", "torch Size", "torch device",
    "builtins set", "__builtin__ bytearray", "builtins complex", "builtins eval", "os system", "nt abort",
    "torch FloatStorage", "torch.storage UntypedStorage", "torch.nn.modules.linear Linear", "torch float32",
    "torch.serialization _get_layout", "functools partial", "copyreg _reconstructor", "numpy dtype",
    "numpy.core.multiarray scalar", "numpy.core.multiarray _reconstruct", "torch.jit frontend", "a b.c",
    *(
        f"torch._utils _rebuild_{kind}"
        for kind in ("tensor", "tensor_v2", "parameter", "qtensor", "sparse_tensor", "nested_tensor")
    ),
]  # fmt: skip
_NUMBERS = st.integers(-2, 9) | st.sampled_from(
    [255, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63), 1 << 64, 1 << 900]
)


def values() -> st.SearchStrategy[Tree]:
    """Draws what a checkpoint may hold, and what it should not."""
    name = st.tuples(st.just("name"), st.sampled_from(_NAMES))
    shape = st.lists(_NUMBERS, max_size=3)
    tensor = st.tuples(st.just("tensor"), _NUMBERS, st.integers(0, 64), shape, shape)
    plain = st.tuples(
        st.just("plain"),
        st.none() | st.booleans() | _NUMBERS | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    )
    again = st.tuples(st.just("again"), st.integers(0, 3))

    def larger(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        several = st.lists(inner, max_size=4)
        pairs = st.lists(
            st.tuples(st.text(max_size=6).map(lambda text: ("plain", text)) | inner, inner), max_size=4
        )
        return (
            st.tuples(st.sampled_from(["list", "tuple", "set"]), several)
            | st.tuples(st.just("dict"), pairs)
            | st.tuples(st.sampled_from(["call", "new"]), name | inner, several)
            | st.tuples(st.just("build"), inner, inner)
            | st.tuples(st.just("append"), inner, several)
            | st.tuples(st.just("stored"), inner)
        )

    return st.recursive(plain | name | tensor | again, larger, max_leaves=20)


def pickled(tree: Tree) -> bytes:
    """Returns the instructions that make a value."""
    return b"\x80\x04" + _made(tree) + b"."


def _made(tree: Tree) -> bytes:
    kind, *parts = tree
    return b"".join(_MAKE[kind](*parts))


def _plain(value: object) -> list[bytes]:
    if value is None or isinstance(value, bool):
        return [{None: b"N", True: b"\x88", False: b"\x89"}[value]]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return [b"\x8a", bytes([len(data)]), data]
    if isinstance(value, float):
        return [b"G", struct.pack(">d", value)]
    text = isinstance(value, str)
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)  # type: ignore[call-overload]
    return [b"X" if text else b"B", len(data).to_bytes(4, "little"), data]


def _name(name: str) -> list[bytes]:
    return [b"c", name.replace(" ", "\n").encode(), b"\n"]


def _several(values: list[Tree]) -> bytes:
    return b"(" + b"".join(map(_made, values)) + b"t"


def _pairs(pairs: list[tuple[Tree, Tree]]) -> list[bytes]:
    return [b"}(", *(_made(each) for pair in pairs for each in pair), b"u"]


def _tensor(offset: int, count: int, shape: list[int], stride: list[int]) -> list[bytes]:
    def number(value: int) -> Tree:
        return ("plain", value)

    storage = (
        "tuple",
        [
            ("plain", "storage"),
            ("name", "torch FloatStorage"),
            ("plain", "0"),
            ("plain", "cpu"),
            number(count),
        ],
    )
    return [
        *_name("torch._utils _rebuild_tensor_v2"), b"(", _made(storage), b"Q", _made(number(offset)),
        _several([*map(number, shape)]), _several([*map(number, stride)]), b"\x89",
        *_name("collections OrderedDict"), b")RtR",
    ]  # fmt: skip


_MAKE: dict[str, Any] = {
    "plain": _plain,
    "name": _name,
    "tensor": _tensor,
    # What was never kept is not there to be had again; then it is nothing.
    "again": lambda number: [b"N0", b"h", bytes([number])],
    "list": lambda values: [b"](", *map(_made, values), b"e"],
    "tuple": lambda values: [_several(values)],
    "set": lambda values: [b"\x8f(", *map(_made, values), b"\x90"],
    "dict": _pairs,
    "call": lambda function, values: [_made(function), _several(values), b"R"],
    "new": lambda kind, values: [_made(kind), _several(values), b"\x81"],
    "build": lambda instance, state: [_made(instance), _made(state), b"b"],
    "append": lambda instance, values: [_made(instance), b"(", *map(_made, values), b"e"],
    "stored": lambda value: [_made(value), b"q\x00"],
}
