"""docs/reference/objectives.md: ``python -m tools.objectives_page`` writes it anew."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rrm_transfer.objectives import OBJECTIVES, build_objective, objective_arguments, objective_explanation
from rrm_transfer.objectives.arguments import Argument

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "objectives.md"
Meaning = tuple[str, str, str]
"""Name, type and words of an argument."""


def meaning(argument: Argument) -> Meaning:
    return argument.name, argument.type, argument.doc


def shared() -> list[Meaning]:
    """Returns what several objectives take in one meaning, the most usual of each name, in order of name."""
    counts = Counter(meaning(argument) for name in OBJECTIVES for argument in objective_arguments(name))
    usual = {one[0]: one for one, count in reversed(counts.most_common()) if count > 1}
    return sorted(usual.values())


def cells(*words: str) -> str:
    return "| " + " | ".join(word.replace("``", "`").replace("|", "\\|") for word in words) + " |"


def section(name: str, common: list[Meaning]) -> list[str]:
    """Returns what the page says of one objective; of the common arguments it names the defaults."""
    lines = [f"### `{name}`", ""]
    for paragraph in objective_explanation(name):
        lines += [paragraph.replace("``", "`"), ""]
    arguments = objective_arguments(name)
    own = [argument for argument in arguments if meaning(argument) not in common]
    if own:
        lines += ["| argument | type | default | meaning |", "|---|---|---|---|"]
        lines += [cells(f"`{one.name}`", one.type, f"`{one.written_default}`", one.doc) for one in own]
        lines.append("")
    rest = [f"`{one.name}={one.written_default}`" for one in arguments if one not in own]
    if rest:
        lines += [f"[Shared](#shared-arguments): {', '.join(rest)}.", ""]
    return lines


def page() -> str:
    """Returns docs/reference/objectives.md."""
    lines = [(Path(__file__).parent / "objectives_head.md").read_text(encoding="utf-8").rstrip(), ""]
    common = shared()
    groups = {"With a teacher": True, "From scratch": False}
    for title, taught in groups.items():
        lines += [f"## {title}", ""]
        for name in sorted(OBJECTIVES):
            if bool(build_objective(name).needs) == taught:
                lines += section(name, common)
    lines += ["## Shared arguments", "", "Defaults stand with each objective.", ""]
    lines += ["| argument | type | meaning |", "|---|---|---|"]
    lines += [cells(f"`{name}`", kind, doc) for name, kind, doc in common]
    lines += ["", "Generated from docstrings by `python -m tools.objectives_page`; a test keeps it current."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
