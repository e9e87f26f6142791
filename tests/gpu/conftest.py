"""What runs on a GPU or not at all: ``pytest -m gpu tests/gpu``. Everything else is pinned to the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rrm_transfer.runtime.processes import Runtime


@pytest.fixture(autouse=True)
def gpu() -> Iterator[torch.device]:
    """The device of this process, whose memory the test has to itself."""
    device = Runtime().device
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    torch.cuda.empty_cache()
    yield device
    torch.cuda.set_per_process_memory_fraction(1.0)
