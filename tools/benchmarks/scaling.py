"""Target 6: time per image from 10,000 to 60,000 images, and memory while images are streamed.

python -m tools.benchmarks.scaling [--steps 20] [--rounds 35] [--images 30000]
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from PIL import Image

from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.images import ImageSet, LazyImages, MemoryImages
from rrm_transfer.data.loader import TrainingLoader
from rrm_transfer.runs.resolve import resolve
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runtime.context import Context
from rrm_transfer.training.updating import Updater
from tools.benchmarks.models import recipe, write_teacher
from tools.benchmarks.record import emit

SIZES = (10_000, 30_000, 60_000)
BATCH = 128


def main() -> None:
    """Measures both and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="in one round of one size")
    parser.add_argument("--rounds", type=int, default=35, help="short and many: machines drift")
    parser.add_argument("--images", type=int, default=30_000, help="streamed")
    options = parser.parse_args()
    _time(options.steps, options.rounds)
    _memory(options.images)


def _time(steps: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        teacher = write_teacher(Path(folder) / "teacher", small=True)
        setup = resolve(recipe("test_resnet", teacher, batch=BATCH, overrides=[]), Context.begin())
        streams = {size: _training(setup, size) for size in SIZES}
        for stream in streams.values():
            next(stream)
        seconds: dict[int, list[float]] = {size: [] for size in SIZES}
        for _ in range(rounds):
            for size, stream in streams.items():
                begun = time.perf_counter()
                for _ in range(steps):
                    next(stream)
                seconds[size].append((time.perf_counter() - begun) / steps / BATCH)
    medians = {size: statistics.median(values) for size, values in seconds.items()}
    ratio = max(medians.values()) / min(medians.values())
    emit(
        f"time per image by size of the training set, test_resnet, medians of {rounds} rounds of {steps}",
        [{"images": size, "µs per image": 1e6 * value} for size, value in medians.items()],
        {f"highest ÷ lowest {ratio:.3f} ≤ 1.05": ratio <= 1.05},
    )


def _training(setup: Setup, size: int) -> Iterator[None]:
    generator = torch.Generator().manual_seed(0)
    images = MemoryImages(
        pixels=torch.randint(0, 256, (size, 1, 28, 28), generator=generator, dtype=torch.uint8),
        labels=torch.arange(size) % 10,
    )
    loader = setup.loader(images)
    updater = Updater(
        setup.plan("student", 48),
        runtime=setup.context.runtime,
        student=setup.build_student(),
        teacher=setup.teacher,
        objective=setup.objective,
        steps_per_epoch=loader.steps_per_epoch,
    )
    with updater.prepared() as prepared:
        for epoch in range(48):
            for batch in loader.epoch(epoch):
                updater.update(prepared, epoch, batch)
                yield


class _Repeated:
    """One encoded image, as often as one likes."""

    identity = "repeated"

    def __init__(self, count: int) -> None:
        stream = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG")
        self._data, self._count = stream.getvalue(), count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> bytes:
        return self._data

    def locate(self, position: int) -> str:
        return f"image {position}"


def _memory(count: int) -> None:
    images: ImageSet = LazyImages(
        encoded=_Repeated(count), labels=torch.arange(count) % 10, channels=3, size=(32, 32)
    )
    loader = TrainingLoader(
        images,
        fit=Fit("none", 32),
        augmentation=Augmentation(crop_padding=4, flip=True),
        global_batch_size=BATCH,
        seed=0,
        device="cpu",
    )
    process, rows = psutil.Process(), []
    for number, _ in enumerate(loader.epoch(0), start=1):
        if number % max(1, loader.steps_per_epoch // 4) == 0:
            rows.append({"images streamed": number * BATCH, "MB": process.memory_info().rss / 2**20})
    growth: Any = rows[-1]["MB"] - rows[0]["MB"]
    emit(
        "memory of the process while images are decoded on access",
        rows,
        {f"from a quarter of the images to all: {growth:+.1f} MB, at most 10": growth <= 10},
    )


if __name__ == "__main__":
    main()
