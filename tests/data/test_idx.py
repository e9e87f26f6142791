from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.idx import encode_idx, find_idx_parts, read_idx, read_idx_part
from tests.data.fixtures import idx_bytes, noise, write_idx_folder


@pytest.mark.parametrize("packed", [False, True])
def test_reads_plain_and_packed_files(tmp_path: Path, packed: bool) -> None:
    images = noise(3, 5, 7)
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(idx_bytes(images)) if packed else idx_bytes(images))
    np.testing.assert_array_equal(read_idx(path, dimensions=3), images)


def test_encoding_is_read_back_and_carries_no_time(tmp_path: Path) -> None:
    labels = noise(9)
    content = encode_idx(labels)
    (tmp_path / "labels").write_bytes(content)
    np.testing.assert_array_equal(read_idx(tmp_path / "labels", dimensions=1), labels)
    assert content[4:8] == bytes(4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>a page, not a data set</html>", "Not an idx file"),
        (b"", "Not an idx file"),
        (idx_bytes(noise(4)), "Not an idx file"),
        (idx_bytes(noise(2, 3, 3))[:-1], "17 follow"),
        (idx_bytes(noise(2, 3, 3)) + b"x", "more follow"),
        (gzip.compress(idx_bytes(noise(2, 3, 3)), mtime=0)[:-12], "damaged"),
        (b"\x1f\x8b" + bytes(20), "damaged"),
    ],
)
def test_refuses_what_is_not_whole(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_idx(tmp_path / "images", dimensions=3)


def test_unpacks_no_more_than_the_header_announces(tmp_path: Path) -> None:
    header = struct.pack(">HBBIII", 0, 8, 3, 1, 2, 2)
    (tmp_path / "bomb").write_bytes(gzip.compress(header + bytes(1 << 24)))
    with pytest.raises(UserError, match="4 bytes, more follow"):
        read_idx(tmp_path / "bomb", dimensions=3)


def test_finds_both_parts_and_prefers_neither_spelling(tmp_path: Path) -> None:
    parts = find_idx_parts(write_idx_folder(tmp_path))
    assert set(parts) == {"train", "test"}
    images, labels = read_idx_part(parts["test"])
    assert images.shape == (8, 28, 28)
    assert labels.tolist() == [0, 1, 2, 3] * 2


def test_a_set_that_lies_there_packed_and_unpacked_is_one_set(tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    write_idx_folder(tmp_path, packed=True)
    assert all(path.suffix != ".gz" for part in find_idx_parts(tmp_path).values() for path in part)


def test_a_missing_file_and_two_candidates_are_mistakes(tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    twin = tmp_path / "letters-train-images-idx3-ubyte"
    twin.write_bytes(b"")
    with pytest.raises(UserError, match="exactly one file with the images"):
        find_idx_parts(tmp_path)
    twin.unlink()
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="labels of its test part"):
        find_idx_parts(tmp_path)


def test_images_and_labels_must_agree_in_number(tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(noise(39)))
    with pytest.raises(UserError, match="differ in number"):
        read_idx_part(find_idx_parts(tmp_path)["train"])
