"""Filling a cache of teacher features: what is whole is kept, what is missing or damaged is computed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import write_text
from rrm_transfer.core.locks import FileLock
from rrm_transfer.data.loader import Batch, TrainingLoader
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.memory import advising_batch_size
from rrm_transfer.runtime.progress import Task
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.training.features.cache import FeatureCache
from rrm_transfer.training.features.shards import Shard
from rrm_transfer.training.step import infer

_PROBES = 8
_TOLERANCE = 0.05
"""Relative; larger than what another device or thread count does, smaller than what another network does."""
_WAIT_SECONDS = 1.0
_SHARE = "set RRM_TRANSFER_CACHE to a folder that all machines share, or --set teacher.cache=null"


class FeatureBuilder:
    """Makes a cache whole, on any number of processes.

    The teacher computes in float32: students that train in another precision share the cache.

    Args:
        cache: What to fill.
        teacher: Whose outputs; on the CPU again when the cache is whole.
        loader: Of the training images.
        batch_size: Of the teacher's forward passes, the same for any number of processes.
        context: Processes and voice.
    """

    def __init__(
        self,
        cache: FeatureCache,
        teacher: Teacher,
        loader: TrainingLoader,
        *,
        batch_size: int,
        context: Context,
    ) -> None:
        self._cache = cache
        self._shards = cache.shards
        self._teacher = teacher
        self._loader = loader
        self._batch_size = batch_size
        self._runtime = context.runtime
        self._narrator = context.narrator

    def complete(self) -> dict[str, Any]:
        """Checks every shard and computes those that are not whole.

        Returns:
            Facts for the log: ``cache`` is ``hit`` or ``built``, ``build_seconds`` what computing all of it
            took, whichever run did.

        Raises:
            UserError: It does not fit on the disk, or values do not fit the dtype, or the processes do not
                share the folder.
        """
        cache, runtime, narrator = self._cache, self._runtime, self._narrator
        with self._locked():
            lacking = self._lacking()
            if lacking:
                runtime.check_shared(self._shards.folder, hint=_SHARE)
                narrator.note(
                    f"teacher features: {len(lacking)} of {len(cache.files)} shards to compute, "
                    f"{cache.nbytes / 1e6:,.0f} MB in {self._shards.folder}"
                )
                self._build(lacking)
            self._teacher.to("cpu")
            runtime.barrier()
        runtime.check_visible([self._shards.path(shard) for shard in cache.files], hint=_SHARE)
        facts = {
            "cache": "built" if lacking else "hit",
            "build_seconds": round(self._shards.seconds(cache.files), 3),
            "shards": len(cache.files),
            "shards_built": len(lacking),
            "views": cache.views,
            "bytes": cache.nbytes,
        }
        narrator.note(
            f"teacher features: cache {facts['cache']}, {cache.views} views of {self._shards.images:,} "
            f"images, {cache.nbytes / 1e6:,.0f} MB"
        )
        return facts

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other builders away; waits for one that is at work, whose shards will then be there."""
        runtime, folder = self._runtime, self._shards.folder
        lock = FileLock(folder / ".lock")
        if runtime.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "cache.json", json.dumps(self._cache.identity, indent=1) + "\n")
        told = ""
        try:
            while not runtime.from_main(runtime.is_main and lock.take()):
                if lock.holder != told:
                    told = lock.holder
                    self._narrator.note(f"teacher features: {told} computes the same, waiting for it")
                time.sleep(_WAIT_SECONDS)
            yield
        finally:
            lock.release()

    def _lacking(self) -> list[Shard]:
        """Returns the shards that are not whole; those that should be are named to the user."""
        runtime, files = self._runtime, self._cache.files
        mine = [shard for shard in files[runtime.rank :: runtime.world] if self._shards.path(shard).is_file()]
        found = [(shard, self._shards.problem(shard)) for shard in mine]
        checked: dict[Shard, str | None] = dict(runtime.gather(found))
        for shard, problem in checked.items():
            if problem is not None:
                self._narrator.warn(f"teacher features: {shard.name} is computed again, {problem}")
        whole = [shard for shard in files if checked.get(shard, "missing") is None]
        if whole and not runtime.from_main(runtime.is_main and self._still_holds(whole[0])):
            self._narrator.warn(
                "teacher features: all are computed again, the teacher now answers otherwise to these images"
            )
            whole = []
        return [shard for shard in files if shard not in whole]

    def _still_holds(self, shard: Shard) -> bool:
        """Asks the teacher once more about a few images.

        The key knows the weights and the augmentation, not the code that computes with them.
        """
        rows = self._shards.rows(shard.number)
        positions = torch.linspace(rows.start, rows.stop - 1, _PROBES).long()
        live = self._outputs(self._loader.batches([positions], view=shard.view))[shard.part]
        bits = torch.from_numpy(self._shards.open(shard)[(positions - rows.start).numpy()])
        return _agree(bits.view(self._shards.dtype), live, _TOLERANCE)

    def _build(self, lacking: Sequence[Shard]) -> None:
        places = sorted({(shard.view, shard.number) for shard in lacking})
        mine = places[self._runtime.rank :: self._runtime.world]
        total = sum(len(self._shards.rows(number)) for _, number in mine)
        with self._narrator.task("teacher features", total) as task:
            done = 0
            for view, group in groupby(mine, key=itemgetter(0)):
                parts = {number: self._batches_of(number) for _, number in group}
                # One stream for all shards of a view: the next is decoded while this one is computed.
                stream = self._loader.batches([part for own in parts.values() for part in own], view=view)
                for number, own in parts.items():
                    begun = time.monotonic()
                    outputs = self._outputs(islice(stream, len(own)), task, done)
                    wanted = [shard for shard in lacking if (shard.view, shard.number) == (view, number)]
                    seconds = time.monotonic() - begun
                    for shard in wanted:
                        values = self._rounded(shard.part, outputs[shard.part])
                        self._shards.write(shard, values, seconds=seconds)
                    done += len(self._shards.rows(number))
                    task.update(done)

    def _batches_of(self, number: int) -> tuple[Tensor, ...]:
        """Returns the positions of a shard's images, a tensor for each batch."""
        rows = self._shards.rows(number)
        return torch.split(torch.arange(rows.start, rows.stop), self._batch_size)

    def _outputs(
        self, batches: Iterable[Batch], task: Task | None = None, done: int = 0
    ) -> dict[str, Tensor]:
        """Returns what the teacher says of some images, on the CPU, by part."""
        teacher = self._teacher.to(self._runtime.device)
        said: list[dict[str, Tensor]] = []
        for batch in batches:

            def fewer(images: int, x: Tensor = batch.x) -> None:
                infer(teacher, x[:images])

            with advising_batch_size(len(batch.y), fewer, self._runtime.device):
                said.append(self._cache.of(infer(teacher, batch.x)))
            done += len(batch.y)
            if task is not None:
                task.update(done)
        return {part: torch.cat([outputs[part] for outputs in said]).cpu() for part in self._cache.parts}

    def _rounded(self, part: str, values: Tensor) -> Tensor:
        dtype = self._shards.dtype
        rounded = values.to(dtype)
        if not _agree(rounded, values, torch.finfo(dtype).eps):
            raise UserError(
                f"The teacher's {part} do not fit the dtype of the cache.",
                received=f"{dtype}, magnitudes up to {float(values.abs().amax()):.3g}",
                hint="--set teacher.cache.dtype=bf16, or --set teacher.cache=null",
            )
        return rounded


def _agree(stored: Tensor, live: Tensor, tolerance: float) -> bool:
    """Tells whether two matrices differ by ``tolerance`` at most, relative; what is not finite never does."""
    return bool((stored.float() - live).norm() <= tolerance * live.norm())
