"""Files that must be refused, each with words that help."""

from __future__ import annotations

import argparse
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dill  # type: ignore[import-untyped]
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.teachers.loading import load_teacher
from tests.teachers.forms import RAW, Tensors, cifar_state, factory, hollow, own, prefixed, save, statistics


class Runs:
    """Runs a command when it is unpickled the usual way."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch EXECUTED",)


@dataclass(frozen=True)
class Malformed:
    """A file that must be refused.

    Attributes:
        name: What is wrong with it.
        write: Makes it, in the folder given, and returns it.
        arguments: Of `load_teacher`.
    """

    name: str
    write: Callable[[Path], Path]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def message(self, folder: Path) -> str:
        """Loads it and returns the refusal.

        Raises:
            AssertionError: It was not refused.
        """
        path = self.write(folder)
        try:
            load_teacher(str(path), channels=3, image_size=32, **{**RAW, **self.arguments})
        except UserError as refusal:
            # Where a damaged pickle breaks off depends on where tensors lay in memory when it was written.
            return re.sub(r"expected \d+ more", "expected N more", str(refusal).replace(f"{folder}/", ""))
        raise AssertionError(f"{self.name} was loaded")


def _bytes(content: bytes, name: str = "teacher.pt") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _saved(
    content: Callable[[], object], name: str = "teacher.pt", *, legacy: bool = False, module: object = None
) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        save(content(), folder / name, legacy=legacy, module=module)
        return folder / name

    return write


def _cut(part: float, name: str = "teacher.pt", *, legacy: bool = False) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        whole = folder / f"whole-{name}"
        if whole.suffix == ".safetensors":
            save_file(cifar_state(), whole)
        else:
            save(cifar_state(), whole, legacy=legacy)
        content = whole.read_bytes()
        return _bytes(content[: max(1, int(part * len(content)))], name)(folder)

    return write


def _changed(change: Callable[[Tensors], object]) -> Callable[[Path], Path]:
    return _saved(lambda: change(cifar_state()))


def _with(name: str, tensor: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: tensor}


def _without(pattern: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: t for name, t in tensors.items() if not re.search(pattern, name)}


def _broken(value: float) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        return {**tensors, "fc.bias": torch.full_like(tensors["fc.bias"], value)}

    return change


_NUMPY_SCALAR = {"accuracy": np.float64(1.0)}


def _zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "teacher.pt", "w") as archive:
        archive.writestr("readme.txt", "weights elsewhere")
    return folder / "teacher.pt"


def _tar(folder: Path) -> Path:
    _saved(cifar_state, "inner.pt")(folder)
    with tarfile.open(folder / "teacher.tar", "w") as archive:
        archive.add(folder / "inner.pt", "inner.pt")
    return folder / "teacher.tar"


def _script(folder: Path) -> Path:
    # torch.jit.save is on its way out of torch; the archive is told by this entry.
    with zipfile.ZipFile(folder / "teacher.pt", "w") as archive:
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/constants.pkl", b"")
    return folder / "teacher.pt"


MALFORMED = [
    *(
        Malformed(f"zip format cut at {part:.0%}", _cut(part))
        for part in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
    ),
    *(
        Malformed(f"legacy format cut at {part:.0%}", _cut(part, legacy=True))
        for part in (0.001, 0.05, 0.5, 0.99)
    ),
    *(
        Malformed(f"safetensors cut at {part:.0%}", _cut(part, "teacher.safetensors"))
        for part in (0.0, 0.05, 0.5, 0.99)
    ),
    Malformed("no such file", lambda folder: folder / "absent.pt"),
    Malformed("empty file", _bytes(b"")),
    Malformed("HTML page", _bytes(b"<!DOCTYPE html><html><title>Sign in</title></html>")),
    Malformed(
        "HTML page named .safetensors", _bytes(b"\n<html><body>404</body></html>", "teacher.safetensors")
    ),
    Malformed(
        "Git-LFS pointer", _bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    ),
    Malformed(
        "Git-LFS pointer named .safetensors",
        _bytes(b"version https://git-lfs.github.com/spec/v1\n", "teacher.safetensors"),
    ),
    Malformed("JSON error of a server", _bytes(b'{"error": "Repository not found"}')),
    Malformed("plain text", _bytes(b"Access denied")),
    Malformed("random bytes named .safetensors", _bytes(bytes(range(1, 200)), "teacher.safetensors")),
    Malformed("gzip archive", _bytes(b"\x1f\x8b\x08\x00rest")),
    Malformed("image", _bytes(b"\x89PNG\r\n\x1a\nrest")),
    Malformed("HDF5 file", _bytes(b"\x89HDF\r\n\x1a\nrest")),
    Malformed("plain pickle", _bytes(dill.dumps({"a": [1, 2]}))),
    Malformed("zip without a checkpoint", _zip),
    Malformed("TorchScript archive", _script),
    Malformed("tar archive", _tar),
    Malformed("whole pickled module", _saved(factory)),
    Malformed("os.system in a pickle", _saved(lambda: {"model": cifar_state(), "extra": Runs()})),
    Malformed("os.system, nested", _saved(lambda: {"model": cifar_state(), "a": [{"b": (Runs(),)}]})),
    Malformed(
        "os.system, legacy format", _saved(lambda: {"model": cifar_state(), "extra": Runs()}, legacy=True)
    ),
    Malformed(
        "os.system, saved with dill", _saved(lambda: {"model": cifar_state(), "extra": Runs()}, module=dill)
    ),
    Malformed("os.system in place of a tensor", _changed(lambda tensors: {**tensors, "fc.weight": Runs()})),
    Malformed(
        "argparse.Namespace", _saved(lambda: {"model": cifar_state(), "args": argparse.Namespace(lr=1)})
    ),
    Malformed("NumPy scalar", _saved(lambda: {"model": cifar_state(), **_NUMPY_SCALAR})),
    Malformed("empty dict", _saved(dict)),
    Malformed("only an optimizer's state", _saved(lambda: {"optimizer": {"lr": 0.1}, "epoch": 3})),
    Malformed("a single tensor", _saved(lambda: torch.zeros(3))),
    Malformed("a list", _saved(lambda: [torch.zeros(3)])),
    Malformed(
        "two networks without telling names",
        _saved(lambda: {"generator": cifar_state(), "critic": cifar_state()}),
    ),
    Malformed(
        "a prefix in the middle of names",
        _changed(lambda t: {n.replace("layer1.", "layer1.module."): v for n, v in t.items()}),
    ),
    Malformed(
        "a prefix on some names only",
        _changed(lambda t: {("module." if "layer" in n else "") + n: v for n, v in t.items()}),
    ),
    Malformed("a tensor missing", _changed(_without(r"layer3\.1\.conv2"))),
    Malformed(
        "the classifier missing", _saved(lambda: _without(r"^fc\.")(hollow("resnet18"))), {"arch": "resnet18"}
    ),
    Malformed("wrong shape", _changed(_with("layer4.1.conv2.weight", torch.zeros(3, 3)))),
    Malformed(
        "another network's weights", _saved(lambda: own("cifar_vgg11").state_dict()), {"arch": "resnet18"}
    ),
    Malformed("a deeper network's weights", _saved(lambda: hollow("resnet34")), {"arch": "resnet18"}),
    Malformed("NaN weights", _changed(_broken(float("nan")))),
    Malformed("infinite weights", _changed(_broken(float("inf")))),
    Malformed(
        "a standard deviation of zero",
        _changed(lambda t: {**t, "mu": torch.zeros(3), "sigma": torch.zeros(3)}),
    ),
    Malformed(
        "two normalizers that differ",
        _changed(
            lambda t: {
                **prefixed("model.", t),
                "mu": torch.zeros(3),
                "sigma": torch.ones(3),
                **statistics("model.mean", "model.std"),
            }
        ),
    ),
    Malformed("nothing says the normalization", _saved(cifar_state), {"normalization": None}),
    Malformed("a normalization that is none", _saved(cifar_state), {"normalization": "imagnet"}),
    Malformed("an architecture that cannot be told", _saved(lambda: hollow("test_vit", num_classes=10))),
    Malformed(
        "a PreActResNet-18 of two possible kinds",
        _saved(lambda: own("preact_resnet18_no_norm", width=4).state_dict()),
    ),
    Malformed(
        "a Wide ResNet of two possible kinds", _saved(lambda: own("wrn_10_1_deepmind_silu").state_dict())
    ),
    Malformed("an unknown architecture", _saved(cifar_state), {"arch": "resnet81"}),
    Malformed("a factory without consent", _saved(cifar_state), {"arch": "tests.teachers.forms:factory"}),
    Malformed(
        "a factory that is not there",
        _saved(cifar_state),
        {"arch": "tests.teachers.forms:absent", "allow_code": frozenset({"tests.teachers.forms:absent"})},
    ),
]
