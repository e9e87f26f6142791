from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data import images as images_module
from rrm_transfer.data.images import DataSet, LazyImages, MemoryImages
from tests.data.fixtures import file_images, memory_images, write_class_folders


def lazy_images(folder: Path) -> LazyImages:
    files = sorted(write_class_folders(folder).rglob("*.png"))
    return LazyImages(
        encoded=file_images(folder, files), labels=torch.arange(10) // 5, channels=3, size=(20, 20)
    )


def test_selecting_keeps_ids_and_labels() -> None:
    images = memory_images()
    once = images.select([30, 3, 5])
    twice = once.select(torch.tensor([2, 0]))
    assert twice.index.tolist() == [5, 30]
    assert torch.equal(twice.labels, images.labels[[5, 30]])
    assert torch.equal(twice.pixels, images.pixels[[5, 30]])
    assert len(images.select([])) == 0


def test_the_fingerprint_is_that_of_content_labels_and_selection() -> None:
    images = memory_images()
    same = memory_images()
    assert images.fingerprint == same.fingerprint
    assert len(images.fingerprint) == 64
    pixels, labels = images.pixels.clone(), images.labels.clone()
    pixels[7, 0, 0, 0] ^= 1
    labels[7] = 3 - labels[7]
    others = [
        MemoryImages(pixels=pixels, labels=images.labels),
        MemoryImages(pixels=images.pixels, labels=labels),
        MemoryImages(pixels=images.pixels, labels=images.labels, index=torch.arange(40) + 1),
        images.select(range(39)),
        images.select([]),
        images.select(list(reversed(range(40)))),
    ]
    assert len({images.fingerprint, *(other.fingerprint for other in others)}) == 7
    assert images.select([4, 2]).fingerprint == same.select([4, 9, 2]).select([0, 2]).fingerprint


def test_a_set_moves_to_an_accelerator_once_if_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    images, device, spare = memory_images(), torch.device("cpu"), 0
    monkeypatch.setattr(images_module, "spare_bytes", lambda device: spare)
    assert images.pixels_for(device) is images.pixels
    spare = images.pixels.nbytes
    moved = images.pixels_for(device)
    spare = 0  # it has taken the room
    assert images.pixels_for(device) is moved


def test_lazy_images_have_ids_and_fingerprints_too(tmp_path: Path) -> None:
    images = lazy_images(tmp_path / "a")
    part = images.select([9, 1])
    assert part.index.tolist() == [9, 1]
    assert part.labels.tolist() == [1, 0]
    assert part.fingerprint != images.fingerprint
    assert images.fingerprint == lazy_images(tmp_path / "b").fingerprint
    (tmp_path / "a" / "ant" / "0.png").write_bytes(b"another picture")
    changed = file_images(tmp_path / "a", sorted((tmp_path / "a").rglob("*.png")))
    other = LazyImages(encoded=changed, labels=images.labels, channels=3, size=(20, 20))
    assert other.fingerprint != images.fingerprint


def test_sets_describe_themselves() -> None:
    grey = memory_images(channels=1, size=28)
    data = DataSet("toy", grey, None, grey.select(range(8)), None, 4, 1, None, "here")
    assert data.description == "toy: 40 training and 8 test images, 28x28 grey, 4 classes"
    assert memory_images().description == "32x32 colour"


def test_a_balanced_sample_has_the_first_images_of_each_class_in_their_order() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    images = MemoryImages(pixels=torch.zeros(6, 1, 2, 2, dtype=torch.uint8), labels=labels).select(
        [5, 0, 1, 3, 2, 4]
    )
    few = images.balanced(4)
    assert few.index.tolist() == [5, 0, 1, 3]
    assert images.positions_of(few) == [0, 1, 2, 3]
    assert images.balanced(3).index.tolist() == [5, 0, 3]
    for whole in (None, 6, 7):
        assert images.balanced(whole) is images
        assert images.positions_of(images.balanced(whole)) is None
    left = images.balanced(None, skip=3)
    assert sorted([*left.index.tolist(), 5, 0, 3]) == sorted(images.index.tolist())
    assert images.balanced(1, skip=3).index.tolist() == images.balanced(4).select([2]).index.tolist()
    with pytest.raises(UserError, match="No image is left"):
        images.balanced(None, skip=len(images))
