"""Every link of a page to a file, a page or a heading leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documentation.pages import PAGES, ROOT, title

LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]


def prose(page: Path) -> str:
    """Returns a page without its fenced blocks and code spans, which hold no links."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", lambda code: code[0].strip("`").replace("](", ""), text)


def anchors(page: Path) -> set[str]:
    """Returns the names that GitHub and the site give to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead(page: Path) -> list[str]:
    """Returns the links of a page, addresses left out, that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        known = anchors(file) if anchor and file.suffix == ".md" and file.is_file() else {anchor}
        if not file.exists() or anchor not in known:
            found.append(target)
    return found


@pytest.mark.parametrize("page", LINKED, ids=title)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead(page) == []


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.yaml")), ids=title)
def test_pages_that_a_recipe_names_are_there(recipe: Path) -> None:
    named = re.findall(r"docs/[\w/-]+\.md", recipe.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# What is `promised`, and why\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md#what-is-promised-and-why) [b](other.md#promised) [c](gone.md) [d](#here)\n")
    assert dead(page) == ["other.md#promised", "gone.md", "#here"]
