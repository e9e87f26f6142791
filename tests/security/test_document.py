"""docs/explanation/security.md names tests that exist."""

from __future__ import annotations

from tests.documentation.pages import ROOT, missing_tests, named_tests


def test_the_tests_that_hold_what_is_said_exist() -> None:
    named = named_tests(ROOT / "docs" / "explanation" / "security.md")
    assert len(named) > 30
    assert not missing_tests(named)
