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
from rrm_transfer.evaluation.metrics import MODELS, Metrics, Row
from rrm_transfer.recipe.schema import StudentSection
from rrm_transfer.report.verdict import headline, verdict
from rrm_transfer.report.wording import duration, factors, total
from rrm_transfer.runs.finished import FinishedRun, TeacherSource
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.spent import Spent
from rrm_transfer.teachers.networks.building import is_timm
from rrm_transfer.teachers.zoo import zoo_entry

_LICENSES = frozenset(
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
"""Identifiers that the hub accepts; any other license it takes as ``other`` with a name."""

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_ON_HUB = {"fashion-mnist-mini": "zalando-datasets/fashion_mnist"}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$])")


def write_card(run: FinishedRun) -> None:
    """Writes a run's model card."""
    write_text(RunFolder(run.folder).card, render_card(run))


def render_card(run: FinishedRun, repo: str | None = None) -> str:
    """Returns the card.

    Args:
        run: The run.
        repo: ``user/name`` where the card is that of a repository; None: of the run folder.
    """
    return _template().render(
        front_matter=_front_matter(run),
        run=run,
        repo=repo,
        provenance=run.provenance,
        verdict=verdict(
            headline(run.metrics.rows, run.threat, run.model),
            run.statuses(),
            passes=run.spent("student").passes,
            noun=run.noun,
        ),
        tables=[_table(name, metrics) for name, metrics in run.measurements()],
        checks=list(run.checks()),
        costs={model: _cost(run.spent(model)) for model in MODELS},
        source=f"hf-hub:{repo}" if repo else "local-dir:student",
        folder=f"hf-hub:{repo}" if repo else "student",
        input=run.student.pretrained_cfg,
        labels=run.student.label_names or [],
    )


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
    by_model = {model: {row.title: row for row in test if row.model == model} for model in MODELS}
    titles = list(dict.fromkeys(row.title for row in test))
    return _Table(name, titles, {model: rows for model, rows in by_model.items() if rows})


def _cost(spent: Spent) -> str:
    passes = "" if spent.passes is None else f"{total(spent.passes)} passes ({factors(spent.passes)})"
    seconds = "" if spent.seconds is None else duration(spent.seconds)
    return ", ".join(filter(None, (passes, seconds))) or "not known"


def _front_matter(run: FinishedRun) -> str:
    dataset, dataset_id = run.provenance.dataset, _dataset_id(run)
    rows = [
        row
        for _, metrics in run.measurements()
        if metrics.measured_on(dataset)
        for row in metrics.of(run.model)
        if row.split == "test"
    ]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset_id,
            dataset_name=dataset,
            dataset_split="test",
            metric_type="accuracy",
            metric_name="clean accuracy" if row.eps is None else f"robust accuracy, {row.title}",
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
            *(["transformers"] if run.form == "stock" else []),
            "adversarial-robustness",
            "robust-representation-matching",
        ],
        teacher=_hub_teacher(run.provenance.teacher),
        **_origin(run.recipe.student),
        datasets=[dataset_id] if _HUB_ID.fullmatch(dataset_id) else None,
        model_name=run.provenance.recipe,
        eval_results=results,
        **_license(run.student.pretrained_cfg.license),
    )
    return data.to_yaml()


def _dataset_id(run: FinishedRun) -> str:
    """Returns the data set's address on the hub, or the name of one that is not there."""
    asked = str(run.written_recipe["data"]["name"])
    repository = parse_hub_name(asked)
    return _ON_HUB.get(asked) or (asked if repository is None else repository.repo)


def _arguments(row: Row) -> dict[str, Any]:
    arguments = {"attack": row.attack, "norm": row.norm, "eps": row.eps, "steps": row.steps}
    arguments |= {"restarts": row.restarts, "count": row.count, "low": row.low, "high": row.high}
    return {key: value for key, value in arguments.items() if value is not None}


def _license(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    identifier = name.lower()
    return {"license": identifier} if identifier in _LICENSES else {"license": "other", "license_name": name}


def _origin(student: StudentSection) -> dict[str, Any]:
    """Tells which weights the network is a fine-tune of: those that it started from.

    The hub's relations (adapter, finetune, merge, quantized) have none for a teacher.
    """
    fetched = student.start == "pretrained" and student.weights is None
    config = get_pretrained_cfg(student.name) if fetched else None
    if config is None or config.hf_hub_id is None:
        return {}
    return {"base_model": config.hf_hub_id, "base_model_relation": "finetune"}


def _hub_teacher(teacher: TeacherSource | None) -> str | None:
    """Returns the teacher's address on the hub, or the name of one that is not there."""
    if teacher is None:
        return None
    entry = zoo_entry(teacher.name)
    name = entry.source if entry is not None and entry.source.startswith("hf-hub:") else teacher.name
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
