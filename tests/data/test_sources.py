from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.sources import load_dataset_by_name
from tests.data.fixtures import write_class_folders, write_idx_folder


def test_the_embedded_set_with_a_held_out_part() -> None:
    data = load_dataset_by_name("fashion-mnist-mini", held_out=0.1, seed=2)
    assert data.held_out is not None
    assert torch.bincount(data.held_out.labels).tolist() == [100] * 10
    assert data.description == (
        "fashion-mnist-mini: 9,000 training, 1,000 held-out and 2,000 test images, 28x28 grey, 10 classes"
    )
    again = load_dataset_by_name("fashion-mnist-mini", held_out=0.1, seed=2)
    assert again.train.fingerprint == data.train.fingerprint


@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_folder(tmp_path: Path, packed: bool) -> None:
    data = load_dataset_by_name(str(write_idx_folder(tmp_path, packed=packed)))
    assert (len(data.train), len(data.test), data.num_classes, data.channels) == (40, 8, 4, 1)


def test_a_path_that_is_not_there_lists_what_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_folders(tmp_path / "flowers")
    monkeypatch.chdir(tmp_path)
    for name in ("./flower", str(tmp_path / "flower"), "flower.parquet"):
        with pytest.raises(UserError, match="Unknown data set") as caught:
            load_dataset_by_name(name)
        assert caught.value.allowed is not None
        assert "fashion-mnist-mini" in caught.value.allowed
        assert caught.value.hint is not None
        assert "flowers" in caught.value.hint


def test_a_file_of_another_kind_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image,label\n")
    with pytest.raises(UserError, match="Unknown data set"):
        load_dataset_by_name(str(tmp_path / "train.csv"))
