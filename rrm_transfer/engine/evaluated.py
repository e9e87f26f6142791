"""What an evaluation loads: the data, the model and those it is compared with."""

from __future__ import annotations

from pathlib import Path

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.images import DataSet, ImageSet
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.engine.evaluation import lay_out
from rrm_transfer.engine.labels import align_labels
from rrm_transfer.engine.model_facts import ModelFacts
from rrm_transfer.engine.progress import Narrator
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.sources import find_origin
from rrm_transfer.teachers.teacher import Teacher

SPLITS = ("test", "train", "held-out")


def load_data(model: str, dataset: str | None, known: ModelFacts, narrator: Narrator) -> DataSet:
    """Loads the data set that is named, else the one that the model was trained on.

    Raises:
        UserError: Neither is known, or it cannot be loaded.
    """
    name = dataset or known.dataset
    if not name:
        find_origin(model)  # a model that does not exist is told as such
        raise UserError("The data set is not known.", received=model, hint="name it: --dataset D")
    own = name == known.dataset
    return load_dataset_by_name(
        name,
        label_map=known.label_map if own else None,
        held_out=known.held_out if own else 0.0,
        seed=known.seed,
        broken=BrokenImages(known.max_broken if own else 0, narrator.warn),
    )


def load_network(
    source: str,
    data: DataSet,
    fit: Fit,
    narrator: Narrator,
    *,
    arch: str | None = None,
    weights: Path | None = None,
    normalisation: str | None = None,
    allow_code: frozenset[str] = frozenset(),
) -> Teacher:
    """Loads a network whose classes are those of the data.

    Raises:
        UserError: It cannot be loaded, or its classes do not fit.
    """
    network = load_teacher(
        source, arch=arch, weights=weights, normalisation=normalisation, channels=data.channels,
        image_size=fit.size, allow_code=allow_code,
    )  # fmt: skip
    align_labels(network, data, narrator)
    if network.num_classes != data.num_classes:
        raise UserError(
            "The model's classes do not fit the data.",
            received=f"{source}: {network.num_classes} classes, {data.num_classes} of {data.name}",
            hint="another --dataset",
        )
    lay_out(network)
    return network


def load_surrogate(
    name: str | None, known: ModelFacts, data: DataSet, fit: Fit, narrator: Narrator, *, required: bool
) -> Teacher | None:
    """Loads the named model to transfer perturbations from, else the teacher of the model's run.

    Raises:
        UserError: The named one, or a required one, cannot be loaded.
    """
    if name is not None:
        return load_network(name, data, fit, narrator)
    teacher = None if known.run is None else read_recipe(str(known.run.recipe)).teacher
    if teacher is None:
        return None
    try:
        return load_network(
            teacher.name, data, fit, narrator, arch=teacher.arch, weights=teacher.weights,
            normalisation=teacher.normalisation,
        )  # fmt: skip
    except UserError as problem:
        if required:
            raise
        narrator.warn(f"no transfer from the teacher: {problem.what}")
        return None


def load_control(known: ModelFacts, data: DataSet, fit: Fit, narrator: Narrator) -> Teacher | None:
    """Loads the control that was trained beside a run's student, if there is one."""
    if known.run is None or known.part == "control" or not known.run.control.is_dir():
        return None
    return load_network(str(known.run.control), data, fit, narrator)


def part_of(data: DataSet, split: str) -> ImageSet:
    """Returns a part of the data.

    Raises:
        UserError: There is no such part.
    """
    part = {"test": data.test, "train": data.train, "held-out": data.held_out}[split]
    if part is None or not len(part):
        raise UserError(f"The data have no {split} part.", received=data.name, hint="another --split")
    return part
