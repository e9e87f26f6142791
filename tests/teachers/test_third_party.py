"""A checkpoint that somebody else trained: the standard CIFAR-10 ResNet-18 in pyautoattack's wheel."""

from __future__ import annotations

import io
import os
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch
from PIL import Image

from rrm_transfer.teachers.inspection import inspect_teacher
from rrm_transfer.teachers.loading import load_teacher
from tests.teachers.fixtures import pixels

_PACKAGE = find_spec("pyautoattack")
EXAMPLES = Path(_PACKAGE.origin or "").parent / "examples" if _PACKAGE is not None else Path("absent")
FILE = EXAMPLES / "model_test.pt"
CIFAR10 = Path(os.environ.get("RRM_TRANSFER_CIFAR10", "absent")) / "test.parquet"

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="pyautoattack's example is not installed")


def test_is_told_from_its_keys() -> None:
    facts = inspect_teacher(str(FILE))
    assert (facts["architecture"], facts["stem"], facts["width"], facts["classes"]) == (
        "resnet18",
        "cifar",
        512,
        10,
    )
    assert (facts["matched"], facts["missing"], facts["unexpected"], facts["wrong_shape"]) == (122, 0, 0, 0)
    assert facts["normalization"] == "unknown"


def test_computes_what_its_authors_network_computes() -> None:
    network = run_path(str(EXAMPLES / "resnet.py"))["ResNet18"]().eval()
    network.load_state_dict(torch.load(FILE, map_location="cpu", weights_only=True))
    teacher = load_teacher(str(FILE), channels=3, image_size=32, normalization="none")
    with torch.no_grad():
        torch.testing.assert_close(teacher.logits(pixels(count=4)), network(pixels(count=4)))


@pytest.mark.skipif(not CIFAR10.is_file(), reason="RRM_TRANSFER_CIFAR10 does not name CIFAR-10 as parquet")
def test_is_accurate_on_raw_pixels_only() -> None:
    from pyarrow import parquet

    rows = parquet.read_table(CIFAR10).slice(0, 500).to_pylist()
    images = [np.array(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    y = torch.tensor([row["label"] for row in rows])

    def accuracy(normalization: str, count: int) -> float:
        teacher = load_teacher(str(FILE), channels=3, image_size=32, normalization=normalization)
        with torch.no_grad():
            return float((teacher.logits(x[:count]).argmax(1) == y[:count]).float().mean())

    assert accuracy("none", 500) > 0.8
    assert accuracy("cifar10", 100) < 0.4
