"""No test reaches a network, the user's cache or a second thread; a tiny data set and its teacher for all."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path

os.environ.update({"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"})
os.environ.update({"RRM_TRANSFER_CACHE": tempfile.mkdtemp(prefix="rrm-transfer-tests-")})

import pytest
import torch

from tests.support import tiny

# Under nohup, or in the background of a script, they are ignored, also by every process that the tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
gc.freeze()  # what was imported stays: collections need not look at it

LONG = (
    "tests/documentation/test_snippets.py",
    "tests/runtime/test_processes.py",
    "tests/test_recipes.py",
    "tests/runs/test_survival.py",
    "tests/documentation/test_site.py",
    "tests/runtime/test_parallel.py",
    "tests/test_hub.py",
)
"""Files whose tests take half a minute or more, the longest first: begun last, one would run alone."""


def pytest_configure(config: pytest.Config) -> None:
    """Pins tests to the CPU, unless those of a GPU are asked for."""
    asked = str(config.option.markexpr)
    if "gpu" not in asked or "not gpu" in asked:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long files first, each of which one process works through."""
    begun = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: begun.get(item.location[0], len(LONG)))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An idx folder of 64 training and 32 test images in four classes that are easy to tell apart."""
    return tiny.write_data(tmp_path_factory.mktemp("data") / "quarters")


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock timm folder: a network that tells the tiny data apart, also under attack."""
    return tiny.write_teacher(tmp_path_factory.mktemp("teacher") / "tiny-teacher")


def pytest_unconfigure() -> None:
    gc.unfreeze()
    shutil.rmtree(os.environ["RRM_TRANSFER_CACHE"], ignore_errors=True)
