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


def pytest_configure(config: pytest.Config) -> None:
    """Pins tests to the CPU, unless those of a GPU are asked for."""
    asked = str(config.option.markexpr)
    if "gpu" not in asked or "not gpu" in asked:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


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
