"""What a run hands over: a trained network as a folder that tells how it was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rrm_transfer.core.names import public_name
from rrm_transfer.data.images import ImageSet
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.evaluation.metrics import Model
from rrm_transfer.objectives import PLAIN
from rrm_transfer.recipe.resolved import ResolvedTrain
from rrm_transfer.recipe.schema import ObjectiveSection
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runs.trainables import Trainable, export_trained
from rrm_transfer.runtime.machine import library_versions
from rrm_transfer.training.averaging import describe_average
from rrm_transfer.training.selection import STEPS, Score

_SAMPLE = 8
"""Test images on which the exported network must answer like the trained one."""


@dataclass(frozen=True)
class Product:
    """A trained network that is measured and exported.

    Attributes:
        model: Which of the run's networks it is.
        network: With the weights that it is exported with.
        folder: Where to.
        weights: See ``describe_weights``.
    """

    model: Model
    network: Trainable
    folder: Path
    weights: dict[str, Any]


def control_product(control: Trainable, folder: RunFolder, steps: int) -> Product:
    """Returns the undefended control, whose weights are those at the end of plain training."""
    weights = {"step": steps, "of_steps": steps, "average": describe_average(ema=None, epochs=0)}
    return Product("control", control, folder.control, weights)


def provenance(setup: Setup, product: Product) -> dict[str, Any]:
    """Tells how a network was made; JSON values only.

    Args:
        setup: Of the run.
        product: The network; a control has no teacher.
    """
    recipe, data, plain = setup.recipe, setup.loaded, product.model == "control"
    teacher = None if plain else setup.teacher
    objective = {"name": PLAIN} if plain else _published(recipe.objective)
    return {
        "versions": library_versions(),
        "model": product.model,
        "is_teacher": setup.is_teacher,
        "recipe": recipe.name,
        "objective": objective,
        "threat": {"norm": setup.threat.norm, "eps": setup.threat.eps},
        "dataset": data.images.name,
        "dataset_license": data.images.license,
        "fit": data.fit.describe(data.images.test.size),
        "teacher": None
        if teacher is None
        else {"name": public_name(teacher.name), "sha256": teacher.provenance["sha256"]},
        "start": _start(setup, plain=plain),
        "weights": product.weights,
        **({} if plain else _extra_images(setup)),
    }


def _start(setup: Setup, *, plain: bool) -> dict[str, Any]:
    """Tells which weights training began with, a folder by its last part, and what stood behind them."""
    section = setup.recipe.student
    start = "scratch" if plain and section.start == "teacher" else section.start
    weights = None if section.weights is None else public_name(str(section.weights.absolute()))
    return {"origin": start, "weights": weights, "head": "own" if plain else section.head}


def _extra_images(setup: Setup) -> dict[str, Any]:
    """Tells of the images beside the labelled ones that a student was trained on, if there were any."""
    extra = setup.extra
    if extra is None:
        return {}
    labels = setup.recipe.data.extra_labels
    return {"extra_images": {"count": len(extra), "share": extra.share, "labels": labels}}


def describe_weights(train: ResolvedTrain, total_steps: int, selected: Score | None = None) -> dict[str, Any]:
    """Tells which of the weights that training went through a network has.

    Args:
        train: Of the recipe.
        total_steps: Of the whole training.
        selected: Of the best weights by the held-out part; None: they are those at the end.
    """
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


def export(product: Product, setup: Setup, images: ImageSet) -> None:
    """Writes a network, which is moved to the CPU.

    Args:
        product: The network.
        setup: Of the run.
        images: The exported network must answer the first of them like the trained one.

    Raises:
        UserError: It would not.
    """
    few, fit = images.select(range(min(_SAMPLE, len(images)))), setup.loaded.fit
    batches = evaluation_batches(few, fit=fit, batch_size=_SAMPLE, device=torch.device("cpu"))
    export_trained(
        product.network.cpu(),
        product.folder,
        sample=next(iter(batches)).x,
        class_names=setup.loaded.images.class_names,
        license=setup.recipe.student.license,
        rrm=provenance(setup, product),
    )


def _published(objective: ObjectiveSection) -> dict[str, Any]:
    """Returns the objective's name and arguments, a local folder by its last part."""
    section = objective.model_dump(mode="json")
    if section.get("folder"):
        section["folder"] = public_name(str(Path(section["folder"]).absolute()))
    return section
