"""How GPUs round and add up."""

from __future__ import annotations

import os
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


def prepare_determinism() -> None:
    """Has products of matrices add up in one order, where ``deterministic`` will be asked for.

    cuBLAS looks once, before its first product; see NVIDIA's cuBLAS documentation, "Results reproducibility".
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic() -> Iterator[None]:
    """Has GPUs add up in the same order every time for the block, where torch has kernels that do.

    Where it has none, it warns and goes on.
    """
    cudnn: Any = torch.backends.cudnn
    kernels: Any = torch.utils.deterministic  # torch makes a module of it when it is imported
    before = (cudnn.deterministic, cudnn.benchmark, kernels.fill_uninitialized_memory)
    enabled, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    # Memory that nothing has been written to is filled by default, for those who read it.
    cudnn.deterministic, cudnn.benchmark, kernels.fill_uninitialized_memory = True, False, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        cudnn.deterministic, cudnn.benchmark, kernels.fill_uninitialized_memory = before
