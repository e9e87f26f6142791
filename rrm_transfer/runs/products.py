"""What a run hands over: a trained network as a folder that tells how it was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.names import public_name
from rrm_transfer.data.images import ImageSet
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.runs.setup import Assembly
from rrm_transfer.training.averaging import describe_average
from rrm_transfer.runs.learners import Learner, TeacherNetwork, export_learner
from rrm_transfer.evaluation.metrics import Role
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runtime.machine import library_versions
from rrm_transfer.training.selection import STEPS, Score
from rrm_transfer.objectives import PLAIN
from rrm_transfer.recipe.schema import ObjectiveSection, TrainSection

_SAMPLE = 8
"""Test images on which the exported network must answer like the trained one."""


@dataclass(frozen=True)
class Product:
    """A trained network that is measured and exported.

    Attributes:
        model: Its name in rows.
        network: With the weights that it is exported with.
        folder: Where to.
        weights: See ``describe_weights``.
    """

    model: str
    network: Learner
    folder: Path
    weights: dict[str, Any]


def control_product(control: Learner, folder: RunFolder, steps: int) -> Product:
    """Returns the undefended control, whose weights are those at the end of plain training."""
    weights = {"step": steps, "of_steps": steps, "average": describe_average(ema=None, epochs=0)}
    return Product("control", control, folder.control, weights)


def provenance(assembly: Assembly, role: Role, product: Product) -> dict[str, Any]:
    """Tells how a network was made; JSON values only.

    Args:
        assembly: The parts of the run.
        role: Of what the run makes, or ``control``, which has no teacher.
        product: The network.
    """
    recipe, teacher = assembly.recipe, assembly.teacher if role != "control" else None
    objective = _published(recipe.objective) if role != "control" else {"name": PLAIN}
    return {
        "versions": library_versions(),
        "role": role,
        "recipe": recipe.name,
        "objective": objective,
        "threat": {"norm": assembly.threat.norm, "eps": assembly.threat.eps},
        "dataset": assembly.data.name,
        "dataset_licence": assembly.data.licence,
        "fit": assembly.fit.describe(assembly.data.test.size),
        "teacher": None
        if teacher is None
        else {"name": public_name(teacher.name), "sha256": teacher.provenance["sha256"]},
        "weights": product.weights,
        **_extra_images(assembly, role),
    }


def _extra_images(assembly: Assembly, role: Role) -> dict[str, Any]:
    """Tells of the images beside the labelled ones that a network was trained on, if there were any."""
    if assembly.extra is None or role == "control":
        return {}
    labels = assembly.recipe.data.extra_labels
    return {"extra_images": {"count": len(assembly.extra), "share": assembly.extra.share, "labels": labels}}


def recorded_provenance(folder: Path) -> dict[str, Any]:
    """Reads how an exported network was made."""
    section: dict[str, Any] = parse_json((folder / "config.json").read_text(encoding="utf-8"))["rrm"]
    return section


def describe_weights(train: TrainSection, total_steps: int, selected: Score | None = None) -> dict[str, Any]:
    """Tells which of the weights that training went through a network has.

    Args:
        train: Resolved.
        total_steps: Of the whole training.
        selected: Of the best weights by the held-out part; None: they are those at the end.
    """
    assert train.epochs is not None
    step = total_steps if selected is None else selected.step
    facts: dict[str, Any] = {"step": step, "of_steps": total_steps}
    if train.average_epochs is not None:
        done = step * train.epochs // total_steps
        epochs = max(0, train.average_epochs - (train.epochs - done))
    else:
        epochs = 0
    facts["average"] = describe_average(ema=train.ema, epochs=epochs)
    if selected is not None:
        facts["held_out"] = {
            "clean": selected.clean / selected.count,
            "robust": selected.robust / selected.count,
            "count": selected.count,
            "attack": f"pgd-{STEPS}",
        }
    return facts


def export(product: Product, *, assembly: Assembly, role: Role, images: ImageSet) -> None:
    """Writes a network, which is moved to the CPU.

    Args:
        product: The network.
        assembly: The parts of the run.
        role: As in ``provenance``.
        images: The exported network must answer the first of them like the trained one.

    Raises:
        UserError: It would not.
    """
    few = images.select(list(range(min(_SAMPLE, len(images)))))
    batches = evaluation_batches(few, fit=assembly.fit, batch_size=_SAMPLE, device=torch.device("cpu"))
    export_learner(
        product.network.cpu(),
        product.folder,
        sample=next(iter(batches)).x,
        class_names=assembly.data.class_names,
        licence=assembly.recipe.student.licence,
        rrm=provenance(assembly, role, product),
    )


def load_line(student: Learner, folder: RunFolder) -> str:
    """Returns the Python, or the command, that loads what a run exported."""
    if student.stock:
        return f'timm.create_model("local-dir:{folder.student}", pretrained=True)'
    if isinstance(student, TeacherNetwork):
        return f"rrm-transfer run --teacher {folder.path}"
    return f'rrm_transfer.load_student("{folder.student}")'


def _published(objective: ObjectiveSection) -> dict[str, Any]:
    """Returns the objective's name and arguments, a local folder by its last part."""
    section = objective.model_dump(mode="json")
    if section.get("folder"):
        section["folder"] = public_name(str(Path(section["folder"]).absolute()))
    return section
