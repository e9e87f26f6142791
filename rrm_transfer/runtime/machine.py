"""What of this machine and installation a run depends on, and how much of it a training step takes."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from rrm_transfer import __version__
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub import require_hub
from rrm_transfer.runtime.parallel import own_part

_LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "datasets", "safetensors")

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
    return [*found, {"kind": "cpu", "name": _cpu()}]


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


def environment(facts: Mapping[str, object]) -> dict[str, Any]:
    """Returns what a run's figures depend on besides its recipe; no names or paths of this machine.

    Args:
        facts: What must not change on the way, such as ``processes``; versions and devices are added.
    """
    return {
        **facts,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": library_versions(),
        "devices": devices(),
    }


def devices() -> list[str]:
    """Names what this process computes on, which is one GPU of those that it may see."""
    names = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return names or [f"cpu, {_cpu()}"]


def _cpu() -> str:
    return f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def processor() -> str:
    """Names the processor; ``platform.processor`` is empty on many systems."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def circumstances(processes: int) -> dict[str, Any]:
    """Returns what seconds that have just been measured depend on.

    Returns:
        ``machine``: processes and devices; ``load``: how many programs wanted to run, in the mean of
        the last minute.
    """
    return {
        "machine": f"{processes} × {', '.join(devices())}",
        "load": round(psutil.getloadavg()[0], 2),
    }


def library_versions() -> dict[str, str]:
    """Returns the versions of this package and of those that figures depend on."""
    return {"rrm-transfer": __version__, **{name: version(name) for name in _LIBRARIES}}


_ALLOCATION = "[memory]"


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Returns the most that ``step`` holds at once, beyond what was there before it.

    Args:
        step: Called once.
        device: Where it works. Only what torch allocates there is counted.
    """
    if device.type == "cpu":
        # The process's own size would include what its allocator keeps for later.
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
        assert profiler.profiler is not None
        assert profiler.profiler.kineto_results is not None
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == _ALLOCATION]
        held = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def resident_bytes(modules: Iterable[nn.Module | None], optimizer: torch.optim.Optimizer) -> int:
    """Returns what weights, buffers and the optimizer's state take between steps."""
    tensors: list[Tensor] = []
    for module in modules:
        if module is not None:
            tensors += [*module.parameters(), *module.buffers()]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    own = {part.data_ptr(): part for part in map(own_part, tensors)}
    return sum(part.nbytes for part in own.values())
