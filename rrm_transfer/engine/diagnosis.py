"""What of this machine and installation a run depends on."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub import require_hub
from rrm_transfer.engine.run_folder import library_versions

OPTIONAL = (
    "pyautoattack",
    "imagecorruptions-imaug",
    "submitit",
    "tensorboard",
    "wandb",
    "trackio",
    "onnx",
    "onnxruntime",
    "onnxscript",
)
_GIB = 1 << 30


def diagnose() -> dict[str, Any]:
    """Returns versions, devices, precision, memory, disk space and whether the model hub can be reached."""
    from huggingface_hub import constants

    return {
        "versions": {"python": platform.python_version(), **library_versions(), "cuda": torch.version.cuda},
        "optional": {name: _version(name) for name in OPTIONAL},
        "platform": platform.platform(),
        "devices": _devices(),
        "bf16_in_hardware": _bf16(),
        "memory_gib": {
            "total": round(psutil.virtual_memory().total / _GIB, 1),
            "available": round(psutil.virtual_memory().available / _GIB, 1),
        },
        "disk_free_gib": {
            "working folder": _free(Path.cwd()),
            "hub cache": _free(Path(constants.HF_HUB_CACHE)),
        },
        "hub": _hub(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append(
            {"kind": "cuda", "name": properties.name, "memory_gib": round(properties.total_memory / _GIB, 1)}
        )
    if torch.backends.mps.is_available():
        found.append({"kind": "mps", "name": platform.processor() or "Apple"})
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return [*found, {"kind": "cpu", "name": cores}]


def _bf16() -> bool:
    """Tells whether the device has instructions for bf16; without them it is emulated, and slow."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _free(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent
    return round(shutil.disk_usage(folder).free / _GIB, 1)


def _hub() -> dict[str, Any]:
    from huggingface_hub import constants, get_token

    offline = bool(constants.is_offline_mode())
    try:
        require_hub("")
        reachable = True
    except UserError:
        reachable = False
    return {
        "endpoint": constants.ENDPOINT,
        "offline mode": offline,
        "reachable": reachable,
        "token": get_token() is not None,
    }
