"""An objective's arguments: their types and ranges, their help, and the check of what a user gave.

A constructor's signature and its class's ``Args:`` section are the only place where an argument is written
down. Recipes, ``--help-objective`` and the documentation read them from here.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.core.quantities import parse_fraction


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``, with ``low`` itself left out where ``above``."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and (
            self.low <= value <= self.high and math.isfinite(value) and not (self.above and value == self.low)
        )

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        return f"{'above ' if self.above else ''}{self.low:g} to {self.high:g}"


Amount = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1)]


class Argument(NamedTuple):
    """One argument of an objective, for help and documentation.

    Attributes:
        name: As a recipe spells it.
        type: The accepted values in words.
        default: What holds when it is not given.
        doc: What it does.
    """

    name: str
    type: str
    default: object
    doc: str


class Problem(NamedTuple):
    """An argument that was refused, and why."""

    argument: str
    error: UserError


@dataclass(frozen=True)
class _Kind:
    base: type
    optional: bool
    options: tuple[str, ...] = ()
    range: Range | None = None

    def __str__(self) -> str:
        words = {float: "number", int: "whole number", bool: "true or false", str: " | ".join(self.options)}
        text = words[self.base] + (f", {self.range}" if self.range else "")
        return text + (", or null" if self.optional else "")

    def read(self, value: object) -> object:
        """Returns ``value`` in this type.

        Raises:
            ValueError: It is not of this type or out of range.
        """
        if value is None and self.optional:
            return None
        if self.base is float and isinstance(value, str):
            try:
                value = parse_fraction(value)
            except UserError as error:
                raise ValueError(value) from error
        if self.base is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not self.base:
            raise ValueError(value)
        if self.options and value not in self.options:
            raise ValueError(value)
        if self.range is not None and value not in self.range:
            raise ValueError(value)
        return value


def _kind(annotation: Any) -> _Kind:
    optional = False
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = [part for part in get_args(annotation) if part is not NoneType]
        optional = True
    if get_origin(annotation) is Literal:
        return _Kind(str, optional, options=get_args(annotation))
    if get_origin(annotation) is Annotated:
        base, limits = get_args(annotation)
        return _Kind(base, optional, range=limits)
    return _Kind(annotation, optional)


def _kinds(component: type) -> dict[str, tuple[_Kind, object]]:
    hints = get_type_hints(inspect.getattr_static(component, "__init__"), include_extras=True)
    parameters = list(inspect.signature(component).parameters.values())
    return {parameter.name: (_kind(hints[parameter.name]), parameter.default) for parameter in parameters}


def _documented(component: type) -> dict[str, str]:
    """Reads the ``Args:`` section of a Google docstring."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", inspect.getdoc(component) or "", re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def describe(component: type) -> list[Argument]:
    """Returns the component's arguments in the order of its signature."""
    docs = _documented(component)
    return [
        Argument(name, str(kind), default, docs.get(name, ""))
        for name, (kind, default) in _kinds(component).items()
    ]


def read_arguments(component: type, arguments: Mapping[str, object]) -> tuple[dict[str, Any], list[Problem]]:
    """Converts ``arguments`` to the component's types.

    Returns:
        The converted arguments, and a problem for each that is unknown, of another type or out of range.
    """
    kinds = _kinds(component)
    converted: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in arguments.items():
        if name not in kinds:
            error = UserError(
                f"{component.__name__} has no argument '{name}'.",
                received=name,
                allowed=kinds or "no argument",
                hint=did_you_mean(name, kinds),
            )
            problems.append(Problem(name, error))
            continue
        kind, default = kinds[name]
        try:
            converted[name] = kind.read(value)
        except ValueError:
            error = UserError(
                f"{component.__name__} cannot take this {name}.",
                received=repr(value),
                allowed=f"{kind} (default {default})",
            )
            problems.append(Problem(name, error))
    return converted, problems
