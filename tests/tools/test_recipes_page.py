from __future__ import annotations

from rrm_transfer.recipe.shelf import recipe_names
from tools.recipes_page import PAGE, page


def test_the_page_is_current_and_names_every_recipe() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(), "run python -m tools.recipes_page"
    assert [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")] == recipe_names()
