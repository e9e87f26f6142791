"""Taking the tensors out of a pickled checkpoint while everything else in it stays inert.

Run as a process of its own: ``python -m rrm_transfer.teachers.salvage CHECKPOINT OUT.safetensors``.
"""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import torch
from safetensors.torch import save_file

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import replacing_file, sha256_of
from rrm_transfer.core.weights.containers import state_dict_in
from rrm_transfer.core.weights.pickles import REBUILDERS

_CALLABLE: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch._utils", name): getattr(torch._utils, name) for name in REBUILDERS},
}


class Inert:
    """Stands for whatever a pickle names; it keeps what it is given and does nothing."""

    state: object = None
    # The older format compares a pickled module's source with the class of that name.
    __name__ = "inert"
    dump_patches = False

    def __init__(self, *args: object) -> None:
        self.args = args

    def __setitem__(self, key: object, value: object) -> None:
        """Takes a pickled mapping's items."""

    def append(self, value: object) -> None:
        """Takes a pickled list's items."""

    extend = add = append


class InertUnpickler(pickle._Unpickler):
    """An unpickler that calls `_CALLABLE` only: no import, no constructor, no ``__setstate__``.

    It is the one written in Python, because every instruction that could call something is replaced.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    # The base class has these; its type stubs do not name them.
    stack: list[Any]
    append: Callable[[object], None]
    pop_mark: Callable[[], list[Any]]
    readline: Callable[[], bytes]

    def find_class(self, module: str, name: str) -> Any:
        """Returns an allowed function, or an inert object for anything else."""
        return _CALLABLE.get((module, name)) or Inert(module, name)

    def get_extension(self, code: int) -> None:
        """Stands for a name out of ``copyreg``'s table."""
        self.append(Inert(code))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        function = self.stack[-1]
        self.stack[-1] = function(*args) if _is_callable(function) else Inert(function, args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = OrderedDict() if self.stack[-1] is OrderedDict else Inert(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        keywords, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = Inert(self.stack[-1], args, keywords)

    def load_inst(self) -> None:
        self.readline()
        self.readline()
        self.append(Inert(*self.pop_mark()))

    def load_obj(self) -> None:
        self.append(Inert(*self.pop_mark()))

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.INST[0]] = load_inst
    dispatch[pickle.OBJ[0]] = load_obj
    dispatch[pickle.BUILD[0]] = load_build


def _is_callable(function: object) -> bool:
    return any(function is allowed for allowed in _CALLABLE.values())


def _load(stream: IO[bytes], **options: Any) -> object:
    return InertUnpickler(stream, **options).load()


def read_inertly(path: Path) -> object:
    """Returns the file's content with plain containers and tensors as they are, and modules as mappings."""
    inert_pickle = SimpleNamespace(__name__="inert", Unpickler=InertUnpickler, load=_load)
    return _plain(torch.load(path, map_location="cpu", pickle_module=inert_pickle, weights_only=False))


def _plain(value: object) -> object:
    """Turns inert objects into their state, and the state of a pickled module into a state dict."""
    if isinstance(value, Inert):
        value = value.state
    if not isinstance(value, dict):
        return value
    if not {"_parameters", "_buffers", "_modules"} <= value.keys():
        return {key: _plain(item) for key, item in value.items()}
    tensors = {**value["_parameters"], **value["_buffers"]}
    for name, child in value["_modules"].items():
        inner = _plain(child)
        if isinstance(inner, dict):
            tensors |= {f"{name}.{key}": item for key, item in inner.items()}
    return tensors


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        tensors = state_dict_in(read_inertly(source), source=source).tensors
    except UserError as problem:
        sys.exit(problem.what)
    with replacing_file(target) as temporary:
        save_file(
            {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata={"converted_from": source.name, "converted_from_sha256": sha256_of(source)},
        )


if __name__ == "__main__":
    main()
