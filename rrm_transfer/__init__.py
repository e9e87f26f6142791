"""Robust representation matching: a robust teacher's representation in any timm classifier."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrm_transfer.api import (
        CostReport,
        Exported,
        FinishedRun,
        Objective,
        Preview,
        Pushed,
        Recipe,
        RRMTask,
        ThreatModel,
        bench,
        build_student,
        evaluate,
        export,
        load_student,
        load_teacher,
        pgd,
        preview,
        push,
        read_recipe,
        save_student,
        teach,
        transfer,
    )

__version__ = "0.1.0"
__all__ = [
    "CostReport",
    "Exported",
    "FinishedRun",
    "Objective",
    "Preview",
    "Pushed",
    "RRMTask",
    "Recipe",
    "ThreatModel",
    "__version__",
    "bench",
    "build_student",
    "evaluate",
    "export",
    "load_student",
    "load_teacher",
    "pgd",
    "preview",
    "push",
    "read_recipe",
    "save_student",
    "teach",
    "transfer",
]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `rrm-transfer --help` does not wait for torch.
    if name in __all__:
        return getattr(importlib.import_module("rrm_transfer.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
