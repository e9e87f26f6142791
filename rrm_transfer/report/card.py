"""The model card: README.md of a run folder and of the repository that it is pushed to."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup
from timm.models import get_pretrained_cfg

from rrm_transfer.core.files import write_text
from rrm_transfer.core.quantities import format_eps
from rrm_transfer.data.hub_source import parse_hub_name
from rrm_transfer.evaluation.metrics import Metrics, Row
from rrm_transfer.report.table import ROLES, duration, measurement_title
from rrm_transfer.report.verdict import headline, verdict
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.record import Record, read_record
from rrm_transfer.teachers.networks.building import is_timm
from rrm_transfer.teachers.zoo import zoo_entry

_LICENCES = frozenset(
    {
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "gpl-3.0",
        "agpl-3.0",
        "lgpl-3.0",
        "mpl-2.0",
        "unlicense",
        "openrail",
    }
)
"""Identifiers that the hub accepts; any other licence it takes as ``other`` with a name."""

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_ON_HUB = {"fashion-mnist-mini": "zalando-datasets/fashion_mnist"}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$])")


def write_card(folder: RunFolder, metrics: Metrics) -> None:
    """Writes a run's model card.

    Args:
        folder: Complete but for metrics.json, which is written last.
        metrics: What metrics.json holds or will hold.
    """
    write_text(folder.card, render_card(read_record(folder, metrics)))


def render_card(record: Record, repo: str | None = None) -> str:
    """Returns the card.

    Args:
        record: The run.
        repo: ``user/name`` where the card is that of a repository; None: of the run folder.
    """
    made = record.provenance["role"]
    chosen = headline(record.metrics.rows, made, record.threat)
    return _template().render(
        front_matter=_front_matter(record, made),
        record=record,
        repo=repo,
        provenance=record.provenance,
        threat=record.threat,
        made=made,
        verdict=verdict(chosen, record.statuses()),
        tables=[_table(name, metrics) for name, metrics in record.measurements()],
        checks=[check for metrics in record.of_made() for check in metrics.checks],
        costs=_costs(record.metrics),
        form=_form(record),
        source=f"hf-hub:{repo}" if repo else "local-dir:student",
        folder=f"hf-hub:{repo}" if repo else "student",
        input=record.student["pretrained_cfg"],
        labels=record.student.get("label_names") or [],
        licence=record.student["pretrained_cfg"].get("license"),
        data_licence=record.provenance.get("dataset_licence"),
    )


def _form(record: Record) -> str:
    """Tells who can load the network: ``stock`` timm, ``ours``, or it is a ``teacher`` only."""
    if "stem" in record.provenance:
        return "ours"
    return "stock" if is_timm(record.architecture) else "teacher"


@dataclass(frozen=True)
class _Table:
    """Accuracies on test images.

    Attributes:
        name: Of the evaluation, None for the run's own.
        titles: Of the measurements.
        by_model: Rows by model and title.
    """

    name: str | None
    titles: list[str]
    by_model: dict[str, dict[str, Row]]


def _table(name: str | None, metrics: Metrics) -> _Table:
    test = [row for row in metrics.rows if row.split == "test"]
    by_model = {role: {_title(row): row for row in test if row.model == role} for role in ROLES}
    titles = list(dict.fromkeys(_title(row) for row in test))
    return _Table(name, titles, {role: rows for role, rows in by_model.items() if rows})


def _title(row: Row) -> str:
    return measurement_title(row).replace("\n", " ")


def _costs(metrics: Metrics) -> dict[str, str]:
    return {
        role: duration(facts["train_seconds"])
        for role, facts in metrics.timing.items()
        if "train_seconds" in facts
    }


def _front_matter(record: Record, made: str) -> str:
    provenance = record.provenance
    dataset, dataset_id = str(provenance["dataset"]), _dataset_id(record)
    rows = [
        row
        for _, metrics in record.measurements()
        if metrics.measured_on(dataset)
        for row in metrics.of(made)
        if row.split == "test"
    ]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset_id,
            dataset_name=dataset,
            dataset_split="test",
            metric_type="accuracy",
            metric_name="clean accuracy" if row.eps is None else f"robust accuracy, {_title(row)}",
            metric_value=row.accuracy,
            metric_args=_arguments(row),
        )
        for row in rows
    ]
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=[
            "image-classification",
            "timm",
            *(["transformers"] if _form(record) == "stock" else []),
            "adversarial-robustness",
            "robust-representation-matching",
        ],
        teacher=_hub_teacher(provenance.get("teacher")),
        **_origin(record.recipe["student"]),
        datasets=[dataset_id] if _HUB_ID.fullmatch(dataset_id) else None,
        model_name=provenance["recipe"],
        eval_results=results,
        **_licence(record.student["pretrained_cfg"].get("license")),
    )
    return data.to_yaml()


def _dataset_id(record: Record) -> str:
    """Returns the data set's address on the hub, or the name of one that is not there."""
    asked = str(record.recipe["data"]["name"])
    repository = parse_hub_name(asked)
    return _ON_HUB.get(asked) or (asked if repository is None else repository.repo)


def _arguments(row: Row) -> dict[str, Any]:
    arguments = {"attack": row.attack, "norm": row.norm, "eps": row.eps, "steps": row.steps}
    arguments |= {"restarts": row.restarts, "count": row.count, "low": row.low, "high": row.high}
    return {key: value for key, value in arguments.items() if value is not None}


def _licence(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    identifier = name.lower()
    return {"license": identifier} if identifier in _LICENCES else {"license": "other", "license_name": name}


def _origin(student: dict[str, Any]) -> dict[str, Any]:
    """Tells which weights the network is a fine-tune of: those that it started from.

    The hub's relations (adapter, finetune, merge, quantized) have none for a teacher.
    """
    fetched = student.get("pretrained") and student.get("weights") is None
    config = get_pretrained_cfg(student["name"]) if fetched else None
    if config is None or config.hf_hub_id is None:
        return {}
    return {"base_model": config.hf_hub_id, "base_model_relation": "finetune"}


def _hub_teacher(teacher: dict[str, Any] | None) -> str | None:
    """Returns the teacher's address on the hub, or the name of one that is not there."""
    if teacher is None:
        return None
    entry = zoo_entry(teacher["name"])
    name = entry.source if entry is not None and entry.source.startswith("hf-hub:") else teacher["name"]
    scheme, _, rest = name.rpartition(":")
    if scheme:
        return _identifier(rest.partition("@")[0])
    return f"timm/{name}" if entry is None and is_timm(name) else _identifier(name)


def _identifier(name: str) -> str | None:
    """Returns a name that has the form of the hub's; it refuses cards with any other."""
    return name if _HUB_ID.fullmatch(name) else None


def markdown(value: object) -> Markup:
    """Writes text that Markdown and HTML show as it is."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return Markup(_MARKDOWN.sub(r"\\\1", text))  # escaped on the line above


def _code(value: object) -> Markup:
    """Writes text as inline code, which shows everything but its own delimiter as it is."""
    return Markup(f"`{' '.join(str(value).split()).replace('`', chr(39))}`")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rrm_transfer.report", "templates"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else markdown(value),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(code=_code, eps=format_eps)
    return environment.get_template("card.md.jinja")
