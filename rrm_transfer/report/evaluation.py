"""What an evaluation prints: one line for each attack, then the checks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from rrm_transfer.core.quantities import format_eps
from rrm_transfer.engine.checks import KINDS
from rrm_transfer.engine.metrics import MEAN, CorruptionRow, Metrics, Row

_STYLES = {"pass": "green", "suspicious": "bold red"}


def print_evaluation(metrics: Metrics) -> None:
    """Prints accuracies, survivors of each stage, corruptions and checks."""
    console = Console()
    console.print(_accuracies(metrics))
    for title, after in metrics.survivors.items():
        left = ", ".join(f"{'clean' if name == 'none' else name} {count:,}" for name, count in after.items())
        console.print(f"{title}, images left after: {left}", highlight=False, soft_wrap=True)
    if metrics.corruptions:
        console.print(_corruptions(metrics.corruptions))
    made = [check for check in metrics.checks if check["status"] != "not-run"]
    if made:
        console.print(_checks(made))
    left_out = ", ".join(check["name"] for check in metrics.checks if check["status"] == "not-run")
    if left_out:
        console.print(f"not run: {left_out}", highlight=False)


def checks_line(metrics: Metrics) -> str:
    """Sums the checks up: ``checks: 6 pass, 8 not-run``; the suspicious ones by name."""
    count = Counter(check["status"] for check in metrics.checks)
    named = ", ".join(check["name"] for check in metrics.checks if check["status"] == "suspicious")
    words = [f"{count[status]} {status}" for status in ("suspicious", "pass", "not-run") if count[status]]
    if named:
        words[0] += f" ({named})"
    return "checks: " + ", ".join(words)


def _accuracies(metrics: Metrics) -> Table:
    first = metrics.rows[0]
    table = Table(title=f"accuracy on {first.count:,} {first.split} images, 95 % Wilson intervals")
    for column in ("attack", "ball", "steps"):
        table.add_column(column)
    for column in ("correct", "accuracy", "interval"):
        table.add_column(column, justify="right")
    for row in metrics.rows:
        ball = "" if row.eps is None else f"{row.norm} {format_eps(row.eps)}"
        interval = f"{row.low:.1%} – {row.high:.1%}"
        table.add_row(row.attack, ball, _effort(row), f"{row.correct:,}", f"{row.accuracy:.1%}", interval)
    return table


def corruption_lines(rows: Sequence[CorruptionRow]) -> dict[str, list[CorruptionRow]]:
    """Groups rows by corruption, each with its severities in order and all of them at the end."""
    lines: dict[str, list[CorruptionRow]] = {}
    for row in rows:
        lines.setdefault(row.corruption.replace("_", " "), []).append(row)
    return {name: sorted(line, key=lambda row: row.severity or math.inf) for name, line in lines.items()}


def _corruptions(rows: Sequence[CorruptionRow]) -> Table:
    lines = corruption_lines(rows)
    overall = lines[MEAN][-1]
    table = Table(
        title=f"accuracy under common corruptions: mean {overall.accuracy:.1%} "
        f"({overall.low:.1%} – {overall.high:.1%})"
    )
    table.add_column("corruption, at severity", no_wrap=True)
    for row in lines[MEAN]:
        table.add_column(str(row.severity or MEAN), justify="right", no_wrap=True)
    for name, line in lines.items():
        table.add_row(name, *(f"{row.accuracy:.1%}" for row in line))
    return table


def _effort(row: Row) -> str:
    if row.steps is None:
        return ""
    return f"{row.steps:,}" + (f" × {row.restarts}" if row.restarts and row.restarts > 1 else "")


def _checks(made: list[dict[str, Any]]) -> Table:
    table = Table(title="signs of misleading figures")
    for column in ("check", "status", "figure", "limit"):
        table.add_column(column, no_wrap=True)
    table.add_column("meaning of the figure")
    for check in made:
        status = f"[{_STYLES[check['status']]}]{check['status']}[/]"
        meaning = KINDS[check["name"]].meaning
        table.add_row(check["name"], status, f"{check['figure']:.3g}", f"{check['limit']:.3g}", meaning)
    return table
