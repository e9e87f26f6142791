"""A teacher's outputs on clean training images: which they are, where they are kept, how they are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rrm_transfer.core.devices import send, spare_bytes
from rrm_transfer.core.documents import key_of
from rrm_transfer.core.files import cache_folder
from rrm_transfer.core.names import public_name
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.data.disk import require_space
from rrm_transfer.data.loader import TrainingLoader
from rrm_transfer.objectives.base import Objective
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.training.features.shards import DTYPES, Bits, Dtype, Shard, ShardSet, gather_rows

_FORMAT = 1


@dataclass(frozen=True)
class FeatureCache:
    """Outputs of a teacher on all training images in some augmented views.

    Attributes:
        shards: The files; their key says which teacher, images and augmentation.
        parts: Which outputs there are; see ``Shard``.
        layers: The parts that are intermediate layers, in the order of the objective, which may repeat one.
        views: How many views.
        identity: What the key is made of, for people.
    """

    shards: ShardSet
    parts: tuple[str, ...]
    layers: tuple[str, ...]
    views: int
    identity: dict[str, Any]
    device: torch.device

    @property
    def files(self) -> list[Shard]:
        """All shards."""
        return [
            Shard(part, view, number)
            for view in range(self.views)
            for number in self.shards.numbers
            for part in self.parts
        ]

    @property
    def nbytes(self) -> int:
        return sum(self.shards.nbytes(shard) for shard in self.files)

    def require_space(self) -> None:
        """Compares what is not there yet with the free space.

        Raises:
            UserError: It does not fit.
        """
        missing = [shard for shard in self.files if not self.shards.path(shard).is_file()]
        require_space(
            sum(self.shards.nbytes(shard) for shard in missing),
            self.shards.folder,
            what=f"The cache of teacher features, {self.views} views of {self.shards.images:,} images,",
            variable="RRM_TRANSFER_CACHE",
        )

    def read(self, view: int, positions: Tensor) -> Outputs:
        """Returns what the teacher said of some images, on the device, as float32.

        An output that is not cached is empty, ``(B, 0)``.

        Args:
            view: Of the augmentation.
            positions: In the set of training images, ``(B,)`` on the CPU.
        """
        if self._residence is not None:
            positions = send(positions, self.device)
        logits, features, *layers = (
            self._rows(part, view, positions) for part in ("logits", "features", *self.layers)
        )
        return Outputs(logits, features, tuple(layers))

    def of(self, outputs: Outputs) -> dict[str, Tensor]:
        """Returns the parts that the cache holds of a teacher's outputs."""
        named = {"logits": outputs.logits, "features": outputs.features}
        named |= dict(zip(self.layers, outputs.intermediates, strict=True))
        return {part: named[part] for part in self.parts}

    def _rows(self, part: str, view: int, positions: Tensor) -> Tensor:
        if part not in self.parts:
            return torch.empty(len(positions), 0, device=self.device)
        if self._residence is not None:
            return self._resident(part, view, self._residence)[positions].float()
        # From page-locked memory the copy runs beside the device's work, and the host does not wait for it.
        rows = torch.empty(
            len(positions),
            self.shards.widths[part],
            dtype=self.shards.dtype,
            pin_memory=self.device.type == "cuda",
        )
        gather_rows(self._maps[part, view], positions, rows)
        return rows.to(self.device, non_blocking=True).float()

    @cached_property
    def _residence(self) -> dict[tuple[str, int], Tensor] | None:
        """What has moved to the accelerator, where there is room for all of it; None: nothing moves."""
        return {} if self.nbytes <= spare_bytes(self.device) else None

    def _resident(self, part: str, view: int, moved: dict[tuple[str, int], Tensor]) -> Tensor:
        """Returns a view's outputs on the accelerator, where they move when they are first asked for."""
        if (part, view) not in moved:
            bits = np.concatenate(self._maps[part, view])
            moved[part, view] = torch.from_numpy(bits).to(self.device).view(self.shards.dtype)
        return moved[part, view]

    @cached_property
    def _maps(self) -> dict[tuple[str, int], list[Bits]]:
        return {
            (part, view): [self.shards.open(Shard(part, view, number)) for number in self.shards.numbers]
            for part in self.parts
            for view in range(self.views)
        }


def _part_name(layer: int | str) -> str:
    """Names what is stored of a layer; a position and a module may read alike."""
    return f"layer-{layer}" if isinstance(layer, str) else f"layer-at-{layer}"


def feature_cache(
    teacher: Teacher, loader: TrainingLoader, objective: Objective, *, dtype: Dtype
) -> FeatureCache:
    """Returns the cache that serves an objective; whether it is filled is another matter.

    Args:
        teacher: Whose outputs they are.
        loader: Of the training images, with its number of views.
        objective: Says which outputs it needs.
        dtype: Of what is stored.
    """
    assert loader.views is not None
    identity = {
        "format": _FORMAT,
        "teacher": teacher.fingerprint(),
        "images": loader.images.fingerprint,
        "fit": asdict(loader.fit),
        "augmentation": asdict(loader.augmentation),
        "seed": loader.view_seed,
        "dtype": dtype,
    }
    key = key_of(identity)
    widths = {"features": teacher.width, "logits": teacher.num_classes or 0}
    parts = [part for part in widths if part in objective.needs]
    layers = [_part_name(pair.teacher) for pair in objective.layers]
    if layers:
        layer_widths = teacher.read_layers([pair.teacher for pair in objective.layers])
        widths |= dict(zip(layers, layer_widths, strict=True))
    return FeatureCache(
        ShardSet(cache_folder() / "features" / key, key, len(loader.images), widths, DTYPES[dtype]),
        parts=(*parts, *dict.fromkeys(layers)),
        layers=tuple(layers),
        views=loader.views,
        identity={**identity, "name": public_name(teacher.name)},
        device=loader.device,
    )
