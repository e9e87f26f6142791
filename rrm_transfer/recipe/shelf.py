"""Where recipes are: files of the user's, and those that come with the package."""

from __future__ import annotations

from pathlib import Path

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean

QUICKSTART, TEACHING = "quickstart", "fashion-mnist-teacher"
"""What ``run`` and ``teach`` do where nothing else is asked for."""

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "library"
_CHECKOUT = _PACKAGE.parents[1] / "recipes"


def shelf() -> Path:
    """Returns the folder of the recipes that come with the package, installed or in a checkout."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with the package."""
    root = shelf()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find_recipe(name: str) -> Path:
    """Returns the file of a recipe, given a path or a name from ``recipe_names``.

    Raises:
        UserError: There is none.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if path.is_file():
            return path
    elif name in recipe_names():
        return shelf() / f"{name}.yaml"
    names = recipe_names()
    raise UserError(
        "Unknown recipe.",
        received=name,
        allowed=f"a .yaml file, or one of: {', '.join(names)}",
        hint=did_you_mean(name, names) or "rrm-transfer recipes ls lists them",
    )
