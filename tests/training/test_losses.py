"""The window of recent losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.training.finite import LossWindow
from tests.training.small import PLAN, Run


def _window() -> LossWindow:
    return LossWindow(Runtime(), lambda step: f"batch {step}")


def test_each_term_is_a_mean_over_the_steps_that_had_it() -> None:
    window = _window()
    window.add(1, {"clean_kd": torch.tensor(1.0)})
    window.add(2, {"clean_kd": torch.tensor(3.0)})
    window.add(3, {"adversarial_kd": torch.tensor(9.0), "clean_kd": torch.tensor(5.0)})
    assert window.read() == {"clean_kd": 3.0, "adversarial_kd": 9.0}
    assert window.read() == {}


def test_the_term_that_is_not_finite_is_named_with_its_step() -> None:
    window = _window()
    window.add(1, {"clean_kd": torch.tensor(1.0)})
    window.add(2, {"adversarial_kd": torch.tensor(2.0), "igdm": torch.tensor(float("inf"))})
    with pytest.raises(UserError, match=r"'igdm' is not finite at step 2, batch 2"):
        window.check()


@pytest.mark.parametrize("arguments", [{"clean_kd_weight": 0.2}, {"igdm_weight": 1.0}], ids=str)
def test_terms_may_change_between_two_records(arguments: dict[str, Any], tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        objective="kd-adv",
        arguments={"begin": 0.5, **arguments},
        plan=replace(PLAN, log_every=4, checkpoint_minutes=0),
    )
    run()
    names = [set(record) for record in run.losses]
    assert names[0] == {"clean_kd"}
    assert "adversarial_kd" in names[-1]
