"""The documentation's commands and snippets, read from the pages."""

from __future__ import annotations

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
