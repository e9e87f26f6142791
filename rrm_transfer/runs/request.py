"""From the words of ``run`` and ``teach``, or of ``transfer`` and ``teach`` in Python, to a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrm_transfer.recipe.loading import Overrides, build_recipe, read_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.runs.resolve import objective_problems
from rrm_transfer.teachers.networks.building import is_factory

_KEPT = ("start", "head")
"""What a recipe says of a network whichever it is."""


def request(
    recipe: Recipe | None,
    *,
    base: str,
    overrides: Overrides,
    sections: Mapping[str, Mapping[str, Any]],
    **top_level: Any,
) -> Recipe:
    """Builds the recipe that is asked for.

    A recipe is taken whole and changed. Without one, naming a teacher or a student starts from an
    empty recipe, in which everything that is not named is automatic, and only the other of the two comes
    from ``base``; naming neither runs ``base`` itself.

    Args:
        recipe: None: none was named.
        base: The name of the recipe that stands in its place; see ``recipe.shelf``.
        overrides: They win over everything else.
        sections: Words by recipe section; None values were not given.
        top_level: Words that are recipe keys themselves; None values were not given.

    Raises:
        UserError: An override has another form.
        RecipeError: The recipe has problems; all of them are named.
    """
    given = {
        section: {key: value for key, value in options.items() if value is not None}
        for section, options in sections.items()
    }
    written = (recipe or read_recipe(base)).model_dump(exclude_unset=True)
    content: dict[str, Any] = {key: value for key, value in written.items() if value is not None}
    named: set[str] = {part for part in ("teacher", "student") if "name" in given.get(part, {})}
    if recipe is not None:  # naming what it names changes nothing
        named = {part for part in named if given[part]["name"] != content.get(part, {}).get("name")}
    if named and recipe is None:
        kept: dict[str, Any] = {
            part: content[part] for part in ("teacher", "student") if part in content and part not in named
        }
        objective = {"name": content["objective"]["name"]}
        content = {"name": "transfer" if "teacher" in content else "teacher", "objective": objective, **kept}
    if given.get("objective", {}).get("name", "") not in ("", content.get("objective", {}).get("name")):
        named.add("objective")
    # Arguments, weights and normalization belong to what they were written for.
    for part in named:
        content[part] = {key: value for key, value in content.get(part, {}).items() if key in _KEPT}
    for section, options in given.items():
        if options:
            content.setdefault(section, {}).update(options)
    content |= {key: value for key, value in top_level.items() if value is not None}
    return build_recipe(content, overrides, further=objective_problems)


def code_named_by(*names: str | None) -> frozenset[str]:
    """Returns the names that are code, ``package.module:factory``.

    Leave to run code is given name by name: to what the user wrote, never to what a file says in its place.
    """
    return frozenset(name for name in names if name is not None and is_factory(name))
