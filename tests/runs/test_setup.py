"""What a recipe leaves open is filled in alike for all its objectives."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrm_transfer.runs.setup import assemble
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.recipe.loading import build_recipe
from tests.support import tiny


@pytest.mark.parametrize("objective", ["rrm", "pgd-at", "natural"])
def test_the_threat_model_is_the_teachers_whether_or_not_it_teaches(objective: str, tiny_data: Path) -> None:
    recipe = build_recipe(
        {
            "teacher": {"name": "fashion_mnist_linf", "features_only": True},
            "student": {"name": "test_resnet"},
            "data": {"name": str(tiny_data)},
        },
        [f"objective.name={objective}", *tiny.settings()],
    )
    recipe.threat.norm = recipe.threat.eps = None
    threat = assemble(recipe, Runtime(), Narrator()).recipe.threat
    assert (threat.norm, threat.eps) == ("Linf", 0.1)
