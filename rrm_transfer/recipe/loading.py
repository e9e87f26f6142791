"""Recipes from YAML files and command-line overrides, and back to YAML."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from rrm_transfer.core.documents import modest, parse_yaml, unwritable
from rrm_transfer.core.errors import RecipeError, UserError
from rrm_transfer.core.names import nearest
from rrm_transfer.core.printing import brief, shortened
from rrm_transfer.recipe.schema import AUTO, Auto, Recipe
from rrm_transfer.recipe.shelf import find_recipe

_MESSAGES = {
    "extra_forbidden": "unknown key",
    "missing": "is required",
    "tuple_type": "should be a list, such as [a, b]",
}


Problems = list[tuple[str, str]]
"""Dotted paths with messages."""


Overrides = Mapping[str, object] | Iterable[str]
"""``{"train.epochs": 8}``, or ``["train.epochs=8"]`` as after ``--set``."""


def _none(content: Mapping[str, Any]) -> Problems:
    return []


def read_recipe(
    name: str, overrides: Overrides = (), *, further: Callable[[Mapping[str, Any]], Problems] = _none
) -> Recipe:
    """Reads a recipe by name or path and applies overrides.

    Args:
        name: A recipe that ``rrm-transfer recipes ls`` lists, or a YAML file.
        overrides: ``{"train.epochs": 8}``, or ``["train.epochs=8"]`` as after ``--set``; later ones win.
        further: Finds problems of the raw content that the schema cannot know.

    Raises:
        UserError: There is no such recipe, or it is not YAML.
        RecipeError: It has problems; all of them are named.
    """
    path = find_recipe(name)
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a recipe.", allowed="a YAML mapping with 'student' and more")
    return build_recipe({"name": path.stem, **content}, overrides, further=further)


def build_recipe(
    content: Mapping[str, Any],
    overrides: Overrides = (),
    *,
    further: Callable[[Mapping[str, Any]], Problems] = _none,
) -> Recipe:
    """Validates ``content`` after applying ``overrides``.

    Args:
        content: As read from YAML.
        overrides: ``{"train.epochs": 8}``, or ``["train.epochs=8"]`` as after ``--set``; later ones win.
        further: Finds problems of the raw content that the schema cannot know.

    Raises:
        RecipeError: It has problems; all of them are named.
    """
    try:
        merged = copy.deepcopy(modest(dict(content)))
    except ValueError as error:
        raise RecipeError([("recipe", str(error))]) from None
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(_read_override, overrides)
    for override in pairs:
        _apply(merged, *override)
    problems = [(path, f"is not text (received {text!r})") for path, text in unwritable(merged, paths=True)]
    problems += further(merged)
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        raise RecipeError([*(_problem(detail) for detail in error.errors()), *problems]) from None
    if problems:
        raise RecipeError(problems)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Writes a recipe as YAML that ``read_recipe`` reads back to an equal recipe."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _read_override(text: str) -> tuple[str, object]:
    path, equals, value = text.partition("=")
    if not equals:
        raise UserError("Not an override.", received=text, allowed="key.subkey=value")
    try:
        return path.strip(), parse_yaml(value)
    except ValueError as error:
        raise UserError(f"The value of an override is not YAML: {error}", received=text) from None


def _apply(content: dict[str, Any], path: str, value: object) -> None:
    given = f"{path}={shortened(value)}"
    keys = path.split(".")
    if not all(keys):
        raise UserError("Not an override.", received=given, allowed="key.subkey=value")
    node = content
    for key in keys[:-1]:
        child = node.get(key)
        if child is None or child == AUTO:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise UserError(f"{key!r} is a value, it has no keys below it.", received=given)
        node = child
    node[keys[-1]] = copy.deepcopy(value)


def _problem(detail: Any) -> tuple[str, str]:
    location = [str(part) for part in detail["loc"]] or ["recipe"]  # a key of it may be no text
    message = _MESSAGES.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    if detail["type"] == "extra_forbidden":
        close = nearest(location[-1], _keys_beside(location))
        message += f" (nearest: {', '.join(close)})" if close else ""
    elif detail["type"] != "missing":
        message += f" (received {brief(detail['input'])})"
        message += "; `auto` leaves it to be chosen" * _may_be_open(location)
    return ".".join(location), message


def _may_be_open(location: list[str]) -> bool:
    """Tells whether ``auto`` is one of a key's values."""
    field = _fields_beside(location).get(location[-1])
    return field is not None and Auto in getattr(field.annotation, "__args__", ())


def _keys_beside(location: list[str]) -> list[str]:
    return list(_fields_beside(location))


def _fields_beside(location: list[str]) -> dict[str, Any]:
    model: Any = Recipe
    for part in location[:-1]:
        field = model.model_fields.get(part)
        if field is None:
            return {}
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((option for option in options if hasattr(option, "model_fields")), None)
        if model is None:
            return {}
    return dict(model.model_fields)
