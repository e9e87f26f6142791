"""Learning rates against their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.training.optimization import Optimization, Schedule, build_optimizer
from tests.training.small import PLAN

EPOCHS, PER_EPOCH = 6, 10
SETTINGS = replace(PLAN.optimization, lr=0.1, min_lr=0.001, warmup_epochs=0.0)


def rates(settings: Optimization) -> list[float]:
    optimizer = build_optimizer(nn.Linear(2, 2), settings)
    schedule = Schedule(optimizer, settings, epochs=EPOCHS, steps_per_epoch=PER_EPOCH)
    return [schedule.set(step) for step in range(EPOCHS * PER_EPOCH)]


def test_cosine_goes_from_lr_to_min_lr_over_all_steps() -> None:
    total = EPOCHS * PER_EPOCH
    expected = [0.001 + 0.5 * 0.099 * (1 + math.cos(math.pi * step / total)) for step in range(total)]
    assert rates(SETTINGS) == pytest.approx(expected)


def test_warm_up_is_linear_from_zero_and_then_the_cosine_goes_on() -> None:
    warm = rates(replace(SETTINGS, warmup_epochs=1.5))
    assert warm[:15] == pytest.approx([0.1 * step / 15 for step in range(15)])
    assert warm[15:] == pytest.approx(rates(SETTINGS)[15:])


def test_a_cycle_rises_and_falls_in_straight_lines() -> None:
    # Wong, Rice, Kolter (ICLR 2020): torch's CyclicLR, half of the steps up and half down.
    found = rates(replace(SETTINGS, schedule="cyclic", warmup_epochs=3.0))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    half = EPOCHS * PER_EPOCH // 2
    reference = torch.optim.lr_scheduler.CyclicLR(
        optimizer, base_lr=0.001, max_lr=0.1, step_size_up=half, step_size_down=half
    )
    expected = []
    for _ in found:
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert found == pytest.approx(expected)


def test_multistep_decays_at_each_milestone() -> None:
    found = rates(replace(SETTINGS, schedule="multistep", milestones=(2, 4)))
    # timm counts a milestone as reached one step before the epoch that it names begins.
    expected = [0.1] * 19 + [0.01] * 20 + [0.001] * 21
    assert found == pytest.approx(expected)


def test_milestones_may_stand_in_any_order() -> None:
    settings = replace(SETTINGS, schedule="multistep", milestones=(2, 4))
    assert rates(replace(settings, milestones=(4, 2))) == rates(settings)


@pytest.mark.parametrize("warmup_epochs", [0.0, 1.0])
def test_constant(warmup_epochs: float) -> None:
    found = rates(replace(SETTINGS, schedule="constant", warmup_epochs=warmup_epochs))
    first = round(PER_EPOCH * warmup_epochs)
    assert set(found[first:]) == {0.1}
    assert found[:first] == pytest.approx([0.1 * step / PER_EPOCH for step in range(first)])


def test_a_schedule_has_no_state_of_its_own() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), SETTINGS)
    schedule = Schedule(optimizer, SETTINGS, epochs=EPOCHS, steps_per_epoch=PER_EPOCH)
    assert schedule.set(30) == rates(SETTINGS)[30]
    assert schedule.set(3) == rates(SETTINGS)[3]


def test_the_papers_optimizer() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = build_optimizer(network, SETTINGS)
    assert isinstance(optimizer, torch.optim.SGD)
    decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decayed[id(p)] for p in network.parameters()] == [1e-4, 0.0, 0.0, 0.0]
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    assert not any(group["nesterov"] for group in optimizer.param_groups)


def test_only_weights_that_require_gradients_are_optimized() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    optimizer = build_optimizer(network, SETTINGS)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_unknown_optimizer_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Unknown optimizer") as caught:
        build_optimizer(nn.Linear(2, 2), replace(SETTINGS, optimizer="admw"))
    assert "adamw" in str(caught.value)
