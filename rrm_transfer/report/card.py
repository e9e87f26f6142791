"""The model card: README.md of a run folder."""

from __future__ import annotations

from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from rrm_transfer.core.files import write_text
from rrm_transfer.core.quantities import format_eps
from rrm_transfer.engine.metrics import Row
from rrm_transfer.engine.result import RunResult
from rrm_transfer.report.table import ROLES, duration, measurement_title

_TEMPLATE = jinja2.Environment(
    loader=jinja2.PackageLoader("rrm_transfer.report", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
).get_template("card.md.jinja")


def write_card(result: RunResult, path: Path) -> None:
    """Writes the model card of a run."""
    made = result.provenance["role"]
    test = [row for row in result.metrics.rows if row.split == "test"]
    titles = list(dict.fromkeys(_title(row) for row in test))
    by_model = {role: {_title(row): row for row in test if row.model == role} for role in ROLES}
    text = _TEMPLATE.render(
        front_matter=_front_matter(result, [row for row in test if row.model == made]),
        made=made,
        titles=titles,
        by_model={role: rows for role, rows in by_model.items() if rows},
        seconds={
            role: duration(facts["train_seconds"])
            for role, facts in result.metrics.timing.items()
            if "train_seconds" in facts
        },
        student=result.recipe.student,
        description=result.recipe.description,
        provenance=result.provenance,
        best=result.best,
        eps=format_eps(result.provenance["threat"]["eps"]),
        stock="timm.create_model" in result.load_line,
        loadable="load_student" in result.load_line,
    )
    write_text(path, text)


def _title(row: Row) -> str:
    return measurement_title(row).replace("\n", " ")


def _front_matter(result: RunResult, rows: list[Row]) -> str:
    dataset = result.provenance["dataset"]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="test",
            dataset_args={} if row.eps is None else {"attack": row.attack, "norm": row.norm, "eps": row.eps},
            metric_type="accuracy",
            metric_name=_title(row),
            metric_value=row.accuracy,
            metric_args={"count": row.count, "low": row.low, "high": row.high},
        )
        for row in rows
    ]
    data = ModelCardData(
        license=result.recipe.student.licence,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["timm", "adversarial-robustness", "robust-representation-matching"],
        model_name=result.recipe.name,
        eval_results=results,
    )
    return data.to_yaml()
