"""docs/explanation/reliability.md names tests that exist."""

from __future__ import annotations

from tests.documentation.pages import ROOT, missing_tests, named_tests

DOCUMENT = ROOT / "docs" / "explanation" / "reliability.md"


def test_the_tests_that_hold_the_promises_exist() -> None:
    named = named_tests(DOCUMENT)
    assert len(named) > 30
    assert not missing_tests(named)


def test_no_promise_goes_without_a_test() -> None:
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and "promise" not in line and "what happens" not in line:
            assert "tests/" in line, line
