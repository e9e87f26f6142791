"""report.html: a run on one page that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
import yaml

from rrm_transfer.core.files import write_text
from rrm_transfer.evaluation.checks import KINDS
from rrm_transfer.evaluation.metrics import Metrics, Row
from rrm_transfer.report.curves import corruption_charts, robustness_charts, training_charts
from rrm_transfer.report.evaluation import corruption_lines
from rrm_transfer.report.pictures import exhibition
from rrm_transfer.report.table import ROLES, attack_title, duration
from rrm_transfer.report.verdict import difference, headline, verdict
from rrm_transfer.report.wording import at, ball, figure, percent, points
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.record import Record, read_record, severity
from rrm_transfer.teachers.networks.building import is_factory


def write_report(folder: RunFolder, metrics: Metrics) -> None:
    """Writes a run's report.

    Args:
        folder: Complete but for metrics.json, which is written last.
        metrics: What metrics.json holds or will hold.
    """
    write_text(folder.report, render(read_record(folder, metrics)))


def render(record: Record) -> str:
    """Returns the page."""
    made = record.provenance["role"]
    chosen = headline(record.metrics.rows, made, record.threat)
    return _template().render(
        record=record,
        made=made,
        verdict=verdict(chosen, record.statuses()),
        headline=chosen,
        weaker=None if chosen is None else _weaker(record, chosen.made),
        clean=next((row for row in record.metrics.of(made) if ball(row) == "clean"), None),
        tables=[table for name, metrics in record.measurements() for table in _tables(name, metrics)],
        robustness=robustness_charts(record),
        training=training_charts(record),
        costs=_costs(record.metrics, made),
        checks=[(name, _by_status(metrics.checks)) for name, metrics in record.measurements()],
        meanings={name: kind.meaning for name, kind in KINDS.items()},
        corruptions=corruption_charts(record),
        corruption_tables=[
            (name, corruption_lines(metrics.corruptions))
            for name, metrics in record.measurements()
            if metrics.corruptions
        ],
        exhibition=None if record.gallery is None else exhibition(record.gallery),
        recipe=yaml.safe_dump(record.recipe, sort_keys=False, allow_unicode=True),
        command=_command(record),
        started=_started(record),
    )


def _weaker(record: Record, made: Row) -> Row | None:
    """Returns the lowest accuracy of the same network, images and ball, where it is lower than ``made``."""
    rows = [
        row
        for _, metrics in record.measurements()
        for row in metrics.rows
        if metrics.data == record.metrics.data
        and (row.model, row.split, row.norm, row.eps) == (made.model, made.split, made.norm, made.eps)
    ]
    lowest = min(rows, key=lambda row: row.correct, default=made)
    return lowest if lowest.correct < made.correct else None


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
    models: list[str]
    lines: list[tuple[Row, dict[str, Row]]]


def _tables(name: str | None, metrics: Metrics) -> list[_Table]:
    tables = []
    for split in sorted({row.split for row in metrics.rows}, key=lambda split: (split != "test", split)):
        # A curve begins at eps 0, which is the clean row again.
        rows = [row for row in metrics.rows if row.split == split and row.eps != 0]
        lines: dict[tuple[object, ...], dict[str, Row]] = {}
        for row in rows:
            lines.setdefault(row.measurement, {})[row.model] = row
        models = [role for role in ROLES if any(row.model == role for row in rows)]
        described = [(next(iter(line.values())), line) for line in lines.values()]
        described.sort(key=lambda line: (line[0].norm or "", line[0].eps or 0.0))
        tables.append(_Table(name, split, models, described))
    return tables


@dataclass(frozen=True)
class _Cost:
    """What training one model cost.

    Attributes:
        facts: Of metrics.json.
        per_image: Time for an image relative to plain training; None where that was not measured.
        total: Time in all relative to plain training.
    """

    model: str
    facts: dict[str, Any]
    per_image: float | None
    total: float | None


def _costs(metrics: Metrics, made: str) -> list[_Cost]:
    timing = {role: metrics.timing[role] for role in ROLES if role in metrics.timing}
    plain = timing.get("control", {})

    def ratio(role: str, above: float | None, below: float | None) -> float | None:
        # A teacher that was only used was trained at another time and maybe on another machine.
        comparable = role in ("control", made)
        return above / below if comparable and above and below else None

    return [
        _Cost(
            role,
            facts,
            ratio(role, plain.get("images_per_s"), facts.get("images_per_s")),
            ratio(role, facts.get("train_seconds"), plain.get("train_seconds")),
        )
        for role, facts in timing.items()
    ]


def _by_status(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(checks, key=lambda check: severity(check["status"]))


def _command(record: Record) -> str:
    """Returns a command that makes the run again; torchrun starts processes on CPUs too."""
    verb = "teach" if record.provenance["role"] == "teacher" else "run"
    processes = record.environment["processes"]
    program = f"torchrun --nproc_per_node {processes} -m rrm_transfer" if processes > 1 else "rrm-transfer"
    # A recipe may not have code run: the command line names it.
    teacher = record.recipe.get("teacher") or {}
    factories = [name for name in (teacher.get("arch"), teacher.get("name")) if name and is_factory(name)]
    code = f" --teacher-arch {factories[0]}" if factories else ""
    return f"{program} {verb} --recipe recipe.yaml --output again{code}"


def _started(record: Record) -> str | None:
    if not record.events:
        return None
    return datetime.fromtimestamp(record.events[0]["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rrm_transfer.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        at=at, attack=attack_title, ball=ball, duration=duration, figure=figure, percent=percent,
        points=points,
    )  # fmt: skip
    environment.globals["difference"] = difference
    return environment.get_template("report.html.jinja")
