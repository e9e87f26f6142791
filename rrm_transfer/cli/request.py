"""From the options of ``run`` and ``teach`` to a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rrm_transfer.core.errors import UserError

if TYPE_CHECKING:
    from rrm_transfer.recipe.schema import Recipe

_KEPT = ("pretrained",)
"""What a recipe says of a network whichever it is."""


def request(
    *,
    recipe: str | None,
    base: str,
    overrides: Iterable[str],
    sections: dict[str, dict[str, Any]],
    **top_level: Any,
) -> Recipe:
    """Builds the recipe that a command line asks for.

    A named recipe is taken whole and changed. Without one, naming a teacher or a student starts from an
    empty recipe, in which everything that is not named is automatic, and only the other of the two comes
    from ``base``; naming neither runs ``base`` itself.

    Args:
        recipe: As given to ``--recipe``.
        base: The recipe of a command without arguments.
        overrides: As given to ``--set``; they win over everything else.
        sections: Options by recipe section; None values were not given.
        top_level: Options that are recipe keys themselves; None values were not given.
    """
    from rrm_transfer.recipe.loading import build_recipe, read_recipe
    from rrm_transfer.runs.resolve import objective_problems

    given = {
        section: {key: value for key, value in options.items() if value is not None}
        for section, options in sections.items()
    }
    content: dict[str, Any] = read_recipe(recipe or base).model_dump(exclude_unset=True)
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
    # Arguments, weights and normalisation belong to what they were written for.
    for part in named:
        content[part] = {key: value for key, value in content.get(part, {}).items() if key in _KEPT}
    for section, options in given.items():
        if options:
            content.setdefault(section, {}).update(options)
    content |= {key: value for key, value in top_level.items() if value is not None}
    return build_recipe(content, overrides, further=objective_problems)


def key_values(pairs: Iterable[str]) -> dict[str, Any] | None:
    """Reads ``key=value`` options; values are YAML scalars. None where there are none.

    Raises:
        UserError: One is not of this form.
    """
    from rrm_transfer.core.documents import parse_yaml

    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError("Not an argument.", received=pair, allowed="key=value")
        try:
            result[key] = parse_yaml(value)
        except ValueError as error:
            raise UserError(f"The value of an argument is not YAML: {error}", received=pair) from None
    return result or None


def code_named_by(*names: str | None) -> frozenset[str]:
    """Returns the names that are code, ``package.module:factory``.

    Leave to run code is given name by name: to what the user wrote, never to what a file says in its place.
    """
    from rrm_transfer.teachers.networks.building import is_factory

    return frozenset(name for name in names if name is not None and is_factory(name))
