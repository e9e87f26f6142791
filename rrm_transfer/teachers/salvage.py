"""Taking the tensors out of a pickled checkpoint while everything else in it stays inert.

Run as a process of its own: ``python -m rrm_transfer.teachers.salvage CHECKPOINT OUT.safetensors``.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import torch
from safetensors.torch import save_file

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import replacing_file, sha256_of
from rrm_transfer.core.weights.archives import MOST_ENTRIES
from rrm_transfer.core.weights.containers import state_dict_in
from rrm_transfer.core.weights.pickles import REBUILDERS, Inert, InertUnpickler
from rrm_transfer.core.weights.reading import sniff

_DEEPEST = 64
"""Levels of modules in modules."""
_COPIES = 4
"""How much more than its file a checkpoint may take: its tensors as they are read, and what is written."""
_WORKSPACE = 1 << 28
"""Bytes besides."""


class TensorUnpickler(InertUnpickler):
    """Calls what makes tensors, and nothing else."""

    callables: ClassVar[Mapping[tuple[str, str], Callable[..., object]]] = {
        ("collections", "OrderedDict"): OrderedDict,
        **{("torch._utils", name): getattr(torch._utils, name) for name in REBUILDERS},
    }


def _load(stream: IO[bytes], **options: Any) -> object:
    return TensorUnpickler(stream, **options).load()


def read_inertly(path: Path) -> object:
    """Returns the file's content with plain containers and tensors as they are, and modules as mappings.

    Raises:
        UserError: It is no checkpoint of torch, or one that is damaged.
    """
    if sniff(path) == "safetensors":
        raise UserError("The file is safetensors already.", received=path)
    inert_pickle = SimpleNamespace(__name__="inert", Unpickler=TensorUnpickler, load=_load)
    try:
        content = torch.load(path, map_location="cpu", pickle_module=inert_pickle, weights_only=False)
    except Exception as problem:  # a damaged pickle can fail in any way: every instruction trusts the last
        reason = (str(problem) or type(problem).__name__).splitlines()[0][:160]
        raise UserError(f"The checkpoint is damaged: {reason}", received=path) from None
    return _plain(content, {}, 0)


def _plain(value: object, known: dict[int, object], depth: int) -> object:
    """Turns inert objects into their state, and the state of a pickled module into a state dict.

    Args:
        value: Of a checkpoint.
        known: What became of other values, by id: each is looked at once.
        depth: Of ``value`` in the checkpoint.

    Raises:
        UserError: It is nested too deeply.
    """
    if isinstance(value, Inert):
        value = value.state
    if not isinstance(value, dict):
        return value
    if depth > _DEEPEST:
        raise UserError("Its entries are nested too deeply.")
    if id(value) not in known:
        result: dict[object, object] = {}
        known[id(value)] = result  # at once, for a mapping that holds itself
        if {"_parameters", "_buffers", "_modules"} <= value.keys():
            result |= _tensors_of(value, known, depth)
        else:
            result |= {key: _plain(item, known, depth + 1) for key, item in value.items()}
    return known[id(value)]


def _tensors_of(module: dict[str, Any], known: dict[int, object], depth: int) -> dict[object, object]:
    parameters, buffers, children = (module[name] for name in ("_parameters", "_buffers", "_modules"))
    if not all(isinstance(part, dict) for part in (parameters, buffers, children)):
        raise UserError("A module in it is none.")
    tensors: dict[object, object] = {**parameters, **buffers}
    for name, child in children.items():
        inner = _plain(child, known, depth + 1)
        if isinstance(inner, dict):
            tensors |= {f"{name}.{key}": item for key, item in inner.items()}
            if len(tensors) > MOST_ENTRIES:
                raise UserError("Its modules hold more tensors than a network has.")
    return tensors


def _limit_memory(size: int) -> None:
    """Lets this process take what reading and writing ``size`` bytes needs, where the system can be told."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        return
    limit = pages * resource.getpagesize() + _COPIES * size + _WORKSPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    size = source.stat().st_size
    _limit_memory(size)
    try:
        tensors = state_dict_in(read_inertly(source), source=source).tensors
        if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > _COPIES * size:
            raise UserError("Its tensors claim more numbers than the file has room for.")
        with replacing_file(target) as temporary:
            save_file(
                {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()},
                temporary,
                metadata={"converted_from": source.name, "converted_from_sha256": sha256_of(source)},
            )
    except UserError as problem:
        sys.exit(problem.what)
    except (MemoryError, RuntimeError) as problem:  # torch's own words for memory that it cannot have
        sys.exit((str(problem) or "There is not enough memory.").splitlines()[0][:160])


if __name__ == "__main__":
    main()
