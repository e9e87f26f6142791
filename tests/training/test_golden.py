"""Every objective's first losses are what they were when they were frozen."""

from __future__ import annotations

import json

import pytest

from tests.training.golden import CASES, FILE, STEPS, losses

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


def test_all_objectives_are_frozen() -> None:
    assert list(GOLDEN) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_losses_are_the_frozen_ones(case: str) -> None:
    found = losses(case)
    assert len(found) == STEPS
    for step, (now, then) in enumerate(zip(found, GOLDEN[case], strict=True), start=1):
        # Pixels and initial weights are float32. Other instruction sets round them differently, and the
        # losses follow by up to 4e-7 of their value.
        assert now == pytest.approx(then, rel=1e-5, abs=1e-8), f"step {step}"
