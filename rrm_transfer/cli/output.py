"""What commands print: tables for people, JSON for programs; progress goes to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rrm_transfer.report.screen import show

if TYPE_CHECKING:
    from rrm_transfer.runs.finished import FinishedRun
    from rrm_transfer.runtime.progress import Narrator


def narrator(quiet: bool) -> Narrator:
    """Returns the voice of a command."""
    from rrm_transfer.runtime.progress import Narrator

    return Narrator(None if quiet else Console(stderr=True))


def is_first_process() -> bool:
    """Tells whether this process is the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def first_to_report() -> bool:
    """Tells, once, whether a problem of this process is news: no other process of the run has reported one.

    Where one process fails, the others fail after it, since they wait for it in vain.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return is_first_process()
    try:
        store = distributed.distributed_c10d._get_default_store()
        return bool(store.add("rrm_transfer/problem", 1) == 1)
    except RuntimeError:  # the process that kept the store is gone: the problem was its own
        return False


def print_json(document: Any) -> None:
    """Prints one JSON document, in which every character that steers a terminal is escaped."""
    print(json.dumps(document, indent=1).replace("\x7f", "\\u007f"))


def print_facts(facts: Mapping[str, Any]) -> None:
    """Prints names and values, one a line."""
    width = max(map(len, facts))
    for key, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        show(f"{key.replace('_', ' '):<{width}}  {'–' if text in (None, '') else text}")


def print_run(result: FinishedRun, *, as_json: bool) -> None:
    """Prints what a run made, once for all processes."""
    from rrm_transfer.report.table import print_result, result_document

    if is_first_process():
        if as_json:
            print_json(result_document(result))
        else:
            print_result(result)


def silence_profiler() -> None:
    """Keeps torch's profiler, which measures memory, silent; to be called before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
