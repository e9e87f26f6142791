from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from rrm_transfer.core.errors import UserError
from rrm_transfer.data import decoding
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.decoding import EncodedPart, image_sets
from rrm_transfer.data.encoded import ColumnImages, EncodedImages, decode
from rrm_transfer.data.images import LazyImages, MemoryImages
from tests.data.fixtures import encode, file_images, noise, write_class_folders


def column(*images: bytes | None) -> ColumnImages:
    structs = [{"bytes": image, "path": None} for image in images]
    return ColumnImages(pa.chunked_array([structs]), origin="the train part", identity="x", roots=[])


def part(*images: bytes | None) -> EncodedPart:
    return EncodedPart(column(*images), torch.zeros(len(images), dtype=torch.int64))


def test_lossless_images_come_back_exactly() -> None:
    colour, grey = noise(6, 5, 3), noise(6, 5)
    np.testing.assert_array_equal(decode(column(encode(colour)), 0, channels=3), colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(decode(column(encode(grey)), 0, channels=1), grey[None])
    np.testing.assert_array_equal(decode(column(encode(grey)), 0, channels=3), np.stack([grey] * 3))


def test_a_box_is_cut_before_it_is_resized() -> None:
    pixels = noise(40, 30, 3)
    framed = decode(column(encode(pixels)), 0, channels=3, box=lambda h, w: (2, 3, h - 10, w - 12))
    np.testing.assert_array_equal(framed, pixels[2:32, 3:21].transpose(2, 0, 1))
    small = decode(column(encode(pixels)), 0, channels=3, box=lambda h, w: (0, 0, 16, 16), size=8)
    expected = Image.fromarray(pixels).crop((0, 0, 16, 16)).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small, np.asarray(expected).transpose(2, 0, 1))


def test_a_draft_shows_the_same_part_of_the_picture() -> None:
    rows, columns = np.mgrid[0:256, 0:320]
    smooth = np.stack([rows * 255 // 255, columns * 255 // 319, (rows + columns) // 3], -1).astype(np.uint8)
    stored = column(encode(smooth, "JPEG"))
    kinds = [
        decode(stored, 0, channels=3, box=lambda h, w: (30, 40, 200, 240), size=32, draft=draft).astype(int)
        for draft in (False, True)
    ]
    assert kinds[0].shape == (3, 32, 32)
    assert np.abs(kinds[0] - kinds[1]).max() < 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"<html>not found</html>", "cannot be read"),
        (encode(noise(64, 64, 3))[:3000], "cannot be read"),
        (encode(noise(64, 64, 3), "JPEG")[:600], "cannot be read"),
        (None, "no image where one should be"),
    ],
)
def test_a_broken_image_is_named_with_its_position(content: bytes | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        decode(column(encode(noise(4, 4, 3)), content), 1, channels=3)
    assert "image 1 of the train part" in str(caught.value.received)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_too_large_to_be_trusted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = column(encode(noise(30, 30, 3)), encode(noise(60, 60, 3)))
    for limit in (899, 400):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError, match="too large to be trusted"):
            decode(stored, 0 if limit == 899 else 1, channels=3)


def test_deep_pixels_and_stray_colour_are_refused() -> None:
    with pytest.raises(UserError, match="8 bits"):
        decode(column(encode(noise(4, 4).astype(np.uint16))), 0, channels=1)
    with pytest.raises(UserError, match="colour image in a set"):
        decode(column(encode(noise(4, 4, 3))), 0, channels=1)


def test_a_path_in_a_table_is_followed_to_a_file_of_the_set_and_to_no_other(tmp_path: Path) -> None:
    pixels, root = noise(4, 4, 3), tmp_path / "set"
    root.mkdir()
    for folder in (root, tmp_path):
        (folder / "a.png").write_bytes(encode(pixels))
    (root / "link.png").symlink_to(tmp_path / "a.png")
    inside = ["a.png", str(root / "a.png")]
    outside = ["missing.png", "../a.png", str(tmp_path / "a.png"), "link.png", "a\0b", "a" * 5000]
    rows = [{"bytes": None, "path": path} for path in inside + outside]
    images = ColumnImages(pa.chunked_array([rows]), origin="the test part", identity="x", roots=[root])
    for position in range(len(inside)):
        np.testing.assert_array_equal(decode(images, position, channels=3), pixels.transpose(2, 0, 1))
    for position in range(len(inside), len(rows)):
        with pytest.raises(UserError, match="no image"):
            decode(images, position, channels=3)


def test_small_images_of_one_size_are_held_in_memory() -> None:
    pixels = noise(600, 8, 8, 3)
    sets = image_sets({"train": part(*map(encode, pixels)), "test": part(encode(pixels[0]))}, BrokenImages())
    train = sets["train"]
    assert isinstance(train, MemoryImages)
    np.testing.assert_array_equal(train.pixels.numpy(), pixels.transpose(0, 3, 1, 2))
    assert sets["test"].size == (8, 8)


def test_grey_images_among_colour_ones_become_colour() -> None:
    sets = image_sets(
        {"train": part(encode(noise(8, 8))), "test": part(encode(noise(8, 8, 3)))}, BrokenImages()
    )
    assert [images.channels for images in sets.values()] == [3, 3]


def test_large_or_unequal_images_are_decoded_on_access(monkeypatch: pytest.MonkeyPatch) -> None:
    same, other = encode(noise(8, 8, 3)), encode(noise(8, 9, 3))
    unequal = image_sets({"train": part(same), "test": part(other)}, BrokenImages())
    assert isinstance(unequal["train"], LazyImages)
    assert unequal["train"].size is None
    monkeypatch.setattr(decoding, "SURVEYED", 2)
    late = image_sets({"train": part(same, other, same)}, BrokenImages())["train"]
    assert isinstance(late, LazyImages)
    assert late.size is None
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 2 * 8 * 8 * 3)
    large = image_sets({"train": part(same, same, same)}, BrokenImages())["train"]
    assert isinstance(large, LazyImages)
    assert large.size == (8, 8)


@pytest.mark.parametrize("kind", ["memory", "parquet"])
def test_broken_images_are_named_and_counted_and_refused_above_a_limit(kind: str, tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path, count=4)
    files = sorted(folder.rglob("*.png"))
    files[6].write_bytes(files[6].read_bytes()[:100])
    if kind == "memory":
        encoded: EncodedImages = file_images(folder, files)
        files[2].unlink()
    else:
        contents = [file.read_bytes() if number != 2 else None for number, file in enumerate(files)]
        encoded = column(*contents)
    stored = {"train": EncodedPart(encoded, torch.arange(8))}
    for limit in (0, 1):
        with pytest.raises(UserError, match="2 images cannot be read") as caught:
            image_sets(stored, BrokenImages(limit))
        assert "image 2" in str(caught.value.received)
        assert "image 6" in str(caught.value.received)
    warnings: list[str] = []
    images = image_sets(stored, BrokenImages(2, warnings.append))["train"]
    assert images.labels.tolist() == images.index.tolist() == [0, 1, 3, 4, 5, 7]
    assert isinstance(images, MemoryImages)
    np.testing.assert_array_equal(images.pixels[2].numpy(), decode(encoded, 3, channels=3))
    assert ["image 2" in warnings[0], "(2 of 2 allowed)" in warnings[1], len(warnings)] == [True, True, 2]


def test_many_broken_images_are_named_in_part() -> None:
    with pytest.raises(UserError, match="30 images cannot be read") as caught:
        image_sets({"train": part(*[b""] * 30)}, BrokenImages())
    assert "and 20 more" in str(caught.value.received)
