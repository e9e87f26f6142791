"""What a GPU has room for moves there once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rrm_transfer.core.devices import spare_bytes
from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.loader import TrainingLoader
from tests.data.fixtures import memory_images
from tests.gpu.test_training import no_waiting
from tests.training.features.test_cache import IMAGES, Setup

pytestmark = pytest.mark.gpu

AUGMENTATIONS = {
    "crop and flip": Augmentation(crop_padding=4, flip=True),
    "colours": Augmentation(jitter=0.1, lighting=0.05),
    "rotation": Augmentation(rotation=5),
}


def test_a_set_is_resident(gpu: torch.device) -> None:
    images = memory_images(256)
    assert images.pixels.nbytes < spare_bytes(gpu)
    assert images.pixels_for(gpu) is images.pixels_for(gpu)
    assert images.pixels_for(gpu).device == gpu


@pytest.mark.parametrize("changes", AUGMENTATIONS)
def test_batches_are_those_of_a_cpu_and_are_made_without_waiting(changes: str, gpu: torch.device) -> None:
    images = memory_images(512)
    here, there = (
        TrainingLoader(
            images, fit=Fit("none", 32), augmentation=AUGMENTATIONS[changes], global_batch_size=32, seed=0,
            device=device,
        ).epoch(0)
        for device in (gpu, "cpu")
    )  # fmt: skip
    made = [next(here)]
    with no_waiting():
        made += [next(here) for _ in range(10)]
    for mine, its in zip(made, there, strict=False):
        assert torch.equal(mine.index.cpu(), its.index)
        torch.testing.assert_close(mine.x.cpu(), its.x, atol=1e-5, rtol=0)


def test_a_cache_is_read_on_the_device(
    gpu: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RRM_TRANSFER_CACHE", str(tmp_path / "cache"))
    setup = Setup()
    setup.fill()
    positions = torch.randperm(IMAGES)[:20]
    (batch,) = setup.batches.batches([positions], view=1)
    cache = setup.cache
    said = setup.teacher.to(gpu)(batch.x).features
    torch.testing.assert_close(cache.read(1, positions).features, said, rtol=1e-3, atol=1e-4)
    with no_waiting():
        read = cache.read(1, positions)
    assert read.features.device == gpu
