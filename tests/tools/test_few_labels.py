"""The division of a set into a few labelled images and the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rrm_transfer.data.idx import encode_idx, find_idx_images, find_idx_parts, read_idx, read_idx_part
from tools.benchmarks.few_labels import choose, divide


def test_both_parts_together_are_the_set_and_the_labelled_one_is_balanced(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3, dtype=np.uint8), 20)
    images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None], (60, 2, 2)).copy()
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(encode_idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(encode_idx(labels))
    divide(tmp_path, tmp_path / "few", 12)
    parts = find_idx_parts(tmp_path / "few/labelled")
    kept, named = read_idx_part(parts["train"])
    assert np.bincount(named).tolist() == [4, 4, 4]
    assert (labels[kept[:, 0, 0]] == named).all()
    assert (read_idx_part(parts["test"])[0] == images).all()
    others = read_idx(find_idx_images(tmp_path / "few/unlabelled"), dimensions=3)
    assert sorted([*kept[:, 0, 0], *others[:, 0, 0]]) == list(range(60))


@pytest.mark.parametrize("count", [0, 10, 63])
def test_a_count_that_cannot_be_divided_is_refused(count: int) -> None:
    with pytest.raises(SystemExit, match=f"--labels {count}: the same number for each of 3 classes"):
        choose(np.repeat(np.arange(3, dtype=np.uint8), 20), count)
