"""How a benchmark prints what it found: a Markdown table, then the same as one line of JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rrm_transfer.runtime.machine import devices, library_versions, processor

CHECKOUT = Path(__file__).resolve().parents[2]


def circumstances() -> dict[str, Any]:
    """Returns what the figures depend on."""
    return {
        "commit": commit(),
        "machine": f"{platform.machine()}, {processor()}",
        "devices": devices(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": library_versions(),
    }


def emit(title: str, rows: Sequence[Mapping[str, Any]], verdicts: Mapping[str, bool | None]) -> None:
    """Prints a benchmark.

    Args:
        title: What was measured, with everything that was chosen.
        rows: Of the table; equal keys.
        verdicts: Whether each target is met; None where it was not measured.
    """
    columns = list(rows[0])
    print(f"\n### {title}\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(_cell(row[column]) for column in columns)} |")
    print()
    for target, met in verdicts.items():
        print(f"- {target}: {'not measured' if met is None else 'met' if met else 'MISSED'}")
    facts = circumstances()
    print(f"\n{facts['commit']}, {facts['machine']}, {facts['devices'][0]}\n")
    print(json.dumps({"title": title, "rows": rows, "verdicts": verdicts, **facts}))


def _cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def commit() -> str | None:
    """Returns the checkout's commit; None outside a checkout."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or None
