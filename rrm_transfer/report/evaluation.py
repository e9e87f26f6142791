"""What an evaluation prints: one line for each attack, then the checks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from rrm_transfer.evaluation.checks import KINDS
from rrm_transfer.evaluation.metrics import MEAN, CorruptionRow, Metrics, Row
from rrm_transfer.report.screen import new_table, show
from rrm_transfer.report.wording import figure, minimum

_STYLES = {"pass": "green", "suspicious": "bold red"}


def print_evaluation(metrics: Metrics) -> None:
    """Prints accuracies, survivors of each stage, corruptions and checks."""
    show(_accuracies(metrics))
    for title, after in metrics.survivors.items():
        left = ", ".join(f"{'clean' if name == 'none' else name} {count:,}" for name, count in after.items())
        show(f"{title}, images left after: {left}")
    for row in metrics.minima:
        show(minimum(row))
    if metrics.corruptions:
        show(_corruptions(metrics.corruptions))
    made = [check for check in metrics.checks if check["status"] != "not-run"]
    if made:
        show(_checks(made))
    left_out = [check["name"] for check in metrics.checks if check["status"] == "not-run"]
    if left_out:
        show(f"checks not run: {', '.join(left_out) if made else 'all'}")


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
    title = f"accuracy on {first.count:,} {first.split} images, 95 % Wilson intervals"
    table = new_table(title, "attack", "ball", "steps", figures=("correct", "accuracy", "interval"))
    for row in metrics.rows:
        ball = "" if row.eps is None else row.ball
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
    interval = f"{overall.low:.1%} – {overall.high:.1%}"
    table = new_table(
        f"accuracy under common corruptions: mean {overall.accuracy:.1%} ({interval})",
        "corruption, at severity",
        figures=tuple(str(row.severity or MEAN) for row in lines[MEAN]),
    )
    for name, line in lines.items():
        table.add_row(name, *(f"{row.accuracy:.1%}" for row in line))
    return table


def _effort(row: Row) -> str:
    if row.steps is None:
        return ""
    return f"{row.steps:,}" + (f" × {row.restarts}" if row.restarts and row.restarts > 1 else "")


def _checks(made: list[dict[str, Any]]) -> Table:
    columns = ("check", "status", "figure", "limit", "meaning of the figure")
    table = new_table("signs of misleading figures", *columns)
    for check in made:
        status = Text(check["status"], style=_STYLES[check["status"]])
        meaning = KINDS[check["name"]].meaning
        table.add_row(check["name"], status, figure(check["figure"], 3), figure(check["limit"], 3), meaning)
    return table
