"""The table at the end of a run."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from rrm_transfer.evaluation.metrics import MODELS, Row
from rrm_transfer.objectives import objective_arguments, objective_explanation
from rrm_transfer.report.evaluation import checks_line
from rrm_transfer.report.screen import new_table, show
from rrm_transfer.report.wording import duration, factors, total
from rrm_transfer.runs.finished import FinishedRun


def print_result(result: FinishedRun) -> None:
    """Prints the accuracies, where they are, and how to load the student."""
    show(accuracy_table(result))
    if result.metrics.checks:
        show(checks_line(result.metrics))
    for label, value in (("run folder", str(result.folder)), ("load it with", result.load_line)):
        show(f"{label}: {value}")


def result_document(result: FinishedRun) -> dict[str, Any]:
    """Returns what ``--json`` prints: metrics.json, the run folder and the line that loads the student."""
    return {**result.metrics.to_json(), "folder": str(result.folder), "load": result.load_line}


def accuracy_table(result: FinishedRun) -> Table:
    """Makes one line for each model: clean and robust accuracy with intervals, and what training took.

    Args:
        result: A run.
    """
    metrics = result.metrics
    test = [row for row in metrics.rows if row.split == "test"] or metrics.rows
    columns = {row.title: row.title.replace(f" {row.effort}", f"\n{row.effort}") for row in test}
    count = max(row.count for row in test)
    title = f"accuracy on {count:,} {test[0].split} images, 95 % Wilson intervals"
    table = new_table(title, "model", figures=(*columns.values(), "passes", "training"))
    for model in MODELS:
        rows = {row.title: row for row in test if row.model == model}
        if rows:
            spent = result.spent(model)
            cells = [cell(rows[column]) if column in rows else "–" for column in columns]
            passes = "–" if spent.passes is None else f"{total(spent.passes)}\n{factors(spent.passes)}"
            table.add_row(model, *cells, passes, "–" if spent.seconds is None else duration(spent.seconds))
    return table


def cell(row: Row) -> str:
    """Writes an accuracy with its counts and interval."""
    return f"{row.accuracy:.1%}\n{row.correct}/{row.count}\n[{row.low:.1%}, {row.high:.1%}]"


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
