"""The data step of `rdt`: training images made anew from a teacher's representation, kept as parquet."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch
from torch import Tensor

from rrm_transfer.attacks.ascent import ascend
from rrm_transfer.core.documents import differences, parse_json, read_text
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import write_text
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.fit import Fit, choose_fit
from rrm_transfer.data.images import DataSet, ImageSet
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.data.parquet_source import load_parquet
from rrm_transfer.data.shards import png, shard_name, write_shard
from rrm_transfer.objectives.base import Inversion
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runtime.context import Context
from rrm_transfer.teachers.teacher import Teacher

SHARD = 256
"""Images of one file: what an interruption can lose."""

EQUATION = (
    "x_r = argmin_z ||g_T(z) - g_T(x)||_2 over the images that normalized steps in [0, 1] pass through, "
    "from another training image"
)
SOURCE = "Ilyas et al., Adversarial Examples Are Not Bugs, They Are Features, NeurIPS 2019, section 3.1"
_SECONDS = b"rrm_transfer.seconds"
_SHARE = "objective.folder must be one that all machines see"
_NO_BALL = ThreatModel("L2", math.inf)


class MadeImages(NamedTuple):
    """Images to train on, and the seconds that they cost, those of earlier sessions included."""

    images: ImageSet
    seconds: float


class RobustSet:
    """Images on which a teacher's representation is that of the training images, from other starts.

    A folder with one parquet file for every ``SHARD`` images, in the order of the training images, and
    ``robust-set.json``, which says how they were made. Each image depends on the seed and its own index only.

    Args:
        folder: Where it is or will be.
        inversion: How the images are made.
        teacher: Whose representation they keep.
        data: Its training part gives targets, starts and labels.
        fit: Brings the images to the size at which they are made and written.
        seed: Of the starts.
        batch_size: Images that are made at a time.
    """

    def __init__(
        self,
        folder: Path,
        inversion: Inversion,
        *,
        teacher: Teacher,
        data: DataSet,
        fit: Fit,
        seed: int,
        batch_size: int = SHARD,
    ) -> None:
        self.folder = folder
        self._inversion = inversion
        self._teacher = teacher
        self._data = data
        self._fit = fit
        self._seed = seed
        self._batch_size = batch_size
        self._count = math.ceil(len(data.train) / SHARD)

    @property
    def facts(self) -> dict[str, Any]:
        """What the images depend on, as robust-set.json holds it."""
        provenance = self._teacher.provenance
        return {
            "equation": EQUATION,
            "source": SOURCE,
            "steps": self._inversion.steps,
            "step_size": self._inversion.step_size,
            "teacher": {key: provenance[key] for key in ("sha256", "normalization", "view")},
            "data": self._data.train.fingerprint,
            "images": len(self._data.train),
            "fit": str(self._fit),
            "size": self._fit.size,
            "shard": SHARD,
            "seed": self._seed,
        }

    def check(self) -> None:
        """Checks that what stands in the folder, if anything, is this set.

        Raises:
            UserError: It is another one, or something else.
        """
        if not self.folder.exists():
            return
        try:
            found = parse_json(read_text(self.folder / "robust-set.json"))
        except (OSError, ValueError):
            if not self.folder.is_dir() or any(self.folder.iterdir()):
                raise UserError(
                    "The folder holds no robust set, and something else.",
                    received=self.folder,
                    hint="another objective.folder",
                ) from None
            return
        if changes := differences(found, self.facts):
            raise UserError(
                "The robust set in the folder was made otherwise:\n"
                + "\n".join(f"  {change}" for change in changes),
                received=self.folder,
                hint="another objective.folder, or the same settings",
            )

    def make(self, context: Context) -> MadeImages:
        """Writes what is missing and reads the whole, in the order of the training images.

        Args:
            context: Its processes share the files to write.

        Raises:
            UserError: See ``check``; or a process does not see what the others wrote.
        """
        runtime = context.runtime
        runtime.on_main(self.check)  # another process could see what this one is about to write
        if runtime.is_main:
            write_text(self.folder / "robust-set.json", json.dumps(self.facts, indent=1) + "\n")
        numbers = range(self._count)
        missing = runtime.from_main([n for n in numbers if not self._file(n).is_file()])
        teacher = self._teacher.to(runtime.device)
        if missing:
            runtime.check_shared(self.folder, hint=_SHARE)
        own = missing[runtime.rank :: runtime.world]
        with context.narrator.task("robust set", len(own)) as task:
            for done, number in enumerate(own, start=1):
                begun = time.monotonic()
                first = number * SHARD
                positions = list(range(first, min(first + SHARD, len(self._data.train))))
                size = self._batch_size
                parts = [positions[k : k + size] for k in range(0, len(positions), size)]
                made = [self._invert(teacher, part, runtime.device) for part in parts]
                pixels, labels = map(torch.cat, zip(*made, strict=True))
                # Processes work side by side: a file's share of the time that all of them take.
                seconds = (time.monotonic() - begun) / min(runtime.world, len(missing))
                self._write(number, pixels, labels, seconds)
                task.update(done)
        runtime.barrier()
        runtime.check_visible([self._file(number) for number in numbers], hint=_SHARE)
        images = load_parquet(self.folder, BrokenImages()).images["train"]
        stored = [pq.read_metadata(self._file(number)).metadata[_SECONDS] for number in numbers]
        return MadeImages(images, sum(map(float, stored)))

    def _file(self, number: int) -> Path:
        return self.folder / shard_name("train", number, self._count)

    def _invert(
        self, teacher: Teacher, positions: Sequence[int], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Returns ``x_r`` for training images, uint8 ``(B, C, H, W)``, and their labels, ``(B,)``."""
        train = self._data.train
        randomness = Randomness(self._seed, 0, train.index[list(positions)])
        starts = randomness.integers("robust set", len(train))
        targets, start = (
            next(
                evaluation_batches(
                    train.select(chosen), fit=self._fit, batch_size=len(chosen), device=device,
                    substitute=True,
                )
            )
            for chosen in (list(positions), starts)
        )  # fmt: skip
        z = start.x
        with torch.no_grad():
            kept = teacher.features(targets.x)

        nearest, found = torch.full((len(z),), math.inf, device=device), z.clone()

        def closeness(images: Tensor) -> Tensor:
            nonlocal nearest, found
            distance: Tensor = torch.linalg.vector_norm(teacher.features(images) - kept, dim=1)
            # Steps of one length end around the minimum, not in it.
            nearer = distance.detach() < nearest
            # Not under a mask: each would have the host wait for the device.
            nearest = torch.where(nearer, distance.detach(), nearest)
            found = torch.where(nearer[:, None, None, None], images.detach(), found)
            return -distance

        delta = ascend(
            z,
            loss=closeness,
            threat=_NO_BALL,
            steps=self._inversion.steps,
            step_size=self._inversion.step_size,
            delta=torch.zeros_like(z),
            clip=False,
        )
        with torch.no_grad():
            closeness(z + delta)
        return (found * 255).round().clamp(0, 255).to(torch.uint8).cpu(), targets.y.cpu()

    def _write(self, number: int, pixels: Tensor, labels: Tensor, seconds: float) -> None:
        write_shard(
            self._file(number),
            [png(image.numpy()) for image in pixels],
            labels.tolist(),
            class_names=self._data.class_names,
            facts={_SECONDS: repr(seconds).encode()},
        )


def robust_set_of(setup: Setup, folder: Path) -> RobustSet | None:
    """Returns the set that takes the place of a run's training images; None where its objective wants none.

    Args:
        setup: Of the run.
        folder: Where the set is kept if the recipe does not say.
    """
    inversion, teacher, loaded = setup.objective.inversion, setup.teacher, setup.loaded
    if inversion is None or teacher is None:
        return None
    return RobustSet(
        folder if inversion.folder is None else Path(inversion.folder),
        inversion,
        teacher=teacher,
        data=loaded.images,
        fit=choose_fit(loaded.images.train.size, loaded.image_size),
        seed=setup.recipe.seed,
        batch_size=setup.recipe.evaluate.batch_size,
    )
