"""How torch rounds float32 on GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Has GPUs compute float32 in float32 for the block.

    By the settings that torch 2.9 introduced, where it has them: it refuses to read the older ones once
    somebody has set the newer.
    """
    cudnn: Any = torch.backends.cudnn  # torch types some of it as a module
    matmul = torch.backends.cuda.matmul
    settings: list[tuple[Any, str, object]] = [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
    if hasattr(matmul, "fp32_precision"):
        settings = [(place, "fp32_precision", "ieee") for place in (matmul, cudnn.conv, cudnn.rnn)]
    before = [getattr(place, name) for place, name, _ in settings]
    for place, name, value in settings:
        setattr(place, name, value)
    try:
        yield
    finally:
        for (place, name, _), value in zip(settings, before, strict=True):
            setattr(place, name, value)
