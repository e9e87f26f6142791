from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from rrm_transfer.attacks.attack import CLEAN, Attack
from rrm_transfer.attacks.catalogue import noise_attack, pgd_attack
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.scales import eps_curve
from tests.evaluation.fixtures import evaluator, robust_net


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.05), ("L2", 0.5)])
def test_the_curve_goes_from_clean_accuracy_to_chance(norm: Any, eps: float) -> None:
    tool = evaluator(robust_net())
    rows = eps_curve(
        tool, ThreatModel(norm, eps), lambda ball: pgd_attack(ball, steps=10, restarts=1, seed=0), classes=10
    )
    assert (rows[0].eps, rows[0].attack, rows[0].correct) == (0.0, "pgd", tool.row(CLEAN).correct)
    assert [row.eps for row in rows[1:4]] == [eps / 4, eps / 2, eps]
    for before, after in pairwise(rows[3:]):
        assert after.eps == 2 * (before.eps or 0)
    for before, after in pairwise(rows):
        assert after.correct <= before.correct
    assert rows[-1].accuracy <= 0.1 < rows[-2].accuracy
    assert {(row.norm, row.steps, row.restarts) for row in rows} == {(norm, 10, 1)}


@pytest.mark.parametrize(("norm", "largest"), [("Linf", 1.0), ("L2", 32.0)])
def test_an_attack_that_never_succeeds_ends_where_the_ball_holds_every_image(
    norm: Any, largest: float
) -> None:
    balls = []

    def idle(ball: ThreatModel) -> Attack:
        balls.append(ball.eps)
        return noise_attack(ball.with_eps(1e-9), draws=1, seed=0)

    rows = eps_curve(evaluator(robust_net(), 20), ThreatModel(norm, 0.3), idle, classes=10)
    assert balls[-1] == largest
    assert len({row.correct for row in rows}) == 1
