"""Reading tensors from a file without running anything that the file says."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file


def read_file(path: Path) -> object:
    """Returns what the file holds: tensors by name, or containers of them."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
