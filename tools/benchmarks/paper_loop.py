"""Target 4: this package against a loop in the style of the paper's code, end to end on 32-px data.

    python -m tools.benchmarks.paper_loop [--student resnet18] [--batch 128] [--rounds 3] [--steps 10]

The loop has what such loops have: PIL transforms of single images in worker processes, float32 in the
contiguous format, the teacher's forward pass in every step, and the loss read with ``.item()``. Both train
the same student with the same teacher and loss, in turns.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from rrm_transfer.costs.bench import sample_features
from rrm_transfer.data.images import MemoryImages
from rrm_transfer.runs.resolve import resolve
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.training.updating import Updater
from tools.benchmarks.models import recipe, write_teacher
from tools.benchmarks.record import emit

_CACHED_BATCHES = 16


class PerImage(Dataset[tuple[Tensor, int]]):
    """Images that are transformed one by one."""

    def __init__(self, images: MemoryImages) -> None:
        self.pixels = images.pixels.numpy()
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.Pad(2),  # 28 px to 32
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[position, 0])), self.labels[position]


def loop_in_the_papers_style(
    student: nn.Module, teacher: nn.Module, images: MemoryImages, *, batch: int, workers: int
) -> Iterator[float]:
    """Yields the loss of each step."""
    loader = DataLoader(PerImage(images), batch_size=batch, shuffle=True, drop_last=True, num_workers=workers)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    student.train()
    while True:
        for x, y in loader:
            with torch.no_grad():
                target = teacher(x).features
            outputs = student(x)
            distance = 1 - F.cosine_similarity(outputs.features, target).mean()
            loss = distance + 0.005 * F.cross_entropy(outputs.logits, y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield loss.item()


def ours(setup: Setup, cache: Path | None = None) -> Iterator[None]:
    """Does one step of the package's training at a time.

    Args:
        setup: Of the run.
        cache: Where the teacher's outputs on some batches are kept, whose images are then used again and
            again in new versions; what a step costs does not depend on them. None: the teacher is asked live.
    """
    loader, objective = setup.loader(), setup.objective
    updater = Updater(
        setup.plan("student", 48),
        runtime=setup.context.runtime,
        student=setup.build_student(),
        teacher=setup.teacher,
        objective=objective,
        steps_per_epoch=loader.steps_per_epoch,
    )
    features, parts = None, loader.parts(0)
    if cache is not None:
        assert setup.teacher is not None
        parts = parts[:_CACHED_BATCHES]
        batches = list(loader.batches(parts, view=0))
        features = sample_features(setup.teacher, batches, objective, folder=cache, dtype="float16")
        updater.teacher = None
    with updater.prepared() as prepared:
        for epoch in range(48):
            for number, batch in enumerate(loader.batches(parts, view=epoch)):
                clean = None if features is None else features.read(number)
                updater.update(prepared, epoch, batch, clean)
                yield


def main() -> None:
    """Measures both in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="of each, in one round")
    parser.add_argument("--small", action="store_true", help="a small teacher, to rehearse")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        teacher = write_teacher(Path(folder) / "teacher", small=options.small)
        wanted = recipe(options.student, teacher, batch=options.batch, overrides=[])
        setup = resolve(wanted, Context.begin(Narrator(Console(stderr=True))))
        images = setup.loaded.images.train
        assert isinstance(images, MemoryImages)
        assert setup.teacher is not None
        theirs = loop_in_the_papers_style(
            setup.build_student(),
            copy.deepcopy(setup.teacher),
            images,
            batch=options.batch,
            workers=options.workers,
        )
        streams: dict[str, Iterator[Any]] = {
            "the paper's style": theirs,
            "this package, teacher live": ours(setup),
            "this package, teacher cached": ours(setup, Path(folder) / "cache"),
        }
        rates: dict[str, list[float]] = {name: [] for name in streams}
        for _ in range(options.rounds):
            for name, stream in streams.items():
                for _ in range(2 * options.workers + 1):  # what the workers have made while they had to wait
                    next(stream)
                seconds = _timed(lambda stream=stream: [next(stream) for _ in range(options.steps)])  # type: ignore[misc]
                rates[name].append(options.steps * options.batch / seconds)
    slow, live, fast = (statistics.median(values) for values in rates.values())
    emit(
        f"end to end: {options.student}, 32 px, batches of {options.batch}, medians of {options.rounds} "
        f"rounds of {options.steps} steps, {options.workers} workers for the paper's style",
        [
            {
                "loop": name,
                "images/s": statistics.median(values),
                "lowest": min(values),
                "highest": max(values),
            }
            for name, values in rates.items()
        ],
        {
            f"cached {fast / slow:.2f} ≥ 2.5 times the images per second": fast >= 2.5 * slow,
            f"live {live / slow:.2f} ≥ 2.5 times the images per second": live >= 2.5 * slow,
        },
    )


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
