"""Which keys of a recipe define a network that its run trained or used, apart from the seed."""

from __future__ import annotations

from rrm_transfer.core.documents import dotted
from rrm_transfer.objectives import PLAIN, objective_arguments
from rrm_transfer.recipe.schema import Recipe

_OF_A_RUN = ("name", "description", "seed", "output", "control", "evaluate")
_OPERATION = (
    "train.checkpoint_minutes", "train.log_every", "train.deterministic", "train.channels_last",
    "data.workers", "teacher.check", "teacher.cache.seed",
)  # fmt: skip
"""Recipe keys that do not change what is trained."""

Setting = dict[str, object]
"""A recipe's dotted keys that define a network, apart from the seed."""


def setting_of(recipe: Recipe) -> Setting:
    """Returns what defines the network that a recipe trains."""
    content = recipe.model_dump(mode="json")
    for key in _OF_A_RUN:
        del content[key]
    flat = {key: value for key, value in dotted(content).items() if value != {}}
    for key in _OPERATION:
        flat.pop(key, None)
    return _plain(flat) if recipe.objective.name == PLAIN else flat


def control_setting(recipe: Recipe) -> Setting:
    """Returns what defines the control of a recipe's run: plain training, on the same augmented images."""
    plain = _plain(setting_of(recipe))
    plain = {key: value for key, value in plain.items() if not key.startswith("objective.")}
    plain |= {f"objective.{argument.name}": argument.default for argument in objective_arguments(PLAIN)}
    plain |= {"objective.name": PLAIN, "train.epochs": recipe.control.epochs}
    plain = {key: value for key, value in plain.items() if not key.startswith("data.extra")}
    plain |= dict.fromkeys(("train.ema", "train.average_epochs", "train.select_every"))
    plain["student.head"] = "own"
    if recipe.student.start == "teacher":
        plain["student.start"] = "scratch"
    cache = None if recipe.teacher is None else recipe.teacher.cache
    if cache is not None:
        plain["teacher.cache.views"] = cache.views
        if cache.seed not in (None, recipe.seed):
            plain["teacher.cache.seed"] = cache.seed
    return plain


def teacher_setting(recipe: Recipe) -> Setting:
    """Returns what defines a recipe's teacher and the size of the images that it is given."""
    setting = setting_of(recipe)
    own = {
        key: value
        for key, value in setting.items()
        if key.startswith("teacher.") and not key.startswith("teacher.cache")
    }
    return {**own, "data.image_size": recipe.data.image_size}


def _plain(setting: Setting) -> Setting:
    """Leaves out what plain training does not use."""
    return {key: value for key, value in setting.items() if not key.startswith(("teacher", "threat."))}
