from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.encoded import FileImages, decode
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.images import ImageSet, LazyImages, MemoryImages
from rrm_transfer.data.loader import Batch, TrainingLoader, evaluation_batches
from tests.data.fixtures import memory_images, write_class_folders

CIFAR = Augmentation(crop_padding=4, flip=True, jitter=0.2, rotation=2)
IMAGENET = Augmentation(random_resized_crop=(0.3, 1.0), flip=True, jitter=0.1, lighting=0.05)


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> LazyImages:
    folder = write_class_folders(tmp_path_factory.mktemp("images"), count=10, size=(40, 50))
    files = sorted(folder.rglob("*.png"))
    return LazyImages(
        encoded=FileImages(folder, files), labels=torch.arange(20) // 10, channels=3, size=(40, 50)
    )


def loader(images: ImageSet, **changes: Any) -> TrainingLoader:
    settings: dict[str, Any] = {
        "fit": Fit("none", 32),
        "augmentation": CIFAR,
        "global_batch_size": 8,
        "seed": 5,
        "device": "cpu",
    }
    return TrainingLoader(images, **(settings | changes))


def lazy_loader(images: ImageSet, **changes: Any) -> TrainingLoader:
    return loader(images, **({"fit": Fit("crop", 24), "augmentation": IMAGENET} | changes))


def in_memory(images: LazyImages) -> MemoryImages:
    pixels = [decode(images.encoded, i, channels=images.channels) for i in images.index.tolist()]
    return MemoryImages(pixels=torch.from_numpy(np.stack(pixels)), labels=images.labels)


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.y, other.y)
        torch.testing.assert_close(one.x, other.x, atol=1e-6, rtol=0)


def test_an_epoch_is_whole_batches_of_distinct_labelled_images() -> None:
    images = memory_images(42)
    batches = list(loader(images).epoch(0))
    assert len(batches) == loader(images).steps_per_epoch == 5
    for batch in batches:
        assert batch.x.shape == (8, 3, 32, 32)
        assert batch.x.dtype == torch.float32
        assert batch.index.dtype == batch.y.dtype == torch.int64
        assert torch.equal(batch.y, images.labels[batch.index])
        assert 0 <= batch.x.min() <= batch.x.max() <= 1
    ids = torch.cat([batch.index for batch in batches])
    assert len(set(ids.tolist())) == 40


def test_the_order_follows_seed_and_epoch_and_the_view_changes_pixels_only() -> None:
    images = memory_images()
    first = list(loader(images).epoch(0))
    assert_equal(first, list(loader(images).epoch(0)))
    for other in (loader(images).epoch(1), loader(images, seed=6).epoch(0)):
        assert not torch.equal(first[0].index, next(iter(other)).index)
    viewed = list(loader(images).epoch(0, view=9))
    assert torch.equal(viewed[0].index, first[0].index)
    assert not torch.equal(viewed[0].x, first[0].x)


def test_a_view_makes_the_same_pixels_in_every_epoch() -> None:
    images = memory_images()
    pixels: list[dict[int, torch.Tensor]] = []
    for epoch in (0, 1):
        batches = loader(images).epoch(epoch, view=2)
        pixels.append({int(i): x for b in batches for i, x in zip(b.index, b.x, strict=True)})
    for i, x in pixels[0].items():
        torch.testing.assert_close(x, pixels[1][i], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["memory", "lazy"])
def test_two_processes_share_the_batches_of_one(kind: str, lazy: LazyImages) -> None:
    def make(**changes: Any) -> TrainingLoader:
        return lazy_loader(lazy, **changes) if kind == "lazy" else loader(memory_images(), **changes)

    ranks = [list(make(rank=rank, world=2).epoch(3)) for rank in (0, 1)]
    joined = [
        Batch(*(torch.cat(pair) for pair in zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)
    ]
    assert_equal(joined, list(make().epoch(3)))


@pytest.mark.parametrize("kind", ["memory", "lazy"])
def test_starting_later_equals_skipping(kind: str, lazy: LazyImages) -> None:
    made = lazy_loader(lazy, global_batch_size=4) if kind == "lazy" else loader(memory_images())
    assert_equal(list(made.epoch(1))[3:], list(made.epoch(1, first_step=3)))
    assert list(made.epoch(1, first_step=made.steps_per_epoch)) == []


def test_ids_key_the_augmentation_whatever_is_selected() -> None:
    images = memory_images()
    whole = {int(i): x for b in loader(images).epoch(0) for i, x in zip(b.index, b.x, strict=True)}
    part = loader(images.select(range(10, 30)), global_batch_size=5).epoch(0)
    for batch in part:
        for i, x in zip(batch.index.tolist(), batch.x, strict=True):
            torch.testing.assert_close(x, whole[i], atol=1e-6, rtol=0)


def test_workers_change_nothing(lazy: LazyImages) -> None:
    assert_equal(list(lazy_loader(lazy).epoch(2)), list(lazy_loader(lazy, workers=2).epoch(2)))


@pytest.mark.parametrize("fit", [Fit("crop", 24), Fit("resize", 30), Fit("pad", 56)])
def test_evaluation_gives_all_images_in_order_in_memory_and_decoded(lazy: LazyImages, fit: Fit) -> None:
    memory = in_memory(lazy)
    decoded, held = (
        list(evaluation_batches(images, fit=fit, batch_size=8, device="cpu")) for images in (lazy, memory)
    )
    assert [len(batch.x) for batch in decoded] == [8, 8, 4]
    assert torch.cat([batch.index for batch in decoded]).tolist() == list(range(20))
    for one, other in zip(decoded, held, strict=True):
        assert one.x.shape[1:] == (3, fit.size, fit.size)
        assert torch.equal(one.y, other.y)
        torch.testing.assert_close(one.x, other.x, atol=1.01 / 255, rtol=0)


def test_random_resized_crops_agree_in_memory_and_decoded(lazy: LazyImages) -> None:
    memory = in_memory(lazy)
    crop = Augmentation(random_resized_crop=(0.3, 1.0))
    for one, other in zip(
        lazy_loader(lazy, augmentation=crop).epoch(0),
        lazy_loader(memory, augmentation=crop).epoch(0),
        strict=True,
    ):
        torch.testing.assert_close(one.x, other.x, atol=1.01 / 255, rtol=0)


def test_evaluating_on_nothing_yields_nothing() -> None:
    images = memory_images().select([])
    assert list(evaluation_batches(images, fit=Fit("none", 32), batch_size=8, device="cpu")) == []


def test_the_description_is_one_line() -> None:
    grey = memory_images(channels=1, size=28)
    made = loader(grey, fit=Fit("pad", 32), augmentation=Augmentation(crop_padding=4, flip=True))
    assert made.description == "40 training images, 28x28 grey, padded to 32x32, crop 4 + flip"
    assert made.global_batch_size == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch_size": 41}, "fewer training images than one global batch"),
        ({"global_batch_size": 0}, "positive"),
        ({"global_batch_size": 9, "world": 2}, "multiple of the number of processes"),
        ({"fit": Fit("pad", 16)}, "cannot be fitted"),
    ],
)
def test_settings_that_do_not_suit_the_images_are_mistakes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        loader(memory_images(), **changes)


def test_lighting_needs_colour_and_training_needs_images() -> None:
    with pytest.raises(UserError, match="lighting needs colour"):
        loader(memory_images(channels=1), augmentation=Augmentation(lighting=0.1))
    with pytest.raises(UserError, match="0 images"):
        loader(memory_images().select([]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(tmp_path: Path, workers: int) -> None:
    folder = write_class_folders(tmp_path, count=4)
    files = sorted(folder.rglob("*.png"))
    files[5].write_bytes(files[5].read_bytes()[:200])
    images = LazyImages(encoded=FileImages(folder, files), labels=torch.arange(8) // 4, channels=3, size=None)
    with pytest.raises(UserError, match="cannot be read") as caught:
        list(evaluation_batches(images, fit=Fit("crop", 16), batch_size=4, device="cpu", workers=workers))
    assert "image 5" in str(caught.value.received)
    assert str(files[5]) in str(caught.value.received)


def test_crop_and_flip_keep_up_with_training() -> None:
    images = memory_images(4096)
    made = loader(images, augmentation=Augmentation(crop_padding=4, flip=True), global_batch_size=128)
    rates = []
    for epoch in range(3):
        begun = time.process_time()
        count = sum(len(batch.y) for batch in made.epoch(epoch))
        rates.append(count / (time.process_time() - begun))
    assert max(rates) > 3000  # a third of what one core reaches alone; this one may be shared


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["memory", "lazy"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_accelerator_gets_the_same_batches(kind: str, workers: int, lazy: LazyImages) -> None:
    images = in_memory(lazy) if kind == "memory" else lazy
    crop = Augmentation(random_resized_crop=(0.3, 1.0), flip=True, crop_padding=2, jitter=0.2, rotation=5)
    made = [
        list(lazy_loader(images, augmentation=crop, device=device, workers=workers).epoch(1))
        for device in ("cpu", "cuda")
    ]
    for one, other in zip(*made, strict=True):
        assert other.x.is_cuda
        assert torch.equal(one.index, other.index.cpu())
        assert torch.equal(one.y, other.y.cpu())
        torch.testing.assert_close(one.x, other.x.cpu(), atol=1.5 / 255, rtol=0)
