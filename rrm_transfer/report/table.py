"""The table at the end of a run."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from rrm_transfer.evaluation.metrics import MODELS, Metrics, Row
from rrm_transfer.objectives import objective_arguments, objective_explanation
from rrm_transfer.report.evaluation import checks_line
from rrm_transfer.report.screen import new_table, show
from rrm_transfer.runs.finished import FinishedRun


def print_result(result: FinishedRun) -> None:
    """Prints the accuracies, where they are, and how to load the student."""
    show(accuracy_table(result.metrics))
    if result.metrics.checks:
        show(checks_line(result.metrics))
    for label, value in (("run folder", str(result.folder)), ("load it with", result.load_line)):
        show(f"{label}: {value}")


def result_document(result: FinishedRun) -> dict[str, Any]:
    """Returns what ``--json`` prints: metrics.json, the run folder and the line that loads the student."""
    return {**result.metrics.to_json(), "folder": str(result.folder), "load": result.load_line}


def accuracy_table(metrics: Metrics) -> Table:
    """Makes one line for each model: clean and robust accuracy with intervals, and training time."""
    test = [row for row in metrics.rows if row.split == "test"] or metrics.rows
    columns = {row.title: row.title.replace(f" {row.effort}", f"\n{row.effort}") for row in test}
    count = max(row.count for row in test)
    title = f"accuracy on {count:,} {test[0].split} images, 95 % Wilson intervals"
    table = new_table(title, "model", figures=(*columns.values(), "training"))
    for model in MODELS:
        rows = {row.title: row for row in test if row.model == model}
        if rows:
            seconds = metrics.timing.get(model, {}).get("train_seconds")
            cells = [cell(rows[column]) if column in rows else "–" for column in columns]
            table.add_row(model, *cells, "–" if seconds is None else duration(seconds))
    return table


def cell(row: Row) -> str:
    """Writes an accuracy with its counts and interval."""
    return f"{row.accuracy:.1%}\n{row.correct}/{row.count}\n[{row.low:.1%}, {row.high:.1%}]"


def duration(seconds: float) -> str:
    """Writes seconds as ``42 s`` or ``3 min 5 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def print_objective(name: str) -> None:
    """Prints an objective's equation and source, and its arguments with types, defaults and meaning."""
    for paragraph in (f"objective {name}", *objective_explanation(name)):
        show(paragraph.replace("``", "") + "\n")
    table = new_table(None, "argument", "type", "default", "meaning")
    for argument in objective_arguments(name):
        cells = (argument.name, argument.type, argument.written_default, argument.doc.replace("``", ""))
        table.add_row(*map(Text, cells))
    show(table)


def objective_document(name: str) -> dict[str, Any]:
    """Returns what ``--json`` prints of an objective."""
    return {
        "objective": name,
        "explanation": list(objective_explanation(name)),
        "arguments": [argument._asdict() for argument in objective_arguments(name)],
    }
