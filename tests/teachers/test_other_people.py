"""Checkpoints that other people published, as teachers through a factory of the user's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torch import nn

from rrm_transfer.recipe.schema import TeacherSection
from rrm_transfer.runs.candidates import quick_accuracy
from rrm_transfer.runtime.context import Context
from rrm_transfer.teachers.inspection import inspect_teacher

CIFAR10 = Path(os.environ.get("RRM_TRANSFER_CIFAR10", "absent")) / "test.parquet"
PAIR = Path(os.environ.get("RRM_TRANSFER_THIRD_PARTY", "absent"))
needs_pair = pytest.mark.skipif(
    not PAIR.is_dir(), reason="RRM_TRANSFER_THIRD_PARTY does not name other people's checkpoints"
)
OVAL = "0.485,0.456,0.406/0.225,0.225,0.225"


def oval() -> nn.Module:
    """Makes the network of the pair in oval-bab."""
    convolutions = (nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU())
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10))


def kw() -> nn.Module:
    """Makes the Fashion-MNIST network of convex_adversarial, which takes one channel and 28 pixels only."""
    convolutions = (nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU())
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10))


@needs_pair
@pytest.mark.skipif(not CIFAR10.is_file(), reason="RRM_TRANSFER_CIFAR10 does not name CIFAR-10 as parquet")
def test_the_undefended_twin_is_told_from_the_robust_network() -> None:
    factory = "tests.teachers.test_other_people:oval"
    verdicts = {}
    for name in ("cifar_madry_8px", "cifar_sgd_8px"):
        source = TeacherSection(name=str(PAIR / f"{name}.pth"), arch=factory, normalization=OVAL)
        code = frozenset({factory})
        found = quick_accuracy(source, str(CIFAR10.parent), Context.begin(), allow_code=code)
        verdicts[name] = str(found["verdict"])
    assert verdicts == {
        "cifar_madry_8px": "accurate, but only WEAKLY robust",
        "cifar_sgd_8px": "accurate, NOT robust",
    }


@needs_pair
def test_a_grey_network_of_one_size_is_inspected_without_being_told_either() -> None:
    factory = "tests.teachers.test_other_people:kw"
    file = str(PAIR / "kw_fashion_mnist.pth")
    facts = inspect_teacher(file, arch=factory, allow_code=frozenset({factory}))
    assert (facts["channels"], facts["image_size"], facts["width"], facts["fits"]) == (1, 28, 100, True)
