from __future__ import annotations

import re

import pytest

from rrm_transfer.objectives import OBJECTIVES, objective_arguments, objective_explanation
from rrm_transfer.report.table import print_objective
from tools.objectives_page import PAGE, page


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tools.objectives_page"


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_names_its_equation_and_source(name: str) -> None:
    text = " ".join(objective_explanation(name))
    assert "``" in text
    assert name == "natural" or re.search(r"(19|20)\d\d", text)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_help_says_what_the_page_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_objective(name)
    shown = capsys.readouterr().out
    for paragraph in objective_explanation(name):
        assert paragraph.replace("``", "") in " ".join(shown.split())
    table = "".join(shown[shown.index("┏") :].split())
    for argument in objective_arguments(name):
        assert re.search(rf"│{argument.name[:12]}", table)
        assert argument.doc.split()[0] in table
