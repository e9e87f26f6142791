"""The model card."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrm_transfer.core.quantities import Proportion
from rrm_transfer.engine.metrics import Metrics, row
from rrm_transfer.engine.result import RunResult
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.report.card import write_card


@pytest.mark.parametrize(
    ("load_line", "words"),
    [
        ('timm.create_model("local-dir:run/student", pretrained=True)', "A timm `net` trained by `pgd-at`"),
        ('rrm_transfer.load_student("run/student")', "The network's stem is not timm's"),
        ("rrm-transfer run --teacher run", "timm has no such network"),
    ],
)
def test_a_card_tells_how_the_network_is_used(load_line: str, words: str, tmp_path: Path) -> None:
    provenance = {
        "versions": {"rrm-transfer": "0.1.0"},
        "role": "teacher",
        "recipe": "toy",
        "objective": {"name": "pgd-at"},
        "threat": {"norm": "Linf", "eps": 8 / 255},
        "dataset": "toys",
        "fit": "32x32",
        "teacher": None,
        "weights": {"step": 30, "of_steps": 30, "average": "none"},
    }
    metrics = Metrics([row("teacher", "test", Proportion(7, 10))])
    recipe = build_recipe({"name": "toy", "student": {"name": "net"}})
    write_card(RunResult(tmp_path, metrics, recipe, provenance, load_line), tmp_path / "README.md")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert words in card
    assert ("A timm" in card) == ("timm.create_model" in load_line or "load_student" in load_line)
    assert ("load_student" in card) == ("--teacher" not in load_line)
    assert "| teacher | 70.0 % (7/10" in card
