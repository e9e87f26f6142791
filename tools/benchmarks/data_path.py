r"""Target 5: images per second through the data path alone, at 32 px and at 224 px.

    RRM_TRANSFER_CIFAR10=FOLDER RRM_TRANSFER_IMAGENET_SAMPLE=FOLDER \
        python -m tools.benchmarks.data_path [--seconds 5] [--workers 1]

Without RRM_TRANSFER_CIFAR10 the embedded images are taken, padded to 32 px; without
RRM_TRANSFER_IMAGENET_SAMPLE the second part is left out. There one process decodes in either case; the loader
flips, scales and collates beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from rrm_transfer.core.randomness import Randomness
from rrm_transfer.data.augment import Augmentation, draw_boxes, random_box
from rrm_transfer.data.encoded import decode
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.images import ImageSet, LazyImages, MemoryImages
from rrm_transfer.data.loader import TrainingLoader
from rrm_transfer.data.sources import load_dataset_by_name
from tools.benchmarks.record import emit

SMALL, LARGE = os.environ.get("RRM_TRANSFER_CIFAR10"), os.environ.get("RRM_TRANSFER_IMAGENET_SAMPLE")
BATCH = 128
ROUNDS = 5
EPOCH = 20_000
"""Images of an epoch at 224 px, each several times: processes start once an epoch, as with real sets."""


class PerImage(Dataset[torch.Tensor]):
    """Small images that are cropped and mirrored one by one with PIL."""

    def __init__(self, images: MemoryImages) -> None:
        self.images = [Image.fromarray(p.permute(1, 2, 0).squeeze(-1).numpy()) for p in images.pixels[:2000]]
        self.transform = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> torch.Tensor:
        image: torch.Tensor = self.transform(self.images[position])
        return image


def main() -> None:
    """Measures both sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of five rounds of each path")
    parser.add_argument("--workers", type=int, default=1, help="decoding processes at 224 px")
    options = parser.parse_args()
    _small(options.seconds)
    if LARGE:
        _large(LARGE, options.seconds, options.workers)
    else:
        print("\nRRM_TRANSFER_IMAGENET_SAMPLE is not set: 224 px left out")


def _small(seconds: float) -> None:
    data = load_dataset_by_name(SMALL or "fashion-mnist-mini")
    assert isinstance(data.train, MemoryImages)
    loader = _loader(data.train, 32, Augmentation(crop_padding=4, flip=True), workers=0)
    per_image = DataLoader(PerImage(data.train), batch_size=BATCH, shuffle=True, drop_last=True)
    rates = _in_turns(
        {
            "batched, from memory": _endless(loader.epoch),
            "image by image": _endless(lambda _: iter(per_image)),
        },
        seconds,
    )
    fast, slow = (statistics.median(values) for values in rates.values())
    emit(
        f"data path, 32 px, crop and flip, {data.name}, one process",
        _rows(rates),
        {f"{fast:,.0f} ≥ 10,000 images/s, or {fast / slow:.1f} ≥ 10 times as fast": _enough(fast, slow)},
    )


def _enough(fast: float, slow: float) -> bool:
    return fast / torch.get_num_threads() >= 10_000 or fast >= 10 * slow


def _large(name: str, seconds: float, workers: int) -> None:
    data = load_dataset_by_name(name)
    stored = data.train if len(data.train) >= BATCH else data.test
    images = stored.select([position % len(stored) for position in range(EPOCH)])
    assert isinstance(images, LazyImages)
    augmentation = Augmentation(random_resized_crop=(0.08, 1.0), flip=True)
    loader = _loader(images, 224, augmentation, workers=workers)
    rates = _in_turns(
        {
            "decoding and cropping alone": _decoding(images),
            f"loader, {workers} workers": _endless(loader.epoch),
        },
        seconds,
    )
    alone, whole = (statistics.median(values) for values in rates.values())
    emit(
        f"data path, 224 px, random resized crop and flip, {len(stored):,} JPEG images",
        _rows(rates),
        {f"loader at {whole / alone:.1%} ≥ 90 % of decoding": whole >= 0.9 * alone},
    )


def _decoding(images: LazyImages) -> Iterator[Any]:
    """Decodes the random crops of the loader's first epochs, and does nothing with them."""
    for view in cycle(range(100)):
        for start in range(0, len(images) - BATCH + 1, BATCH):
            ids = images.index[start : start + BATCH]
            for position, draw in zip(ids.tolist(), draw_boxes(Randomness(0, view, ids)), strict=True):
                decode(
                    images.encoded,
                    position,
                    channels=images.channels,
                    box=lambda height, width, draw=draw: random_box(draw, (0.08, 1.0), height, width),  # type: ignore[misc]
                    size=224,
                    draft=True,
                )
            yield None


def _loader(images: ImageSet, size: int, augmentation: Augmentation, *, workers: int) -> TrainingLoader:
    return TrainingLoader(
        images,
        fit=choose_fit(images.size, size),
        augmentation=augmentation,
        global_batch_size=BATCH,
        seed=0,
        device="cpu",
        workers=workers,
    )


def _endless(epoch: Callable[[int], Iterator[Any]]) -> Iterator[Any]:
    for number in cycle(range(1_000_000)):
        yield from epoch(number)


def _in_turns(streams: dict[str, Iterator[Any]], seconds: float) -> dict[str, list[float]]:
    """Returns images per second of each stream, in rounds that take turns."""
    rates: dict[str, list[float]] = {name: [] for name in streams}
    for stream in streams.values():
        next(stream)
    for _ in range(ROUNDS):
        for name, stream in streams.items():
            begun, batches = time.perf_counter(), 0
            while time.perf_counter() - begun < seconds:
                next(stream)
                batches += 1
            rates[name].append(batches * BATCH / (time.perf_counter() - begun))
    return rates


def _rows(rates: dict[str, list[float]]) -> list[dict[str, Any]]:
    return [
        {"path": name, "images/s": statistics.median(values), "least": min(values), "most": max(values)}
        for name, values in rates.items()
    ]


if __name__ == "__main__":
    main()
