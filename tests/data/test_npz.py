from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data import npz
from rrm_transfer.data.npz import read_npz
from rrm_transfer.data.npz_source import load_npz
from tests.data.fixtures import noise

IMAGES = noise(30, 12, 10, 3)
LABELS = np.arange(30) % 4


def saved(path: Path, *, packed: bool = False, **arrays: Any) -> Path:
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_are_what_numpy_wrote(tmp_path: Path, packed: bool) -> None:
    path = saved(tmp_path / "a.npz", packed=packed, image=IMAGES, label=LABELS)
    found = {array.name: array for array in read_npz(path)}
    assert np.array_equal(found["image"].read(), IMAGES)
    assert np.array_equal(found["label"].read(), LABELS)
    assert isinstance(found["image"].read(), np.memmap) is not packed


def test_large_compressed_arrays_are_unpacked_once_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "UNPACKED_LIMIT", 100)
    monkeypatch.setattr(npz, "_PIECE", 1000)
    monkeypatch.setenv("RRM_TRANSFER_CACHE", str(tmp_path / "cache"))
    path = saved(tmp_path / "a.npz", packed=True, image=IMAGES)
    (array,) = read_npz(path)
    assert np.array_equal(array.read(), IMAGES)
    (unpacked,) = (tmp_path / "cache" / "images").iterdir()
    before = unpacked.stat().st_mtime_ns
    assert isinstance(array.read(), np.memmap)
    assert unpacked.stat().st_mtime_ns == before
    # Damage in the middle of the packed bytes is found before anything is kept.
    unpacked.unlink()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        array.read()
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_what_is_mapped_stays_as_it_is_in_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", image=IMAGES)
    before = path.read_bytes()
    read_npz(path)[0].read()[:] = 0
    assert path.read_bytes() == before


def test_the_identity_is_that_of_the_content(tmp_path: Path) -> None:
    changed = IMAGES.copy()
    changed[17, 3, 3, 1] ^= 1
    names = {"a": IMAGES, "b": IMAGES, "c": changed}
    a, b, c = (read_npz(saved(tmp_path / f"{n}.npz", image=v))[0].identity for n, v in names.items())
    assert a == b != c


class _Trap:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("trapped"),)


def _objects(path: Path) -> None:
    saved(path, image=np.array([_Trap()], dtype=object))


def _columns_first(path: Path) -> None:
    saved(path, image=np.asfortranarray(IMAGES))


def _member(path: Path, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("image.npy", content)


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _short(path: Path) -> None:
    _member(path, _npy(IMAGES)[:-5])


def _announces_more(path: Path) -> None:
    _member(path, _npy(IMAGES).replace(b"(30, 12, 10, 3)", b"(9999999, 9, 9)"))


def _other_compression(path: Path) -> None:
    _member(path, _npy(IMAGES), zipfile.ZIP_LZMA)


def _truncated(path: Path) -> None:
    saved(path, image=IMAGES)
    path.write_bytes(path.read_bytes()[:3000])


def _no_array(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no array")


def _garbage(path: Path) -> None:
    _member(path, b"this is no array at all")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_objects, "pickled objects"),
        (_columns_first, "column by column"),
        (_short, "another size"),
        (_announces_more, "another size"),
        (_other_compression, "compressed in a way"),
        (_truncated, "cannot be read"),
        (_no_array, "holds no array"),
        (_garbage, "cannot be read"),
    ],
)
def test_other_files_are_mistakes(
    write: Callable[[Path], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.npz")
    with pytest.raises(UserError, match=message):
        read_npz(tmp_path / "a.npz")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("array", "channels"),
    [
        (IMAGES, 3),
        (IMAGES.transpose(0, 3, 1, 2).copy(), 3),
        (IMAGES[..., 0].copy(), 1),
        (IMAGES[..., :1].copy(), 1),
    ],
)
def test_channels_are_found_wherever_they_are(array: Any, channels: int, tmp_path: Path) -> None:
    parts = load_npz(saved(tmp_path / "a.npz", image=array), labelled=False)
    images = parts.images["train"]
    assert (len(images), images.channels, images.size) == (30, channels, (12, 10))
    expected = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)[:, :channels].copy())
    assert torch.equal(images.pixels[:], expected)  # type: ignore[attr-defined]
    assert torch.equal(images.select([3, 4]).pixels, expected[3:5])  # type: ignore[attr-defined]
    assert images.select([3]).fingerprint != images.select([4]).fingerprint


def test_labels_are_read_where_they_are_meant_and_not_looked_at_otherwise(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", image=IMAGES, label=LABELS)
    other = saved(tmp_path / "b.npz", image=IMAGES, label=LABELS[::-1])
    assert load_npz(path, labelled=True).images["train"].labels.tolist() == LABELS.tolist()
    plain, changed = (load_npz(file, labelled=False).images["train"] for file in (path, other))
    assert plain.fingerprint == changed.fingerprint
    with pytest.raises(UserError, match="labels"):
        load_npz(saved(tmp_path / "c.npz", image=IMAGES), labelled=True)
    with pytest.raises(UserError, match="other than images"):
        load_npz(saved(tmp_path / "d.npz", image=IMAGES, label=LABELS[:7]), labelled=True)


@pytest.mark.parametrize(
    "arrays",
    [{"image": IMAGES / 255}, {"image": IMAGES[:0]}, {"image": noise(4, 5, 6, 7)}, {"z": IMAGES}],
)
def test_arrays_that_are_no_images_are_mistakes(arrays: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other than images|no array that"):
        load_npz(saved(tmp_path / "a.npz", **arrays), labelled=False)
