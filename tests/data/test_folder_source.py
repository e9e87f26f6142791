from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from rrm_transfer.core.errors import UserError
from rrm_transfer.data import encoded
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.folder_source import index_image_folder
from rrm_transfer.data.images import LazyImages, MemoryImages
from rrm_transfer.data.sources import find_index, find_parts, load_dataset_by_name
from tests.data.fixtures import encode, file_images, noise, write_class_folders


@pytest.mark.parametrize("other", ["test", "val", "Validation"])
def test_a_divided_folder(tmp_path: Path, other: str) -> None:
    write_class_folders(tmp_path / "train", ("bee", "ant", "cat"))
    write_class_folders(tmp_path / other, ("ant", "cat"), count=2)
    data = load_dataset_by_name(str(tmp_path))
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert data.test.labels.tolist() == [0, 0, 2, 2]
    assert (data.num_classes, data.channels, data.train.size) == (3, 3, (20, 20))
    assert data.name == tmp_path.name
    assert isinstance(data.train, MemoryImages)
    ant = noise(20, 20, 3, seed=101).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.train.pixels[1].numpy(), ant)


def test_an_undivided_folder_is_cut(tmp_path: Path) -> None:
    data = load_dataset_by_name(str(write_class_folders(tmp_path, count=10)), held_out=0.25)
    assert data.held_out is not None
    assert (len(data.train), len(data.held_out), len(data.test)) == (12, 4, 4)
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert len(data.notes) == 2


def test_images_of_many_sizes_are_not_decoded(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    (tmp_path / "ant" / "0.png").write_bytes(encode(noise(30, 20, 3)))
    data = load_dataset_by_name(str(tmp_path))
    assert isinstance(data.train, LazyImages)
    assert data.train.size is data.test.size is None


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / "val")
    write_class_folders(tmp_path / "test")
    write_class_folders(tmp_path / "extra")
    (tmp_path / "train" / "ant" / "list.txt").write_text("0.png")
    (tmp_path / "train" / "ant" / ".DS_Store").write_text("")
    data = load_dataset_by_name(str(tmp_path))
    assert data.notes == (
        "folders that are not a part of the set are left out: extra",
        "1 files in train are not images by their names and are left out",
        "the source's validation part is not used",
    )


def test_an_empty_class_is_a_mistake(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match="1 of 3 class folders hold no image") as caught:
        load_dataset_by_name(str(tmp_path))
    assert "cat" in str(caught.value.received)


def test_a_class_without_training_folder_is_a_mistake(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / "test", ("ants",))
    with pytest.raises(UserError, match="no training folder") as caught:
        load_dataset_by_name(str(tmp_path))
    assert caught.value.hint == "did you mean ant?"


def test_folders_without_images_and_two_test_folders_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images by class"):
        load_dataset_by_name(str(tmp_path))
    for name in ("train", "val", "valid"):
        write_class_folders(tmp_path / name)
    with pytest.raises(UserError, match="same part"):
        load_dataset_by_name(str(tmp_path))


def test_the_order_is_that_of_sorted_paths(tmp_path: Path) -> None:
    names = [
        "ant/b/1.png",
        "ant/b.png",
        "ant/b-c/2.PNG",
        "ant/b/.hidden/3.png",
        "ant/z/y/x/4.jpg",
        "bee/1.png",
    ]
    for number, name in enumerate(names):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(number))
    (tmp_path / "ant" / "linked").symlink_to(tmp_path / "bee")  # a folder below a class is not followed
    (tmp_path / "ant" / "a.png").symlink_to(tmp_path / "bee" / "1.png")
    (tmp_path / "ant" / "gone.png").symlink_to(tmp_path / "nothing.png")
    found = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(found) == len(names) + 1
    images = index_image_folder(tmp_path).images["train"]
    assert [images[position] for position in range(len(images))] == found
    listing = "\n".join(f"{file.relative_to(tmp_path).as_posix()} {file.stat().st_size}" for file in found)
    assert images.identity == hashlib.sha256(listing.encode()).hexdigest()


@pytest.mark.parametrize("labelled", [True, False])
def test_a_process_that_was_told_the_index_lists_nothing(
    labelled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_class_folders(tmp_path / "train", count=600, size=(1, 1))
    if labelled:
        write_class_folders(tmp_path / "val")
    alone = find_parts(str(tmp_path), BrokenImages(), labelled=labelled).images
    told = pickle.loads(pickle.dumps(find_index(str(tmp_path), labelled=labelled)))
    listed: list[object] = []
    monkeypatch.setattr(os, "scandir", listed.append)
    monkeypatch.setattr(os, "listdir", listed.append)
    hashed: list[object] = []
    monkeypatch.setattr(encoded, "_mark", hashed.append)
    parts = find_parts(str(tmp_path), BrokenImages(), labelled=labelled, index=told).images
    assert parts.keys() == alone.keys()
    for part, images in alone.items():
        assert parts[part].fingerprint == images.fingerprint
        assert parts[part].labels.equal(images.labels)
    assert not listed
    assert not hashed


@pytest.mark.parametrize("change", ["gone", "another size"])
def test_a_process_that_sees_other_files_than_it_was_told_says_so(change: str, tmp_path: Path) -> None:
    file = write_class_folders(tmp_path) / "bee" / "3.png"
    told = find_index(str(tmp_path))
    file.unlink() if change == "gone" else file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match="does not see the images") as caught:
        load_dataset_by_name(str(tmp_path), index=told)
    assert str(file) in str(caught.value.received)


def test_an_index_is_small() -> None:
    """Of a file it keeps the name, where that ends, and the size; a path object takes a kilobyte."""
    names = [f"class-{number % 10}/image-{number:06}.jpg" for number in range(1000)]
    with mock.patch.object(encoded, "_mark", return_value=(1, "1")):
        images = encoded.FileImages(Path("root"), names)
    assert len(pickle.dumps(images)) < sum(map(len, names)) + 20 * len(names)
    assert images[17] == Path("root/class-7/image-000017.jpg")
    assert images[-1] == Path("root/class-9/image-000999.jpg")


def test_other_pixels_in_files_of_the_same_size_are_other_images(tmp_path: Path) -> None:
    file = tmp_path / "a.bmp"
    identities = set()
    for colour in (0, 200):
        Image.new("RGB", (64, 64), (colour, 0, 0)).save(file)
        identities.add(file_images(tmp_path, [file]).identity)
    assert len(identities) == 2
