"""The extra images of a run: whether its objective can use them, and how they are loaded."""

from __future__ import annotations

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.extra import Extra, load_extra
from rrm_transfer.data.images import DataSet
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.training.objective import objective_of

_WORDS = {"none": "without labels", "teacher": "labels from the teacher", "source": "with their labels"}


def check_extra(recipe: Recipe) -> None:
    """Checks that a recipe's objective can use the extra images that it names, if any.

    Raises:
        UserError: It cannot.
    """
    if not recipe.data.extra:
        return
    objective = objective_of(recipe)
    if objective.inversion is not None:
        raise UserError(
            f"The objective {recipe.objective.name!r} makes its images anew, but not the extra ones.",
            received=f"data.extra={', '.join(recipe.data.extra)}",
            hint="--set data.extra=[]",
        )
    if recipe.data.extra_labels == "none" and not objective.labels_optional:
        raise UserError(
            f"The objective {recipe.objective.name!r} with these arguments needs a label for every image, "
            "and the extra images have none.",
            received=f"data.extra={', '.join(recipe.data.extra)}",
            allowed="an objective that learns from images without labels, such as kd-adv, rrm-adv, kd or rrm",
            hint="--set data.extra_labels=source where they have the same classes, or "
            "data.extra_labels=teacher for the answers of a teacher",
        )


def find_extra(recipe: Recipe, data: DataSet, broken: BrokenImages, narrator: Narrator) -> Extra | None:
    """Loads the extra images that a recipe names; None where it names none.

    Raises:
        UserError: A source cannot be used.
    """
    section = recipe.data
    if not section.extra:
        return None
    extra = load_extra(
        section.extra,
        data,
        share=section.extra_share,
        labelled=section.extra_labels == "source",
        broken=broken,
    )
    for line in extra.description:
        narrator.note(f"extra images: {line}, {_WORDS[section.extra_labels]}")
    narrator.note(f"extra images: {section.extra_share:.3g} of each batch; the control does without them")
    return extra
