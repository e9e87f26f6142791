"""Robust representation matching: a robust teacher's representation in any timm classifier."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrm_transfer.api import (
        CostReport,
        Exported,
        Preview,
        Pushed,
        Recipe,
        RRMTask,
        bench,
        evaluate,
        export,
        load_student,
        preview,
        push,
        read_recipe,
        teach,
        transfer,
    )

__version__ = "0.1.0"
__all__ = [
    "CostReport",
    "Exported",
    "Preview",
    "Pushed",
    "RRMTask",
    "Recipe",
    "__version__",
    "bench",
    "evaluate",
    "export",
    "load_student",
    "preview",
    "push",
    "read_recipe",
    "teach",
    "transfer",
]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `rrm-transfer --help` does not wait for torch.
    if name in __all__:
        return getattr(importlib.import_module("rrm_transfer.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
