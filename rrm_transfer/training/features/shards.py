"""A teacher's outputs on disk: memory-mapped safetensors shards, each of which proves what it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rrm_transfer.core.files import replacing_file

Dtype = Literal["float16", "bf16"]
DTYPES: dict[Dtype, torch.dtype] = {"float16": torch.float16, "bf16": torch.bfloat16}

Bits = npt.NDArray[np.int16]
"""Values of 16 bits each; numpy has no bfloat16, and reading needs no more than their bits."""

ROWS = 4096
"""Images in a shard: what an interrupted building loses at most, and the unit that processes share out."""


class Shard(NamedTuple):
    """One file: a part of the outputs, of one view, for some consecutive images.

    Attributes:
        part: ``features``, ``logits`` or ``layer-`` and an intermediate layer's name.
        view: Of the augmentation.
        number: Of the images: those from ``ROWS * number`` on.
    """

    part: str
    view: int
    number: int

    @property
    def name(self) -> str:
        return f"{self.part}-view{self.view:03d}-{self.number:06d}.safetensors"


@dataclass(frozen=True)
class ShardSet:
    """The shards of one key.

    A shard's header holds the key, the shard's place and the checksum of its values; so a file that was
    damaged, cut short, renamed or taken from another set is known for what it is.

    Attributes:
        folder: Where they live.
        key: Identity of everything that the values depend on.
        images: How many there are.
        widths: Columns of each part.
        dtype: Of the values.
    """

    folder: Path
    key: str
    images: int
    widths: Mapping[str, int]
    dtype: torch.dtype

    @property
    def numbers(self) -> range:
        """The numbers of the shards of one part and view."""
        return range(-(-self.images // ROWS))

    def rows(self, number: int) -> range:
        """Returns the positions of the images of a shard."""
        return range(ROWS * number, min(self.images, ROWS * (number + 1)))

    def path(self, shard: Shard) -> Path:
        return self.folder / shard.name

    def nbytes(self, shard: Shard) -> int:
        """Returns the size of a shard's values."""
        return len(self.rows(shard.number)) * self.widths[shard.part] * self.dtype.itemsize

    def write(self, shard: Shard, values: Tensor, *, seconds: float) -> None:
        """Writes a shard, whole or not at all.

        Args:
            shard: Which one.
            values: One row for each of its images, in the set's dtype.
            seconds: That it took to compute them.
        """
        facts = {"shard": shard.name, "key": self.key, "seconds": f"{seconds:.3f}"}
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing_file(self.path(shard)) as temporary:
            save_file({shard.part: values}, temporary, metadata={**facts, "sha256": _seal(values, facts)})

    def problem(self, shard: Shard) -> str | None:
        """Reads a shard to the last byte and returns what is wrong with it; None where nothing is."""
        try:
            with safe_open(self.path(shard), framework="pt") as file:
                facts = dict(file.metadata() or {})
                if facts.get("key") != self.key or facts.get("shard") != shard.name:
                    return "it belongs to another cache"
                values = file.get_tensor(shard.part)
        except (OSError, ValueError, SafetensorError) as error:
            return f"it cannot be read: {error}"
        expected = (len(self.rows(shard.number)), self.widths[shard.part])
        if tuple(values.shape) != expected or values.dtype != self.dtype:
            return f"it has the shape {tuple(values.shape)}, not {expected}"
        return None if facts.pop("sha256", "") == _seal(values, facts) else "its checksum differs"

    def open(self, shard: Shard) -> Bits:
        """Returns the bits of a shard's values, mapped into memory and not read."""
        with safe_open(self.path(shard), framework="pt") as file:
            bits: Bits = file.get_tensor(shard.part).view(torch.int16).numpy()
        return bits

    def seconds(self, shards: Iterable[Shard]) -> float:
        """Returns what computing these shards takes, whichever runs did it: one pass makes all parts."""
        passes: dict[tuple[int, int], float] = {}
        for shard in shards:
            with safe_open(self.path(shard), framework="pt") as file:
                seconds = float((file.metadata() or {})["seconds"])
            place = shard.view, shard.number
            passes[place] = max(seconds, passes.get(place, 0.0))
        return sum(passes.values())


def gather_rows(shards: Sequence[Bits], positions: Tensor, out: Tensor) -> Tensor:
    """Copies rows that lie in several arrays of ``ROWS`` rows each.

    Args:
        shards: In order; the last one may be shorter.
        positions: Rows of their concatenation, ``(B,)``.
        out: ``(B, width)`` on the CPU, filled and returned.
    """
    wanted, found = positions.numpy(), out.view(torch.int16).numpy()
    order = np.argsort(wanted)
    ordered = wanted[order]
    bounds = np.searchsorted(ordered, ROWS * np.arange(len(shards) + 1)).tolist()
    for number, (start, stop) in enumerate(pairwise(bounds)):
        if start < stop:
            found[order[start:stop]] = shards[number][ordered[start:stop] - ROWS * number]
    return out


def _seal(values: Tensor, facts: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(values.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
