from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data import framing
from rrm_transfer.data import images as images_module
from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.encoded import decode
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.images import ImageSet, LazyImages, MemoryImages
from rrm_transfer.data.loader import Batch, TrainingLoader, evaluation_batches
from tests.data.fixtures import file_images, memory_images, write_class_folders
from tests.support.operations import Operations

CIFAR = Augmentation(crop_padding=4, flip=True, jitter=0.2, rotation=2)
IMAGENET = Augmentation(random_resized_crop=(0.3, 1.0), flip=True, jitter=0.1, lighting=0.05)


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> LazyImages:
    folder = write_class_folders(tmp_path_factory.mktemp("images"), count=10, size=(40, 50))
    files = sorted(folder.rglob("*.png"))
    return LazyImages(
        encoded=file_images(folder, files), labels=torch.arange(20) // 10, channels=3, size=(40, 50)
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
    images = LazyImages(
        encoded=file_images(folder, files), labels=torch.arange(8) // 4, channels=3, size=None
    )
    with pytest.raises(UserError, match="cannot be read") as caught:
        list(evaluation_batches(images, fit=Fit("crop", 16), batch_size=4, device="cpu", workers=workers))
    assert "image 5" in str(caught.value.received)
    assert str(files[5]) in str(caught.value.received)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_without_a_broken_image_up_to_a_limit(tmp_path: Path, workers: int) -> None:
    folder = write_class_folders(tmp_path, count=6)
    files = sorted(folder.rglob("*.png"))
    labels = torch.arange(12) // 6
    encoded = file_images(folder, files)
    files[5].write_bytes(b"")
    files[8].unlink()  # vanishes after the set was listed

    def images(limit: int) -> tuple[LazyImages, list[str]]:
        warnings: list[str] = []
        broken = BrokenImages(limit, warnings.append)
        return LazyImages(encoded=encoded, labels=labels, channels=3, size=None, broken=broken), warnings

    settings: dict[str, Any] = {"fit": Fit("crop", 16), "global_batch_size": 4, "workers": workers}
    tolerant, warnings = images(2)
    made = lazy_loader(tolerant, **settings)
    batches = [batch for epoch in (0, 1) for batch in made.epoch(epoch)]
    assert len(batches) == 6
    seen = torch.cat([batch.index for batch in batches])
    assert not set(seen.tolist()) & {5, 8}
    assert torch.equal(torch.cat([batch.y for batch in batches]), labels[seen])
    assert len(warnings) == 2, "each is told once, not in every epoch"
    assert {f"image {number}, {files[number]}" for number in (5, 8)} == set(tolerant.broken.found)
    # Whichever batch it is in, and whoever reads it, the same image takes its place.
    halves = [list(lazy_loader(images(2)[0], **settings, rank=r, world=2).epoch(0)) for r in (0, 1)]
    joined = [torch.cat([one.index, other.index]) for one, other in zip(*halves, strict=True)]
    assert torch.equal(torch.cat(joined), seen[:12])

    with pytest.raises(UserError, match="2 images cannot be read"):
        list(lazy_loader(images(1)[0], **settings).epoch(0))
    with pytest.raises(UserError, match="cannot be read"):
        list(evaluation_batches(images(2)[0], fit=Fit("crop", 16), batch_size=4, device="cpu"))


def _decoding_ends_with(monkeypatch: pytest.MonkeyPatch, problem: Callable[[], None]) -> None:
    def read(*_: Any) -> torch.Tensor:
        problem()
        return torch.zeros(3, 24, 24, dtype=torch.uint8)

    monkeypatch.setattr(framing._DecodedBatches, "_read", read)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_killed_worker_is_told(
    number: signal.Signals, lazy: LazyImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    _decoding_ends_with(monkeypatch, lambda: os.kill(os.getpid(), number))
    with pytest.raises(UserError, match="ended from outside") as caught:
        list(lazy_loader(lazy, workers=1).epoch(0))
    assert "data.workers" in str(caught.value.hint)


@pytest.mark.timeout(60)
def test_a_full_shared_memory_only_costs_time(lazy: LazyImages, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(lazy_loader(lazy).epoch(0))

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_7>: No space left (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    assert_equal(expected, list(lazy_loader(lazy, workers=1).epoch(0)))


def test_other_errors_of_a_worker_are_bugs(lazy: LazyImages, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> None:
        raise RuntimeError("a bug")

    _decoding_ends_with(monkeypatch, bug)
    with pytest.raises(RuntimeError, match="a bug"):
        list(lazy_loader(lazy, workers=1).epoch(0))


def _decoded_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has images show which process decoded them."""

    def read(*_: Any) -> torch.Tensor:
        return torch.tensor(list(os.getpid().to_bytes(3, "big")), dtype=torch.uint8)[:, None, None].expand(
            3, 24, 24
        )

    monkeypatch.setattr(framing._DecodedBatches, "_read", read)


def _processes(batches: list[Batch]) -> set[int]:
    return {
        int.from_bytes(bytes((batch.x[0, :, 0, 0] * 255).round().to(torch.uint8).tolist()), "big")
        for batch in batches
    }


def test_the_processes_that_decode_stay_from_epoch_to_epoch(
    lazy: LazyImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    _decoded_by(monkeypatch)
    made = lazy_loader(lazy, augmentation=Augmentation(), workers=1)
    first, second = (_processes(list(made.epoch(epoch))) for epoch in range(2))
    assert first == second
    assert len(first) == 1
    assert os.getpid() not in first


@pytest.mark.parametrize("workers", [0, 1])
def test_readings_that_interrupt_each_other_get_what_each_asked_for(workers: int, lazy: LazyImages) -> None:
    """As when averaged weights are shown training images before an epoch is at its end."""
    expected = [list(lazy_loader(lazy).epoch(epoch)) for epoch in (0, 1)]
    made = lazy_loader(lazy, workers=workers)
    outer, got = made.epoch(0), []
    got.append(next(outer))
    between = list(made.epoch(1))
    assert_equal([*got, *outer], expected[0])
    assert_equal(between, expected[1])


@pytest.mark.parametrize("resident", [True, False])
def test_of_a_resident_set_only_positions_cross_the_bus(
    resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels, ids and random numbers are there already, those of 64 batches at once."""
    monkeypatch.setattr(images_module, "spare_bytes", lambda device: (1 << 30) * resident)
    made = loader(memory_images(400), augmentation=Augmentation(crop_padding=4, flip=True), device="meta")
    batches = made.epoch(0)
    next(batches)
    with Operations() as operations:
        for _ in range(10):
            assert next(batches).x.is_meta
    assert operations.bytes_moved / 10 == 8 * (8 if resident else 3 * 32 * 32)


@pytest.mark.parametrize(
    ("augmentation", "most"),
    [(Augmentation(crop_padding=4, flip=True), 12), (Augmentation(jitter=0.1, lighting=0.05), 26)],
)
def test_a_batch_takes_few_operations_as_its_numbers_are_drawn_ahead(
    augmentation: Augmentation, most: int
) -> None:
    """Drawn for each batch, crop and flip take 117 and jitter with lighting 124."""
    batches = loader(memory_images(400), augmentation=augmentation).epoch(0)
    next(batches)
    with Operations() as operations:
        for _ in range(10):
            next(batches)
    assert len(operations.names) / 10 <= most


@pytest.mark.slow  # a rate; the machine should do nothing else
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


def test_images_that_only_calibrate_or_check_may_be_replaced(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path, count=6)
    files = sorted(folder.rglob("*.png"))
    files[5].write_bytes(b"no picture")
    images = LazyImages(
        encoded=file_images(folder, files), labels=torch.arange(12) // 6, channels=3, size=None,
        broken=BrokenImages(1, lambda _: None),
    )  # fmt: skip
    settings: dict[str, Any] = {"fit": Fit("crop", 16), "batch_size": 12, "device": "cpu"}
    [batch] = evaluation_batches(images, substitute=True, **settings)
    assert batch.index.tolist() == [0, 1, 2, 3, 4, 6, 6, 7, 8, 9, 10, 11]
    assert batch.y.tolist() == [0] * 5 + [1] * 7
