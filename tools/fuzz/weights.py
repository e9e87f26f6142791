"""Weights files, and the networks that their names and shapes tell."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save

from rrm_transfer.core.errors import UserError
from rrm_transfer.teachers.checkpoints import open_checkpoint
from rrm_transfer.teachers.guessing import guess, own_args
from rrm_transfer.teachers.networks.building import NETWORKS
from rrm_transfer.teachers.salvage import read_inertly
from rrm_transfer.teachers.unwrapping import unwrap
from tests.core.weights.hostile import archive, chain
from tools.fuzz import instructions
from tools.fuzz.damage import VALUES, changed, damaged
from tools.fuzz.target import Target, written


def _tensors() -> dict[str, torch.Tensor]:
    return {"conv1.weight": torch.zeros(4, 3, 3, 3), "fc.weight": torch.ones(2, 4), "fc.bias": torch.ones(2)}


def _torch_file(content: object, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def _packed(content: bytes) -> bytes:
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    return stream.getvalue()


@cache
def _checkpoint_files() -> tuple[bytes, ...]:
    nested = {"epoch": 3, "state_dict": _tensors(), "optimizer": {"lr": 0.1}}
    whole = _torch_file(nested)
    return (
        save(_tensors()),
        whole,
        _torch_file(_tensors(), legacy=True),
        _torch_file({"net": torch.zeros(3).to_sparse()}),
        _packed(whole),
    )


def _safetensors(parts: tuple[Any, bytes]) -> bytes:
    header = json.dumps(parts[0]).encode()
    return len(header).to_bytes(8, "little") + header + parts[1]


def _checkpoints() -> st.SearchStrategy[bytes]:
    header = {
        "__metadata__": {"format": "pt"},
        "conv1.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "fc.bias": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    }
    described = st.builds(
        _safetensors, st.tuples(changed(header), st.just(bytes(32)) | st.binary(max_size=64))
    )
    containers = VALUES.map(lambda value: _torch_file({"state_dict": _tensors(), "more": value}))
    return damaged(*_checkpoint_files()) | described | containers


def _pickles() -> st.SearchStrategy[tuple[bool, instructions.Tree]]:
    named = st.text(max_size=8).map(lambda text: ("plain", text))
    pairs = st.lists(st.tuples(named, instructions.values()), min_size=1, max_size=4)
    held = pairs.map(lambda found: ("dict", found))
    return st.tuples(st.booleans(), held | instructions.values())


def _read_pickle(parts: tuple[bool, instructions.Tree], folder: Path) -> object:
    zipped, tree = parts
    content = instructions.pickled(tree)
    (archive if zipped else chain)(content)(folder / "teacher.pt")
    with suppress(UserError):
        read_inertly(folder / "teacher.pt")
    return open_checkpoint(folder / "teacher.pt")


_KINDS = ["F32", "F16", "BF16", "F64", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "F99", ""]
_SIDES = st.integers(-1, 5) | st.sampled_from([1 << 31, 1 << 62, 1 << 64, 10**400])


def _headers() -> st.SearchStrategy[tuple[dict[str, Any], int, bytes]]:
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(_KINDS),
            "shape": st.lists(_SIDES, max_size=4),
            "data_offsets": st.lists(_SIDES.map(lambda side: 4 * side), min_size=2, max_size=2),
        }
    )
    names = st.text(max_size=8) | st.sampled_from(["conv1.weight", "fc.bias", "__metadata__"])
    length = st.sampled_from([0, 0, 0, 0, -1, 1, 8, 1 << 20, 1 << 40, (1 << 64) - 1])
    return st.tuples(st.dictionaries(names, entry, max_size=4), length, st.binary(max_size=64))


def _header_file(parts: tuple[dict[str, Any], int, bytes]) -> bytes:
    header = json.dumps(parts[0]).encode()
    return ((len(header) + parts[1]) % (1 << 64)).to_bytes(8, "little") + header + parts[2]


_NAMES = [
    f"{name}.weight"
    for name in (
        "conv1", "bn1", "bn", "linear", "fc", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3",
        "layer1.0.bn1", "layer1.0.bn2", "layer1.0.se.fc1", "block1.layer.0.conv1", "init_conv",
        "layer.0.block.0.conv_0", "logits", "patch_embed.proj", "blocks.0.attn.qkv", "head", "stem.0",
        "stages.0.blocks.0.conv_dw", "head.fc", "features.0", "classifier", "classifier.4", "classifier.6",
        "last_layer",
    )
] + [
    "bn1.running_mean", "fc.bias", "pos_embed", "cls_token", "features.1.running_mean", "mean", "std", "mu",
    "sigma", "normalizer.mean", "normalizer.std", "new_mean", "new_std", "n_averaged",
]  # fmt: skip
_WRAPPER_NAMES = ("module", "_orig_mod", "model", "net", "attacker", "0", "1", "ema_model", "rrm_transfer")
_WRAPPERS = ["", *(f"{name}." for name in _WRAPPER_NAMES)]
_SHAPES = [
    [], [0], [1], [3], [10], [64, 3, 3, 3], [64, 3, 7, 7], [10, 512], [1, 197, 192], [192, 3, 16, 16],
    [2, 0, 1],
]  # fmt: skip


def _networks() -> st.SearchStrategy[dict[str, list[int]]]:
    numbered = st.builds(
        lambda stage, block, end: f"layer{stage}.{block}.{end}",
        st.integers(0, 5),
        st.integers(0, 40),
        st.sampled_from(["conv1.weight", "conv2.weight", "conv3.weight", "bn1.weight", "shortcut.0.weight"]),
    )
    names = st.builds(
        str.__add__, st.sampled_from(_WRAPPERS), st.sampled_from(_NAMES) | numbered | st.text(max_size=8)
    )
    shapes = st.sampled_from(_SHAPES) | st.lists(st.integers(0, 5), max_size=5)
    wrapped = st.builds(
        lambda wrapper, entries: {wrapper + name: shape for name, shape in entries.items()},
        st.sampled_from(_WRAPPERS),
        st.dictionaries(st.sampled_from(_NAMES) | numbered, shapes, min_size=1, max_size=16),
    )
    return wrapped | st.dictionaries(names, shapes, min_size=1, max_size=12)


def _recognise(shapes: Mapping[str, list[int]], _: Path) -> object:
    tensors = unwrap({name: torch.ones(()).expand(shape) for name, shape in shapes.items()}).tensors
    for architecture in (*NETWORKS, "wrn_28_10_trades", "wrn_28_10_deepmind_silu"):
        own_args(architecture, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return guess(tensors, source="a file")


TARGETS = {
    "checkpoints": Target(_checkpoints, written("teacher.pt", open_checkpoint)),
    "pickles": Target(_pickles, _read_pickle),
    "headers": Target(lambda: _headers().map(_header_file), written("teacher.safetensors", open_checkpoint)),
    "keys": Target(_networks, _recognise),
}
