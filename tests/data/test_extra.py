from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.extra import Extra, load_extra
from rrm_transfer.data.images import DataSet, MemoryImages
from rrm_transfer.data.sources import load_dataset_by_name
from tests.data.fixtures import encode, idx_bytes, noise, write_class_folders, write_idx_folder
from tests.data.test_parquet_source import write


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Ants and bees in colour, 20 x 20."""
    return load_dataset_by_name(str(write_class_folders(tmp_path / "labelled", count=10)))


def load(data: DataSet, *names: Path | str, labelled: bool = False, allowed: int = 0) -> Extra:
    broken = BrokenImages(allowed)
    return load_extra(
        [str(name) for name in names],
        data,
        share=0.5,
        labelled=labelled,
        broken=broken,
        indexes=[None] * len(names),
    )


def write_images(folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encode(noise(20, 20, 3, seed=number)))
    return folder


def write_unlabelled(path: Path, count: int = 7) -> Path:
    rows = [{"bytes": encode(noise(16, 16, 3, seed=i)), "path": None} for i in range(count)]
    schema = datasets.Features({"image": datasets.Image()}).arrow_schema
    pq.write_table(pa.table({"image": rows}, schema=schema), path)
    return path


def write_idx_images(path: Path, count: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(idx_bytes(noise(count, 28, 28)))
    return path


def write_npz(path: Path, count: int = 11) -> Path:
    np.savez(path, image=noise(count, 32, 32, 3), label=np.arange(count) % 2)
    return path


def test_sources_of_every_kind_need_no_classes(data: DataSet, tmp_path: Path) -> None:
    idx_file = write_idx_images(tmp_path / "one" / "pictures-idx3-ubyte")
    idx_file = idx_file.rename(idx_file.with_name("train-images-idx3-ubyte"))
    nested = write_images(tmp_path / "nested" / "a" / "b").parents[1]
    write_images(nested / "c", 2)
    sources: dict[Path | str, tuple[int, int]] = {
        write_images(tmp_path / "flat"): (6, 3),
        nested: (8, 3),
        write_unlabelled(tmp_path / "u.parquet"): (7, 3),
        write(tmp_path / "classes" / "train.parquet", 10).parent: (10, 3),
        idx_file: (9, 1),
        idx_file.parent: (9, 1),
        write_idx_folder(tmp_path / "idx", train=40, packed=True): (40, 1),
        write_npz(tmp_path / "generated.npz"): (11, 3),
        "fashion-mnist-mini": (10_000, 1),
    }
    extra = load(data, *sources)
    assert [(len(images), images.channels) for images in extra.sets] == list(sources.values())
    assert len(extra) == sum(count for count, _ in sources.values())
    assert all(not images.labels.any() for images in extra.sets)
    assert extra.description[0] == "6 of flat, 20x20 colour"
    assert extra.description[-1] == "10,000 of fashion-mnist-mini, 28x28 grey, made colour"


def test_images_to_test_on_are_left_alone(data: DataSet, tmp_path: Path) -> None:
    divided = tmp_path / "divided"
    write_images(divided / "train" / "x", 3)
    write_images(divided / "test" / "x", 5)
    assert len(load(data, divided)) == 3
    shutil.rmtree(divided / "train")
    only_tests = [divided, write(tmp_path / "p" / "test.parquet", 4)]
    for source in only_tests:
        with pytest.raises(UserError, match=r"images? to train on"):
            load(data, source)
    tests = tmp_path / "t" / "t10k-images-idx3-ubyte"
    with pytest.raises(UserError, match="images to train on"):
        load(data, write_idx_images(tests).parent)
    with pytest.raises(UserError, match="those of the data set itself"):
        load(data, data.source)


def test_classes_are_no_part_of_what_images_without_labels_are(data: DataSet, tmp_path: Path) -> None:
    one = write(tmp_path / "one" / "train.parquet", 10)
    other = write(tmp_path / "other" / "train.parquet", 10, labels=[1, 0] * 5)
    first, second = (load(data, path).sets[0] for path in (one, other))
    assert isinstance(first, MemoryImages)
    assert isinstance(second, MemoryImages)
    assert torch.equal(first.pixels, second.pixels)
    assert first.fingerprint == second.fingerprint
    assert load(data, one).identity == load(data, other).identity != load(data, one, other).identity


def test_labels_that_are_meant_must_be_the_same_classes(data: DataSet, tmp_path: Path) -> None:
    same = write(tmp_path / "same" / "train.parquet", 10)
    extra = load(data, same, write_npz(tmp_path / "g.npz"), labelled=True)
    assert extra.labelled
    assert extra.sets[0].labels.tolist() == [0, 1] * 5
    assert extra.sets[1].labels.tolist() == [i % 2 for i in range(11)]
    with pytest.raises(UserError, match="classes of the extra images"):
        load(data, write_class_folders(tmp_path / "wasps", ("ant", "wasp")), labelled=True)
    np.savez(tmp_path / "many.npz", image=noise(3, 8, 8), label=np.array([0, 1, 7]))
    with pytest.raises(UserError, match="out of range"):
        load(data, tmp_path / "many.npz", labelled=True)
    with pytest.raises(UserError, match="no column"):
        load(data, write_unlabelled(tmp_path / "u.parquet"), labelled=True)


def test_broken_images_are_counted_with_the_others(data: DataSet, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "flat")
    (folder / "3.png").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        load(data, folder)
    assert len(load(data, folder, allowed=1)) == 5


@pytest.mark.parametrize("name", ["nothing.npz", "nothing.parquet", "./nowhere"])
def test_sources_that_do_not_exist_are_named(name: str, data: DataSet) -> None:
    with pytest.raises(UserError, match="Unknown data set") as caught:
        load(data, name)
    assert caught.value.received == name


def test_empty_folders_are_mistakes(data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image to train on"):
        load(data, tmp_path / "empty")
