"""A small cache of teacher outputs on a few batches, to measure what training from a cache costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rrm_transfer.core.outputs import Outputs
from rrm_transfer.data.loader import Batch
from rrm_transfer.objectives.base import Objective
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.training.features.cache import FeatureCache
from rrm_transfer.training.features.shards import DTYPES, Dtype, Shard, ShardSet
from rrm_transfer.training.step import infer


def is_cacheable(objective: Objective) -> bool:
    """Tells whether an objective asks the teacher about clean images, and for no intermediate layers."""
    return "clean" in objective.teacher_sees and not objective.layers


@dataclass(frozen=True)
class FeatureSample:
    """The cache, and where in it the outputs on each batch are.

    Attributes:
        cache: On the disk, read as in training.
        positions: Of each batch, scattered as in training.
    """

    cache: FeatureCache
    positions: Sequence[Tensor]

    def read(self, number: int) -> Outputs:
        """Returns the teacher's outputs on a batch."""
        return self.cache.read(0, self.positions[number])


def sample_features(
    teacher: Teacher, batches: Sequence[Batch], objective: Objective, *, folder: Path, dtype: Dtype
) -> FeatureSample:
    """Asks the teacher about a few batches and writes what it says as a cache does.

    Args:
        teacher: Moved to the device of the batches.
        batches: Of this process.
        objective: Says which outputs it needs.
        folder: Where the files go.
        dtype: Of what is stored.
    """
    device = batches[0].x.device
    said = [infer(teacher.to(device), batch.x) for batch in batches]
    values: dict[str, Tensor] = {
        "features": torch.cat([outputs.features for outputs in said]).cpu(),
        "logits": torch.cat([outputs.logits for outputs in said]).cpu(),
    }
    parts: tuple[str, ...] = tuple(part for part in values if part in objective.needs)
    count = len(values["features"])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    widths = {part: values[part].shape[1] for part in parts}
    shards = ShardSet(folder, "sample", count, widths, DTYPES[dtype])
    for part in parts:
        stored = values[part][order].to(DTYPES[dtype])
        for number in shards.numbers:
            rows = shards.rows(number)
            shards.write(Shard(part, 0, number), stored[rows.start : rows.stop].contiguous(), seconds=0.0)
    cache = FeatureCache(shards, parts, layers=(), views=1, identity={}, device=device)
    return FeatureSample(cache, torch.split(order.argsort(), [len(batch.index) for batch in batches]))
