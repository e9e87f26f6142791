from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from rrm_transfer.attacks import autoattack
from rrm_transfer.attacks.attack import Attack, Victims
from rrm_transfer.attacks.autoattack import PARTS, SUITES, library_warnings, part, suite
from rrm_transfer.attacks.catalogue import build_attack
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.threat import Norm, ThreatModel
from tests.attacks.toys import Toy, toy

pyautoattack: Any = pytest.importorskip("pyautoattack")

LINF = ThreatModel("Linf", 0.1)


def names(attack: Attack) -> list[str]:
    return [stage.name for stage in attack.stages]


def test_versions_are_the_librarys() -> None:
    for name, version in (
        ("autoattack", "standard"),
        ("autoattack-plus", "plus"),
        ("autoattack-rand", "rand"),
    ):
        library = pyautoattack.AutoAttack(toy().logits, eps=0.1, version=version, seed=0)
        ours = suite(name, LINF, seed=0, classes=10)
        assert ours.name == name
        assert names(ours) == library.attacks_to_run
        assert ours.steps == library.apgd.n_iter
        assert ours.restarts == library.apgd.n_restarts
    assert library.square.n_queries == autoattack.QUERIES


@pytest.mark.parametrize(
    ("classes", "stages"),
    [
        (2, ["apgd-ce", "fab-t", "square"]),
        (3, ["apgd-ce", "fab-t", "square"]),
        (4, ["apgd-ce", "apgd-t", "fab-t", "square"]),
        (100, ["apgd-ce", "apgd-t", "fab-t", "square"]),
    ],
)
def test_few_classes_make_a_suite_that_is_named_as_reduced(classes: int, stages: list[str]) -> None:
    attack = suite("autoattack", LINF, seed=0, classes=classes)
    assert names(attack) == stages
    assert attack.name == ("autoattack" if classes > 3 else "autoattack-reduced")


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_suits_two_classes(name: str) -> None:
    attack = suite(name, LINF, seed=0, classes=2)
    assert attack.name == f"{name}-reduced"
    assert not {"apgd-t", "apgd-dlr"} & set(names(attack))
    with pytest.raises(UserError, match="too few classes"):
        suite(name, LINF, seed=0, classes=1)


def test_a_reduced_suite_runs_and_breaks_images() -> None:
    model, threat = toy(3), ThreatModel("Linf", 0.18)
    victims = model.victims(20)
    left = [len(victims.x)]
    for stage in suite("autoattack", threat, seed=0, classes=3).stages:
        x_adv = stage.perturb(model.logits, victims)
        assert threat.size(x_adv - victims.x).max() <= threat.eps + 1e-6
        kept = model.logits(x_adv).argmax(1) == victims.y
        victims = Victims(*(values[kept] for values in victims))
        left.append(int(kept.sum()))
    assert len(left) == 4
    assert 20 > left[1] >= left[-1] > 0


@pytest.mark.parametrize(("name", "least"), [("apgd-dlr", 3), ("apgd-t", 4), ("fab-t", 2)])
def test_too_few_classes_for_a_part_are_refused(name: str, least: int) -> None:
    part(name, LINF, seed=0, classes=least, steps=None, restarts=1)
    with pytest.raises(UserError, match=f"{least} classes or more"):
        part(name, LINF, seed=0, classes=least - 1, steps=None, restarts=1)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_the_librarys(name: str, norm: Any) -> None:
    model, threat = toy(), ThreatModel(norm, {"Linf": 0.2, "L2": 1.1}[norm])
    victims = model.victims(12)
    stage_name = "apgd-ce" if name == "apgd" else name
    library = pyautoattack.AutoAttack(
        model.logits, norm=norm, eps=threat.eps, seed=3, version="custom", attacks=[stage_name]
    )
    library.apgd.n_restarts = 1
    library.fab.n_target_classes = library.apgd_targeted.n_target_classes = 4
    library.square.n_queries = 300
    expected, _ = library.run_standard_evaluation(victims.x, victims.y, batch_size=12)
    steps = 300 if name == "square" else None
    attack = part(name, threat, seed=3, classes=5, steps=steps, restarts=1)
    (stage,) = attack.stages
    assert torch.equal(stage.perturb(model.logits, victims), expected)
    assert attack.name == name
    assert not torch.equal(expected, victims.x)
    assert 0 <= expected.min() <= expected.max() <= 1
    assert threat.size(expected - victims.x).max() <= threat.eps * (1 + 1e-5)


def test_steps_and_restarts_reach_the_library() -> None:
    model = toy()
    calls = [0]

    def counting(x: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return model.logits(x)

    def price(name: str, steps: int, restarts: int) -> int:
        calls[0] = 0
        attack = part(name, ThreatModel("Linf", 1e-4), seed=0, classes=5, steps=steps, restarts=restarts)
        assert (attack.steps, attack.restarts) == (steps, 1 if name == "fab-t" else restarts)
        attack.stages[0].perturb(counting, model.victims(4))
        return calls[0]

    targets = 4
    for name, calls_per_step in (("apgd-ce", 1), ("apgd-t", targets), ("fab-t", 2 * targets)):
        assert price(name, 20, 1) - price(name, 10, 1) == 10 * calls_per_step
    assert price("apgd-ce", 10, 3) - price("apgd-ce", 10, 1) == 2 * 11


def test_the_callers_random_numbers_are_left_alone() -> None:
    model = toy()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    stage = part("apgd-ce", LINF, seed=0, classes=5, steps=3, restarts=1).stages[0]
    first = stage.perturb(model.logits, model.victims())
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(stage.perturb(model.logits, model.victims()), first)


@pytest.mark.parametrize("classes", [2, 5, 14])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_smallest_perturbation_of_a_linear_network_is_its_distance(norm: Norm, classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    weight, x = torch.randn(classes, 9, generator=generator), torch.rand(6, 1, 3, 3, generator=generator)
    x = 0.4 + 0.2 * x  # far from where the image range ends

    def logits(x: Tensor) -> Tensor:
        return 0.1 * (x.flatten(1) - 0.5) @ weight.T

    y = logits(x).argmax(1)
    attack = build_attack("minimum-norm", ThreatModel(norm, 3.0), seed=0, classes=classes, steps=10)
    found = attack.stages[0].perturb(logits, Victims(torch.arange(6), x, y))
    assert (logits(found).argmax(1) != y).all()
    dual = 1 if norm == "Linf" else 2
    normals = torch.linalg.vector_norm(weight[y][:, None] - weight[None], ord=dual, dim=2)
    gaps = logits(x).gather(1, y[:, None]) - logits(x)
    nearest = (gaps / (0.1 * normals)).masked_fill(normals == 0, torch.inf).amin(1)
    size = ThreatModel(norm, 3.0).size(found - x)
    assert (size >= nearest * (1 - 1e-4)).all()
    assert (size <= nearest * 1.06).all()  # it overshoots by 5 %, to be across


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its files may be there all the same.
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(UserError, match=r"pip install \"rrm-transfer\[autoattack\]\""):
        suite("autoattack", LINF, seed=0, classes=10)
    with pytest.raises(UserError, match="pip install"):
        part("square", LINF, seed=0, classes=10, steps=None, restarts=1)


def test_the_librarys_warnings_are_passed_on_once() -> None:
    model = Toy(5)
    model.net = torch.nn.Sequential(model.net, torch.nn.Softmax(1))
    said: list[str] = []
    stage = part("apgd-ce", LINF, seed=0, classes=5, steps=2, restarts=1).stages[0]
    with library_warnings(said.append):
        for _ in range(2):
            stage.perturb(model.logits, model.victims())
    assert len(said) == 1
    assert "probability distribution" in said[0]
    assert not logging.getLogger("auto-attack").handlers
