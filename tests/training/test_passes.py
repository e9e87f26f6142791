"""Passes: what training costs in units of plain training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives import build_objective
from rrm_transfer.training.passes import Passes, count_flops, count_passes
from tests.training.small import SIZE, Network, equal, frozen_teacher

IMAGE = (1, SIZE, SIZE)
THREAT = ThreatModel("Linf", 0.1)


def _count(name: str, *, student: nn.Module | None = None, views: int = 0, **arguments: Any) -> Passes:
    objective = build_objective(name, **arguments)
    return count_passes(
        Network() if student is None else student,
        objective,
        epochs=10,
        image=IMAGE,
        threat=THREAT,
        teacher=frozen_teacher() if objective.needs else None,
        anchor=frozen_teacher() if objective.anchor else None,
        cached_views=views,
    )


def _forward_and_backward(network: nn.Module, x: torch.Tensor) -> int:
    return count_flops(lambda: network(x).sum().backward())


def test_a_dense_convolution_is_counted_as_torch_counts_it() -> None:
    network, x = (
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 4, 1)),
        torch.rand(2, 3, 9, 9),
    )
    with FlopCounterMode(display=False) as counter:
        network(x).sum().backward()
    assert _forward_and_backward(network, x) == counter.get_total_flops()


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_each_gradient_of_a_grouped_convolution_costs_as_much_as_the_convolution(groups: int) -> None:
    network = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
    x = torch.rand(2, 8, 5, 5, requires_grad=True)
    forward = 2 * 2 * 5 * 5 * 8 * (8 // groups) * 9
    assert count_flops(lambda: network(x)) == forward
    assert _forward_and_backward(network, x) == 3 * forward


def test_plain_training_is_one_pass() -> None:
    passes = _count("natural")
    assert passes == Passes(epochs=10, per_image=1.0)
    assert passes.total == 10
    assert passes.ratio == 1


def test_an_attack_costs_a_forward_pass_and_a_gradient_of_the_input_each_step() -> None:
    one, three = _count("pgd-at", steps=1).per_image, _count("pgd-at", steps=3).per_image
    student = Network().eval()
    x = torch.rand(2, *IMAGE)

    def ascent() -> None:
        moved = x.clone().requires_grad_()
        torch.autograd.grad(student(moved).logits.sum(), moved)

    plain = count_flops(lambda: student.train()(x).logits.sum().backward())
    assert three - one == pytest.approx(2 * count_flops(ascent) / plain)
    assert one == pytest.approx(1 + count_flops(ascent) / plain)


def _teacher_forward() -> float:
    """In passes of the student."""
    return _count("rrm", views=1).before


def test_a_live_teacher_costs_its_forward_pass_and_a_cached_one_its_views() -> None:
    live, cached = _count("rrm"), _count("rrm", views=4)
    assert cached.per_image == pytest.approx(_count("natural").per_image)
    assert live.per_image == pytest.approx(cached.per_image + _teacher_forward())
    assert cached.before == pytest.approx(4 * _teacher_forward())
    assert cached.total == pytest.approx(10 + 4 * _teacher_forward())
    assert live.total == pytest.approx(10 * (1 + _teacher_forward()))


def test_images_made_anew_cost_a_forward_pass_and_a_gradient_of_the_image_each_step() -> None:
    once, often = _count("rdt", steps=10), _count("rdt", steps=30)
    assert once.per_image == 1
    assert often.before == pytest.approx(3 * once.before)
    assert 10 * _teacher_forward() < once.before < 30 * _teacher_forward()


def test_what_begins_later_is_counted_from_then_on() -> None:
    never, always, late = (_count("kd-adv", views=1, begin=begin).per_image for begin in (1.0, 0.0, 0.7))
    assert never < always
    assert late == pytest.approx(0.7 * never + 0.3 * always, abs=0.01 * (always - never))


@pytest.mark.parametrize(("name", "begin"), [("kd-adv", 0.25), ("rrm-adv", 0.9)])
def test_noise_before_a_later_attack_costs_nothing(name: str, begin: float) -> None:
    plain, always = (_count(name, views=2, begin=at, noise=1.0) for at in (1.0, 0.0))
    late = _count(name, views=2, begin=begin, noise=1.0)
    assert plain.per_image == pytest.approx(1)
    assert late.per_image == pytest.approx(begin + (1 - begin) * always.per_image, rel=1e-3)
    assert late.before == always.before


def test_an_answer_on_the_adversarial_image_costs_a_forward_pass_of_the_teacher_whatever_is_cached() -> None:
    for views in (0, 2):
        clean, adversarial = (
            _count("kd-adv", views=views, target=target).per_image for target in ("clean", "adversarial")
        )
        assert adversarial == pytest.approx(clean + _teacher_forward())
    live = _count("kd-adv", target="adversarial", ascend="ce").per_image
    assert live == pytest.approx(_count("kd-adv").per_image)  # one answer, that on the other image


def test_weights_by_entropy_cost_nothing() -> None:
    assert _count("kd-adv", weighting="entropy") == _count("kd-adv")


def test_a_gradients_norm_costs_each_layer_six_times_its_forward_pass() -> None:
    """Forward, to the input, through that twice (weights and activations), and back as ever."""
    first, others = 2 * 16 * 6 * 9, 2 * 96 * 5 + 2 * 5 * 4  # of one image
    plain = 3 * (first + others) - first  # nobody asks for the gradient of the image
    # torch makes the second derivative of a strided convolution at 4x4 positions and keeps 3x3.
    cut = 2 * 16 * 6 * (4 * 4 - 3 * 3)
    assert _count("gradnorm").per_image == pytest.approx((6 * (first + others) + cut) / plain)
    beside = _count("kd", views=1, gradient_weight=1.0).per_image
    assert beside == pytest.approx(_count("gradnorm").per_image)


def test_replays_are_paid_each_time() -> None:
    assert _count("free-at", replays=4).per_image == pytest.approx(2 * _count("free-at", replays=2).per_image)


def test_counting_changes_nothing() -> None:
    student = Network()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    _count("trades", student=student)
    assert equal(before, dict(student.state_dict()))
    assert all(weight.grad is None for weight in student.parameters())


def test_the_document_holds_the_sum() -> None:
    document = Passes(epochs=6, per_image=1.6667, before=2.5).to_json()
    assert document == {"epochs": 6, "per_image": 1.6667, "before": 2.5, "total": 12.5002, "ratio": 2.0834}


@pytest.mark.parametrize(("clean_ce_weight", "student"), [(0.0, 1.0), (0.5, 0.0)])
def test_an_anchor_costs_its_forward_pass_and_a_plain_pass_unless_the_student_sees_the_clean_image_already(
    clean_ce_weight: float, student: float
) -> None:
    x = torch.rand(2, *IMAGE)
    plain = count_flops(lambda: Network()(x).logits.sum().backward())
    forward = count_flops(lambda: frozen_teacher()(x))
    without, anchored = (
        _count("kd-adv", clean_ce_weight=clean_ce_weight, anchor=anchor, anchor_weight=weight).per_image
        for anchor, weight in ((None, 0), ("start", 1))
    )
    assert anchored - without == pytest.approx(student + forward / plain, rel=0.02)
