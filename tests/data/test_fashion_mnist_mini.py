from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.fashion_mnist_mini import FOLDER, build, main
from rrm_transfer.data.idx import find_idx_parts, read_idx_part
from rrm_transfer.data.idx_source import load_fashion_mnist_mini, load_idx_folder
from tests.data.fixtures import write_idx_folder

FULL = os.environ.get("RRM_TRANSFER_FASHION_MNIST")
needs_full_set = pytest.mark.skipif(not FULL, reason="RRM_TRANSFER_FASHION_MNIST names no folder")


def test_it_is_balanced_named_and_licensed() -> None:
    parts = load_fashion_mnist_mini()
    assert parts.name == "fashion-mnist-mini"
    assert torch.bincount(parts.images["train"].labels).tolist() == [1000] * 10
    assert torch.bincount(parts.images["test"].labels).tolist() == [200] * 10
    assert parts.class_names is not None
    assert len(parts.class_names) == 10
    assert parts.class_names[9] == "Ankle boot"
    assert parts.license == "MIT"
    license = (FOLDER / "LICENSE.fashion-mnist").read_text()
    assert "Copyright (c) 2017 Zalando SE" in license
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 8_000_000


@needs_full_set
def test_building_it_again_gives_the_same_files(tmp_path: Path) -> None:
    assert FULL is not None
    assert main([FULL, str(tmp_path)]) == 0
    for name, part in find_idx_parts(FOLDER).items():
        again = find_idx_parts(tmp_path)[name]
        # Compared unpacked: another zlib may pack the same bytes differently.
        for array, rebuilt in zip(read_idx_part(part), read_idx_part(again), strict=True):
            assert array.tobytes() == rebuilt.tobytes()
        assert [file.name for file in part] == [file.name for file in again]


@needs_full_set
def test_the_full_set_is_recognised_by_its_labels() -> None:
    assert FULL is not None
    parts = load_idx_folder(Path(FULL))
    assert (parts.name, parts.license) == ("fashion-mnist", "MIT")
    assert parts.class_names == load_fashion_mnist_mini().class_names
    assert len(parts.images["train"]) == 60_000


def test_other_idx_folders_get_no_class_names(tmp_path: Path) -> None:
    parts = load_idx_folder(write_idx_folder(tmp_path / "mnist"))
    assert (parts.name, parts.class_names, parts.license) == ("mnist", None, None)


def test_a_source_with_too_few_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_idx_folder(tmp_path / "small")
    with pytest.raises(UserError, match="fewer than 1000 images"):
        build(source, tmp_path / "target")
    assert main([str(source), str(tmp_path / "target")]) == 2
    assert "fewer than 1000" in capsys.readouterr().err
    assert main([]) == 2
