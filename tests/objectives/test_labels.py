"""Batches in which some images have no label."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from rrm_transfer.objectives import OBJECTIVES, build_objective
from rrm_transfer.objectives.base import Objective, Term
from rrm_transfer.objectives.teacher_labels import TeacherLabels
from tests.objectives.fakes import FakeStep, make_step
from tests.objectives.test_equations import ce, kl, total

HALF = torch.tensor([True, False, True, True, False, False])

USES: dict[str, tuple[dict[str, Any], bool]] = {
    "natural": ({}, False),
    "rrm": ({}, True),
    "rrm-adv": ({}, True),
    "kd": ({"ce_weight": 0.5}, True),
    "kd-adv": ({"ce_weight": 0.5}, True),
    "ard": ({}, False),
    "iad": ({}, False),
    "rslad": ({}, True),
    "adaad": ({}, True),
    "igdm": ({}, True),
    "pgd-at": ({}, False),
    "fast-at": ({}, False),
    "n-fgsm": ({}, False),
    "free-at": ({}, False),
    "rdt": ({}, False),
    "trades": ({}, True),
    "gradnorm": ({}, False),
}
MORE: list[tuple[str, dict[str, Any], bool]] = [
    ("rrm", {"feature_weight": 0.0, "ce_weight": 1.0}, False),
    ("rrm", {"mixup": 1.0, "ce_weight": 0.5}, True),
    ("kd-adv", {"ascend": "ce", "ce_weight": 0.5}, False),
    ("kd-adv", {"clean_ce_weight": 1.0, "begin": 0.9}, True),
    ("rrm-adv", {"feature_weight": 0.0, "ce_weight": 1.0}, False),
    ("kd", {"gradient_weight": 1.0}, True),
    ("rrm", {"gradient_weight": 1.0, "mixup": 1.0}, True),
    ("kd-adv", {"target": "adversarial", "weighting": "entropy"}, True),
]
ALL = [*((name, *use) for name, use in USES.items()), *MORE]


def half_labelled(y: Tensor | None = None) -> FakeStep:
    step = make_step()
    step.unlabelled = HALF
    if y is not None:
        step.y = y
    return step


def test_every_objective_says_whether_it_needs_labels() -> None:
    assert USES.keys() == set(OBJECTIVES)
    for name, arguments, optional in ALL:
        assert build_objective(name, **arguments).labels_optional is optional, name


@pytest.mark.parametrize(("name", "arguments"), [(n, a) for n, a, optional in ALL if optional])
def test_what_stands_where_no_label_is_changes_nothing(name: str, arguments: dict[str, Any]) -> None:
    values = []
    for shift in (0, 1):
        step = half_labelled()
        step.y = torch.where(HALF, (step.y + shift) % 4, step.y)
        terms = build_objective(name, **arguments)(step)
        weights = [*step.net.body.parameters(), *step.net.classifier.parameters()]
        gradients = torch.autograd.grad(total(terms), weights, allow_unused=True)
        values.append(([term.value for term in terms], [g for g in gradients if g is not None]))
    for first, second in zip(*values, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _by_name(terms: list[Term]) -> dict[str, Tensor]:
    return {term.name: term.value for term in terms}


def test_the_cross_entropy_is_the_mean_over_the_labelled_and_the_divergence_over_all() -> None:
    step = half_labelled()
    terms = _by_name(build_objective("kd", ce_weight=0.5, temperature=1.0)(step))
    student, teacher = step.net(step.x).logits, step.frozen(step.x).logits
    torch.testing.assert_close(terms["ce"], ce(student, step.y)[~HALF].mean())
    torch.testing.assert_close(terms["kd"], kl(teacher, student).mean())


def test_a_mixture_has_of_each_label_its_share() -> None:
    step = half_labelled()
    terms = _by_name(build_objective("kd", mixup=1.0, ce_weight=0.5)(step))
    from rrm_transfer.objectives.inputs import mix

    mixture = mix(step, 1.0)
    logits = step.net(mixture.x).logits
    own = mixture.share * mixture.own.weight * ce(logits, mixture.own.target)
    partners = (1 - mixture.share) * mixture.partners.weight * ce(logits, mixture.partners.target)
    torch.testing.assert_close(terms["ce"], (own + partners).mean())


@pytest.mark.parametrize("name", ["n-fgsm", "ard", "natural", "kd-adv", "free-at"])
def test_the_teachers_answers_are_labels_like_others(name: str) -> None:
    arguments = {"ce_weight": 0.5} if name == "kd-adv" else {}
    half = half_labelled()
    answers = half.frozen(half.x).logits.argmax(1)
    known = make_step()
    known.y = torch.where(HALF, answers, half.y)
    expected = _by_name(build_objective(name, **arguments)(known))
    found = _by_name(TeacherLabels(build_objective(name, **arguments))(half))
    assert found.keys() == expected.keys()
    for term, value in expected.items():
        torch.testing.assert_close(found[term], value, rtol=0, atol=0)


def test_it_asks_for_logits_of_clean_images_beside_what_the_objective_asks() -> None:
    def asked(objective: Objective) -> tuple[set[str], set[str]]:
        return set(objective.needs), set(objective.teacher_sees)

    assert asked(TeacherLabels(build_objective("n-fgsm"))) == ({"logits"}, {"clean"})
    assert asked(TeacherLabels(build_objective("rrm"))) == ({"features", "logits"}, {"clean"})
    assert asked(TeacherLabels(build_objective("iad"))) == ({"logits"}, {"clean", "other"})
    assert TeacherLabels(build_objective("free-at", replays=3)).replays == 3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_is_what_the_objective_is_in_all_else(name: str) -> None:
    objective = build_objective(name)
    wrapped = TeacherLabels(objective)
    changed = {"needs", "teacher_sees", "labels_optional"}
    for attribute in inspect.get_annotations(Objective).keys() - changed:
        assert getattr(wrapped, attribute) == getattr(objective, attribute), attribute


def test_its_state_is_the_objectives() -> None:
    made = TeacherLabels(build_objective("free-at"))
    made(half_labelled())[0].value.backward()  # type: ignore[no-untyped-call]
    assert made.state_dict().keys() == {"delta"}
    other = TeacherLabels(build_objective("free-at"))
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.state_dict()["delta"], made.state_dict()["delta"])
