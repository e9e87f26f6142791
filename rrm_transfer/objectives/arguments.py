"""An objective's arguments: their types and ranges, their help, and the check of what a user gave.

A dataclass's fields and its ``Args:`` section are the only place where an argument is written down. Recipes,
``--help-objective`` and the documentation read them from here.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.layers import Layer
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.core.printing import brief
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
Folder = Annotated[str, "path"]
Network = Annotated[str, "start, or a network as --teacher takes it"]
Layers = tuple[Annotated[Layer, "name or index"], ...]
Weights = tuple[Positive, ...]


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

    @property
    def written_default(self) -> str:
        """The default as a recipe would have it."""
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return self.default if isinstance(self.default, str) else json.dumps(self.default)


class Problem(NamedTuple):
    """An argument that was refused, and why."""

    argument: str
    error: UserError


_WORDS: dict[type, str] = {float: "number", int: "whole number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class _Kind:
    """What an argument may be: one value, or a list of such where ``many``."""

    bases: tuple[type, ...]
    optional: bool = False
    options: tuple[str, ...] = ()
    range: Range | None = None
    words: str | None = None
    many: bool = False

    def __str__(self) -> str:
        text = self.words or " | ".join(self.options) or " or ".join(_WORDS[base] for base in self.bases)
        text = ("list of: " if self.many else "") + text + (f", {self.range}" if self.range else "")
        return text + (", or null" if self.optional else "")

    def read(self, value: object) -> object:
        """Returns ``value`` in this type.

        Raises:
            ValueError: It is not of this type or out of range.
        """
        if value is None and self.optional:
            return None
        if self.many:
            one = replace(self, many=False, optional=False)
            return tuple(one.read(item) for item in (value if isinstance(value, list | tuple) else [value]))
        if float in self.bases and isinstance(value, str):
            try:
                value = parse_fraction(value)
            except UserError as error:
                raise ValueError(value) from error
        if float in self.bases and isinstance(value, int) and not isinstance(value, bool):
            try:
                value = float(value)
            except OverflowError as error:
                raise ValueError(value) from error
        if type(value) not in self.bases:
            raise ValueError(value)
        if self.options and value not in self.options:
            raise ValueError(value)
        if self.range is not None and value not in self.range:
            raise ValueError(value)
        return value


def _kind(annotation: Any) -> _Kind:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        kinds = [_kind(part) for part in parts if part is not NoneType]
        bases = tuple(base for kind in kinds for base in kind.bases)
        return replace(kinds[0], bases=bases, optional=NoneType in parts)
    if origin is tuple:
        return replace(_kind(parts[0]), many=True)
    if origin is Literal:
        return _Kind((str,), options=parts)
    if origin is Annotated:
        kind, note = _kind(parts[0]), parts[1]
        return replace(kind, range=note) if isinstance(note, Range) else replace(kind, words=note)
    return _Kind((annotation,))


def _kinds(component: type[Any]) -> dict[str, tuple[_Kind, object]]:
    """Reads fields and defaults: a method's own arguments come before those that it shares with others."""
    hints = get_type_hints(component, include_extras=True)
    defaults = {field.name: field.default for field in fields(component)}
    names = dict.fromkeys(
        name for ancestor in component.__mro__ for name in inspect.get_annotations(ancestor)
    )
    return {name: (_kind(hints[name]), defaults[name]) for name in names if name in defaults}


_SECTION = re.compile(r"^Args:\n((?:    .*\n?|\n)+)", re.MULTILINE)


def _documented(component: type) -> dict[str, str]:
    """Reads the ``Args:`` sections of Google docstrings, the class's own over those that it inherits from."""
    docs: dict[str, str] = {}
    for ancestor in reversed(component.__mro__):
        section = _SECTION.search(inspect.cleandoc(vars(ancestor).get("__doc__") or ""))
        entries = re.findall(
            r"^    (\w+): (.*(?:\n        .*)*)", section[1] if section else "", re.MULTILINE
        )
        docs |= {name: " ".join(text.split()) for name, text in entries}
    return docs


def explanation(component: type[Any]) -> list[str]:
    """Returns the component's equation and source: the paragraphs of its docstring before its arguments."""
    text = _SECTION.split(inspect.getdoc(component) or "")[0]
    return [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]


def describe(component: type[Any]) -> list[Argument]:
    """Returns the component's arguments, its own before those that it shares with others."""
    docs = _documented(component)
    return [
        Argument(name, str(kind), default, docs.get(name, ""))
        for name, (kind, default) in _kinds(component).items()
    ]


def read_arguments(
    name: str, component: type[Any], arguments: Mapping[str, object]
) -> tuple[dict[str, Any], list[Problem]]:
    """Converts ``arguments`` to the component's types.

    Args:
        name: Of the component, as the user writes it.
        component: Whose arguments they are.
        arguments: As the user gave them.

    Returns:
        The converted arguments, and a problem for each that is unknown, of another type or out of range.
    """
    kinds = _kinds(component)
    converted: dict[str, Any] = {}
    problems: list[Problem] = []
    for argument, value in arguments.items():
        if argument not in kinds:
            error = UserError(
                f"{name} has no argument '{argument}'.",
                received=argument,
                allowed=kinds or "no argument",
                hint=did_you_mean(argument, kinds),
            )
            problems.append(Problem(argument, error))
            continue
        kind, default = kinds[argument]
        try:
            converted[argument] = kind.read(value)
        except ValueError:
            error = UserError(
                f"{name} cannot take this {argument}.",
                received=brief(value),
                allowed=f"{kind} (default {Argument(argument, str(kind), default, '').written_default})",
            )
            problems.append(Problem(argument, error))
    return converted, problems
