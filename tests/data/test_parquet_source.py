from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data import parquet_source
from rrm_transfer.data.images import MemoryImages
from rrm_transfer.data.sources import load_dataset_by_name
from tests.data.fixtures import encode, noise

CIFAR10 = os.environ.get("RRM_TRANSFER_CIFAR10")
NAMES = ["ant", "bee"]


def write(path: Path, count: int = 10, *, features: bool = True, labels: list[Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": encode(noise(16, 16, 3, seed=i)), "path": None} for i in range(count)]
    columns = {"image": rows, "label": [i % 2 for i in range(count)] if labels is None else labels}
    schema = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    pq.write_table(pa.table(columns, schema=schema.arrow_schema if features else None), path)
    return path


def test_a_folder_of_parts(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train-00000-of-00002.parquet")
    write(tmp_path / "set" / "train-00001-of-00002.parquet", 4)
    write(tmp_path / "set" / "test.parquet", 6)
    data = load_dataset_by_name(str(tmp_path / "set"))
    assert (data.name, data.class_names, len(data.train), len(data.test)) == ("set", ("ant", "bee"), 14, 6)
    assert isinstance(data.train, MemoryImages)
    np.testing.assert_array_equal(data.train.pixels[11].numpy(), noise(16, 16, 3, seed=1).transpose(2, 0, 1))
    assert data.train.labels.tolist() == [0, 1] * 7


def test_a_snapshot_of_a_repository_and_one_file(tmp_path: Path) -> None:
    file = write(tmp_path / "data" / "all.parquet", 20, features=False)
    for name in (tmp_path, file):
        data = load_dataset_by_name(str(name))
        assert (len(data.train), len(data.test), data.class_names) == (16, 4, None)
    assert data.name == "all"


def test_a_validation_file_alone_can_be_evaluated_on(tmp_path: Path) -> None:
    data = load_dataset_by_name(str(write(tmp_path / "birds" / "validation.parquet")))
    assert (data.name, len(data.train), len(data.test)) == ("birds", 0, 10)


def test_a_large_table_is_memory_mapped_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "set" / "all.parquet", 20)
    expected = load_dataset_by_name(str(file))
    monkeypatch.setattr(parquet_source, "ENCODED_LIMIT", 1000)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = load_dataset_by_name(str(file))
    assert any((tmp_path / "cache").rglob("*.arrow"))
    assert data.train.fingerprint == expected.train.fingerprint
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(UserError, match="does not fit on the disk"):
        load_dataset_by_name(str(file))


def test_damaged_files_and_unclear_names_are_mistakes(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(UserError, match="cannot be read"):
        load_dataset_by_name(str(tmp_path))
    write(tmp_path / "train.parquet")
    write(tmp_path / "extra.parquet")
    with pytest.raises(UserError, match="unclear") as caught:
        load_dataset_by_name(str(tmp_path))
    assert caught.value.received == "extra.parquet"


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 1, None, 0], "first at position 2"), ([0, 1, 7, 0], "label 7"), ([0, 0, 0, 0], "bee")],
)
def test_wrong_labels_are_mistakes(tmp_path: Path, labels: list[Any], message: str) -> None:
    write(tmp_path / "train.parquet", 4, labels=labels)
    write(tmp_path / "test.parquet")
    with pytest.raises(UserError, match=message):
        load_dataset_by_name(str(tmp_path))


@pytest.mark.parametrize(
    "note",
    [
        b"no json", b"null", b"3", b'{"info": null}', b'{"info": {"features": 3}}', b"[" * 100_000, b"\xff",
        b'{"info": {"features": {"image": 3}}}', b'{"info": {"features": {"image": {"_type": "Nope"}}}}',
        b'{"info": {"features": {"image": {"_type": "ClassLabel", "num_classes": 1000000000}}}}',
        b'{"info": {"features": {"image": {"_type": "Value", "dtype": "int99"}}}}',
    ],
)  # fmt: skip
def test_a_note_of_the_columns_that_is_none_is_told(note: bytes, tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "train.parquet"))
    pq.write_table(table.replace_schema_metadata({"huggingface": note}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="metadata do not describe its columns"):
        load_dataset_by_name(str(tmp_path))


def test_a_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 1 << 17
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    pq.write_table(
        pa.table({"image": [None] * rows, "label": [0] * rows}, schema), tmp_path / "train.parquet"
    )
    with pytest.raises(UserError, match="far more than its size"):
        load_dataset_by_name(str(tmp_path))
    # One image that is kept once, and named by every row: not even the footer says what comes of it.
    same = pa.array([b"\x89PNG" + bytes(1 << 17)] * 700, pa.binary())
    pq.write_table(
        pa.table({"image": same, "label": [0, 1] * 350}), tmp_path / "train.parquet", compression="zstd"
    )
    assert (tmp_path / "train.parquet").stat().st_size < 1 << 16
    with pytest.raises(UserError, match="unpacked more than"):
        load_dataset_by_name(str(tmp_path))


@pytest.mark.skipif(not CIFAR10, reason="RRM_TRANSFER_CIFAR10 names no folder")
def test_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CIFAR10 is not None
    data = load_dataset_by_name(str(Path(CIFAR10) / "test.parquet"))
    assert data.class_names is not None
    assert data.class_names[0] == "airplane"
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.test.description == "32x32 colour"
