"""docs/security.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tests_that_hold_what_is_said_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    file, count = "", 0
    for named, function in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", text):
        file = named or file
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        known = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not function or function in known, f"{file}::{function}"
        count += 1
    assert count > 30
