from __future__ import annotations

import torch
from torch import Tensor

from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives.free import FreeAT
from tests.objectives.fakes import FakeStep, make_step
from tests.objectives.test_equations import ce, total


def use(objective: FreeAT, step: FakeStep) -> Tensor:
    """Runs one replay and returns the input that the student saw."""
    total(objective(step)).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    return step.seen[-1].detach()


def gradient_sign(step: FakeStep, x: Tensor) -> Tensor:
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ce(step.net(point).logits, step.y).sum(), point)
    return gradient.sign()


def test_perturbation_carries_between_replays_and_to_the_next_batch() -> None:
    objective = FreeAT(replays=3, step_size=0.4)
    assert objective.replays == 3
    delta = torch.zeros(6, 2, 4, 4, dtype=torch.float64)
    for seed in (0, 0, 0, 7):
        step = make_step(seed=seed)
        x_adv = use(objective, step)
        torch.testing.assert_close(x_adv, (step.x + delta).clamp(0, 1))
        delta = (delta + 0.4 * 0.1 * gradient_sign(step, x_adv)).clamp(-0.1, 0.1)
    assert delta.abs().max() == 0.1


def test_parts_of_unequal_size_equal_the_whole_batch() -> None:
    parts, whole = FreeAT(), FreeAT()
    for _ in range(2):
        step = make_step()
        step.net.eval()  # batch statistics would tie the samples of a part together
        use(whole, step)
        for rows in (slice(0, 4), slice(4, 6)):
            part = make_step(first=rows.start)
            part.x, part.y = step.x[rows], step.y[rows]
            part.net.eval()
            use(parts, part)
    torch.testing.assert_close(parts.state_dict()["delta"], whole.state_dict()["delta"])


def test_state_continues_exactly() -> None:
    straight, stopped, resumed = FreeAT(), FreeAT(), FreeAT()
    assert straight.state_dict() == {}
    for objective in (straight, stopped):
        use(objective, make_step())
    resumed.load_state_dict(stopped.state_dict())
    use(stopped, make_step(seed=9))  # what happens after the copy does not reach it
    torch.testing.assert_close(
        use(resumed, make_step(seed=1)), use(straight, make_step(seed=1)), rtol=0, atol=0
    )


def test_perturbation_stays_in_an_l2_ball_and_outlives_overflow() -> None:
    objective = FreeAT()
    step = make_step(threat=ThreatModel("L2", 0.5))
    (total(objective(step)) * float("inf")).backward()  # type: ignore[no-untyped-call]
    for _ in range(3):
        x_adv = use(objective, step)
    assert step.threat.size(x_adv - step.x).max() <= 0.5 + 1e-9
    assert objective.state_dict()["delta"].isfinite().all()
