"""The documentation's commands and snippets, read from the pages."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?^```(?P<language>[a-z]+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        language: As the fence names it.
        text: What stands in it.
        reason: Why it is not run, from the comment ``<!-- not run: … -->`` before it; None: it is.
    """

    language: str
    text: str
    reason: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of each command line, comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path, *languages: str) -> list[Block]:
    """Returns the fenced blocks of a page in one of the languages."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(m["language"], m["text"], m["reason"]) for m in found if m["language"] in languages]


def unnamed(page: Path) -> list[str]:
    """Returns the first lines of fenced blocks without a language, which no test would look at."""
    lines = page.read_text(encoding="utf-8").splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    return [lines[number + 1] for number in fences[::2] if lines[number] == "```"]


def title(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def named_tests(page: Path) -> list[tuple[str, str]]:
    """Returns the files and functions of the tests that a page names; a lone function is of the last file."""
    named, file = [], ""
    for path, function in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", page.read_text(encoding="utf-8")):
        file = path or file
        if path or function:
            named.append((file, function))
    return named


def missing_tests(named: list[tuple[str, str]]) -> list[str]:
    """Returns those of the named tests that do not exist."""
    missing = []
    for file, function in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        known = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        if function and function not in known:
            missing.append(f"{file}::{function}")
    return missing
