"""What a user or a recipe says."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from rrm_transfer.core.pixels import parse_statistics
from rrm_transfer.core.quantities import format_eps, parse_fraction
from rrm_transfer.recipe.loading import build_recipe, dump_recipe, read_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.recipe.shelf import recipe_names, shelf
from rrm_transfer.runs.resolve import objective_problems
from tools.fuzz.damage import SCALARS, VALUES, changed, damaged
from tools.fuzz.target import Target


def _recipe_text(parts: tuple[bytes | str, list[str]], folder: Path) -> object:
    content, overrides = parts
    path = folder / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return read_recipe(str(path), overrides, further=objective_problems)


def _dotted() -> st.SearchStrategy[str]:
    sections = {name: field.annotation for name, field in Recipe.model_fields.items()}
    keys = [
        f"{name}.{key}"
        for name, kind in sections.items()
        for key in getattr(kind, "model_fields", {"name": None})
    ]
    return st.sampled_from(
        [*keys, *sections, "student.args", "objective.ce_weight", "data.augmentation.flip"]
    )


_HARD = [
    "9" * 4000, "9" * 5000, "0x" + "f" * 5000, "0b" + "1" * 5000, "-0x1", "1e400", "1_000_000", ".inf",
    ".nan", '"a\\0b"', r'"\ud800"', "1:30", "!!int 'x'", "1" * 100_000 + "x", "8/" + "9" * 400,
]  # fmt: skip


def _overrides() -> st.SearchStrategy[list[str]]:
    values = st.text(max_size=16) | VALUES.map(json.dumps) | SCALARS.map(str) | st.sampled_from(_HARD)
    pair = st.builds(lambda key, value: f"{key}={value}", _dotted() | st.text(max_size=12), values)
    return st.lists(pair | st.text(max_size=12), max_size=4)


def _recipes() -> st.SearchStrategy[tuple[bytes | str, list[str]]]:
    files = [(shelf() / f"{name}.yaml").read_bytes() for name in recipe_names()[:6]]
    plain = [build_recipe({"student": {"name": "resnet18"}, "objective": {"name": "rrm"}})]
    documents = changed(json.loads(plain[0].model_dump_json())).map(json.dumps)
    tagged = st.sampled_from(
        [
            "a: &a [1]\nb: *a",
            "!!python/object/apply:os.system [ls]",
            "a: !!int ''",
            "2001-99-99",
            "? {a: b}\n: c",
        ]
    )
    nested = st.integers(1, 300).map(lambda depth: "[" * depth)
    text = st.text(alphabet=string.printable, max_size=80)
    content: st.SearchStrategy[bytes | str] = damaged(*files) | documents | tagged | nested | text
    return st.tuples(content, _overrides())


def _override(overrides: list[str], _: Path) -> object:
    recipe = build_recipe({"student": {"name": "resnet18"}}, overrides, further=objective_problems)
    return dump_recipe(recipe)


def _quantity(text: Any, _: Path) -> object:
    try:
        return format_eps(parse_fraction(text))
    finally:
        parse_statistics(str(text))


def _quantities() -> st.SearchStrategy[Any]:
    numbers = st.text(alphabet="0123456789.eE+-/ ,", max_size=16)
    return (
        numbers | st.sampled_from(_HARD) | st.text(max_size=16) | st.integers() | st.floats() | st.booleans()
    )


TARGETS = {
    "recipes": Target(_recipes, _recipe_text),
    "overrides": Target(_overrides, _override),
    "quantities": Target(_quantities, _quantity),
}
