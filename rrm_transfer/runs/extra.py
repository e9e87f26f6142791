"""The extra images of a run: whether its objective can use them, and how they are loaded."""

from __future__ import annotations

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.extra import Extra, load_extra
from rrm_transfer.data.sources import find_index
from rrm_transfer.objectives.base import Objective
from rrm_transfer.objectives.teacher_labels import TeacherLabels
from rrm_transfer.recipe.schema import DataSection, Recipe
from rrm_transfer.runs.models import LoadedData
from rrm_transfer.runtime.context import Context

_WORDS = {"none": "without labels", "teacher": "labels from the teacher", "source": "with their labels"}


def with_extra_labels(objective: Objective, recipe: Recipe) -> Objective:
    """Returns an objective as a recipe's extra images ask for it, with labels by the teacher or as it is.

    Args:
        objective: Of the recipe.
        recipe: Says which extra images there are, if any, and what their labels are.

    Raises:
        UserError: It cannot use the extra images that the recipe names.
    """
    section, name = recipe.data, recipe.objective.name
    if not section.extra:
        return objective
    if objective.inversion is not None:
        raise UserError(
            f"The objective {name!r} makes its images anew, but not the extra ones.",
            received=_setting(section),
            hint="--set data.extra=[]",
        )
    if section.extra_labels == "teacher":
        return TeacherLabels(objective)
    if section.extra_labels == "none" and not objective.labels_optional:
        raise UserError(
            f"The objective {name!r} with these arguments needs a label for every image, "
            "and the extra images have none.",
            received=_setting(section),
            allowed="an objective that learns from images without labels, such as kd-adv, rrm-adv, kd or rrm",
            hint="--set data.extra_labels=source where they have the same classes, or "
            "data.extra_labels=teacher for the answers of a teacher",
        )
    return objective


def without_extra(recipe: Recipe) -> Recipe:
    """Returns a recipe that trains on the labelled images alone."""
    return recipe.changed(data=recipe.data.changed(extra=()))


def find_extra(loaded: LoadedData, context: Context) -> Extra | None:
    """Loads the extra images that are named beside the data; None where none are.

    Args:
        loaded: The data, as their section names them.
        context: The first process lists files, and downloads before the others look.

    Raises:
        UserError: A source cannot be used.
    """
    section = loaded.section
    if not section.extra:
        return None
    labelled = section.extra_labels == "source"
    indexes = context.runtime.on_main(lambda: [find_index(name, labelled=labelled) for name in section.extra])
    with context.runtime.main_first():
        extra = load_extra(
            section.extra,
            loaded.images,
            share=section.extra_share,
            labelled=labelled,
            broken=loaded.broken,
            indexes=indexes,
        )
    for line in extra.description:
        context.narrator.note(f"extra images: {line}, {_WORDS[section.extra_labels]}")
    share = f"{section.extra_share:.3g} of each batch"
    context.narrator.note(f"extra images: {share}; the control does without them")
    return extra


def _setting(section: DataSection) -> str:
    return f"data.extra={', '.join(section.extra)}"
