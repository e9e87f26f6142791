"""report.html: a run on one page that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
import yaml

from rrm_transfer.core.files import write_text
from rrm_transfer.evaluation.checks import KINDS
from rrm_transfer.evaluation.metrics import MODELS, Metrics, Model, Row
from rrm_transfer.evaluation.paired import difference
from rrm_transfer.report.curves import corruption_charts, minimum_charts, robustness_charts, training_charts
from rrm_transfer.report.evaluation import corruption_lines
from rrm_transfer.report.pictures import exhibition
from rrm_transfer.report.verdict import headline, verdict
from rrm_transfer.report.wording import at, duration, factors, figure, percent, points, total
from rrm_transfer.runs.finished import FinishedRun, severity
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.spent import Spent
from rrm_transfer.teachers.networks.building import is_factory


def write_report(run: FinishedRun) -> None:
    """Writes a run's report."""
    write_text(RunFolder(run.folder).report, render(run))


def render(run: FinishedRun) -> str:
    """Returns the page."""
    chosen = headline(run.metrics.rows, run.threat, run.model)
    gallery = run.gallery() if run.model == "student" else None  # its pictures are of the last weights
    return _template().render(
        run=run,
        provenance=run.provenance,
        verdict=verdict(chosen, run.statuses(), passes=run.spent("student").passes, noun=run.noun),
        headline=chosen,
        weaker=None if chosen is None else _weaker(run, chosen.student),
        clean=next((row for row in run.metrics.of(run.model) if row.ball == "clean"), None),
        tables=[table for name, metrics in run.measurements() for table in _tables(name, metrics)],
        robustness=[*robustness_charts(run), *minimum_charts(run)],
        training=training_charts(run),
        costs=_costs(run),
        checks=[(name, _by_status(metrics.checks)) for name, metrics in run.measurements()],
        meanings={name: kind.meaning for name, kind in KINDS.items()},
        corruptions=corruption_charts(run),
        corruption_tables=[
            (name, corruption_lines(metrics.corruptions))
            for name, metrics in run.measurements()
            if metrics.corruptions
        ],
        gallery=gallery,
        exhibition=None if gallery is None else exhibition(gallery),
        recipe=yaml.safe_dump(run.written_recipe, sort_keys=False, allow_unicode=True),
        command=_command(run),
        started=_started(run),
    )


def _weaker(run: FinishedRun, student: Row) -> Row | None:
    """Returns the student's lowest accuracy on these images in this ball, where it is lower still."""
    rows = [
        row
        for _, metrics in run.measurements()
        for row in metrics.of(run.model)
        if metrics.data == run.metrics.data
        and (row.split, row.norm, row.eps) == (student.split, student.norm, student.eps)
    ]
    lowest = min(rows, key=lambda row: row.correct, default=student)
    return lowest if lowest.correct < student.correct else None


@dataclass(frozen=True)
class _Table:
    """Accuracies on one set of images.

    Attributes:
        name: Of the evaluation, None for the run's own.
        split: Of the data set.
        models: Columns.
        lines: One for each measurement, with the rows by model.
    """

    name: str | None
    split: str
    models: list[Model]
    lines: list[tuple[Row, dict[str, Row]]]


def _tables(name: str | None, metrics: Metrics) -> list[_Table]:
    tables = []
    for split in sorted({row.split for row in metrics.rows}, key=lambda split: (split != "test", split)):
        # A curve begins at eps 0, which is the clean row again.
        rows = [row for row in metrics.rows if row.split == split and row.eps != 0]
        lines: dict[tuple[object, ...], dict[str, Row]] = {}
        for row in rows:
            lines.setdefault(row.measurement, {})[row.model] = row
        models = [model for model in MODELS if any(row.model == model for row in rows)]
        described = [(next(iter(line.values())), line) for line in lines.values()]
        described.sort(key=lambda line: (line[0].norm or "", line[0].eps or 0.0))
        tables.append(_Table(name, split, models, described))
    return tables


@dataclass(frozen=True)
class _Cost:
    """What training one model cost.

    Attributes:
        model: Of the run.
        spent: Passes and seconds.
        facts: Of metrics.json.
    """

    model: Model
    spent: Spent
    facts: dict[str, Any]


def _costs(run: FinishedRun) -> list[_Cost]:
    """Returns what is known of each model's training; a teacher has its column whatever is known of it."""
    timing = run.metrics.timing
    models = [model for model in MODELS if timing.get(model) is not None]
    found = [_Cost(model, run.spent(model), timing[model]) for model in models]
    return found if any(cost.facts for cost in found) else []


def _by_status(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(checks, key=lambda check: severity(check["status"]))


def _command(run: FinishedRun) -> str:
    """Returns a command that makes the run again; torchrun starts processes on CPUs too."""
    verb = "teach" if run.is_teacher else "run"
    processes = run.environment.processes
    program = f"torchrun --nproc_per_node {processes} -m rrm_transfer" if processes > 1 else "rrm-transfer"
    # A recipe may not have code run: the command line names it.
    teacher = run.written_recipe["teacher"] or {}
    factories = [name for name in (teacher.get("arch"), teacher.get("name")) if name and is_factory(name)]
    code = f" --teacher-arch {factories[0]}" if factories else ""
    return f"{program} {verb} --recipe recipe.yaml --output again{code}"


def _started(run: FinishedRun) -> str | None:
    if not run.events:
        return None
    return datetime.fromtimestamp(run.events[0].time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rrm_transfer.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        at=at, duration=duration, factors=factors, figure=figure, percent=percent, points=points, total=total,
    )  # fmt: skip
    environment.globals["difference"] = difference
    return environment.get_template("report.html.jinja")
