from __future__ import annotations

import inspect

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.objectives import (
    OBJECTIVES,
    argument_problems,
    build_objective,
    objective_arguments,
    objective_class,
)
from rrm_transfer.objectives.adversarial import PGDAT
from rrm_transfer.objectives.base import LayerPair
from rrm_transfer.objectives.matching import RRM, RRMAdv
from rrm_transfer.objectives.teacher_labels import TeacherLabels


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_argument_has_type_default_and_help(name: str) -> None:
    component = objective_class(name)
    assert "__dataclass_fields__" in vars(component)  # an inherited decorator would not see its own fields
    parameters = inspect.signature(component).parameters
    described = {argument.name: argument for argument in objective_arguments(name)}
    assert described.keys() == parameters.keys()
    for parameter in parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert described[parameter.name].default == parameter.default
        assert described[parameter.name].doc.endswith(".")
        assert described[parameter.name].type
    assert argument_problems(name, {a.name: a.default for a in described.values()}) == []
    assert "Args:" in inspect.cleandoc(component.__doc__ or "")


def test_a_methods_own_arguments_come_first() -> None:
    names = [argument.name for argument in objective_arguments("igdm")]
    assert names == ["igdm_weight", "adversarial_share", "steps", "step_size"]
    assert objective_arguments("rdt")[-1].name == "label_smoothing"


def test_arguments_are_described_in_words() -> None:
    described = {argument.name: argument for argument in objective_arguments("rrm-adv")}
    assert described["distance"].type == "cosine | relative_l2 | both"
    assert described["steps"].type == "whole number, 1 or more"
    assert described["step_size"].type == "number, 0 or more, or null"
    assert described["temperature"].type == "number, above 0"
    assert described["clip"].type == "true or false"
    assert described["student_layers"].type == "list of: name or index"
    assert described["teacher_layers"].type == "list of: name or index, or null"
    assert described["layer_weights"].type == "list of: number, above 0"
    assert "2.5 / steps" in described["step_size"].doc
    assert described["feature_weight"].doc.startswith("λ_feat")  # its own
    assert described["kd_weight"].doc.startswith("λ_kd")  # inherited


def test_lists_may_be_given_as_one_value() -> None:
    objective = build_objective("rrm", student_layers="layer2", layer_weights="1/4")
    assert objective.layers == (LayerPair("layer2", "layer2"),)
    assert build_objective("rrm", student_layers=["a", -1], teacher_layers=[2, "b"]).layers == (
        LayerPair("a", 2),
        LayerPair(-1, "b"),
    )


def test_numbers_may_be_whole_or_text() -> None:
    objective = build_objective("rrm", feature_weight=2, ce_weight="1/200", noise="1e-1")
    assert isinstance(objective, RRM)
    assert (objective.feature_weight, objective.ce_weight, objective.noise) == (2.0, 0.005, 0.1)
    adversarial = build_objective("rrm-adv", step_size=None, steps=5)
    assert isinstance(adversarial, RRMAdv)
    assert adversarial.inner.step_size == 0.5
    assert isinstance(build_objective("pgd-at", steps=7), PGDAT)


@pytest.mark.parametrize(
    ("name", "arguments", "parts"),
    [
        ("rmm", {}, ["Unknown objective", "rmm", "rrm", "trades"]),
        ("rrm", {"distence": "cosine"}, ["distence", "distance, feature_weight", "did you mean distance?"]),
        ("kd-adv", {"anchor": "start"}, ["go together", "anchor=start, anchor_weight=0"]),
        ("rrm-adv", {"anchor_weight": 1}, ["go together", "anchor=null, anchor_weight=1"]),
        ("kd-adv", {"mixup": 1}, ["kd-adv has no argument 'mixup'"]),
        ("kd-adv", {"steps": 0}, ["kd-adv cannot take this steps"]),
        ("kd-adv", {"weighting": "entropy", "begin": 1}, ["no effect", "weighting=entropy, and begin=1"]),
        (
            "rrm-adv",
            {"weighting": "entropy", "feature_weight": 0, "ce_weight": 1},
            ["no effect", "no weight of the teacher's answers"],
        ),
        ("rrm", {"distance": "l1"}, ["'l1'", "cosine | relative_l2 | both"]),
        ("rrm", {"ce_weight": -1}, ["-1", "0 or more", "default 0.005"]),
        ("rrm", {"ce_weight": True}, ["True", "number"]),
        ("rrm", {"ce_weight": None}, ["None", "number"]),
        ("rrm", {"ce_weight": float("nan")}, ["nan", "number"]),
        ("rrm", {"ce_weight": "__import__('os')"}, ["__import__", "number"]),
        ("rrm", {"mixup": 1.5}, ["1.5", "0 to 1"]),
        ("rrm", {"ce_weight": 0, "feature_weight": 0}, ["Nothing is left to minimise"]),
        (
            "rrm",
            {"ce_weight": 0, "freeze_classifier": False},
            ["No loss term trains", "freeze_classifier=true"],
        ),
        ("rrm", {"student_layers": [1, 2], "teacher_layers": ["a"]}, ["counterpart", "[1, 2]", "['a']"]),
        ("rrm", {"student_layers": [1, 1]}, ["pair no two layers twice"]),
        ("rrm", {"student_layers": [1], "layer_weights": [1, 2]}, ["one for each layer", "[1.0, 2.0]"]),
        ("rrm", {"student_layers": [1], "layer_weights": 0}, ["above 0"]),
        ("rrm", {"student_layers": [1.5]}, ["1.5", "list of: name or index (default [])"]),
        ("kd", {"student_layers": [1]}, ["units of feature_weight"]),
        ("kd", {"temperature": 0}, ["0", "above 0"]),
        ("pgd-at", {"steps": 0}, ["0", "1 or more"]),
        ("pgd-at", {"steps": 2.0}, ["2.0", "whole number"]),
        ("pgd-at", {"random_start": "yes"}, ["'yes'", "true or false"]),
    ],
)
def test_mistakes_name_what_is_allowed(name: str, arguments: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_objective(name, **arguments)
    for part in parts:
        assert part in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    problems = argument_problems("rrm", {"ce_weight": "x", "noise": 0.5, "mix": 1, "distance": 3})
    assert [problem.argument for problem in problems] == ["ce_weight", "mix", "distance"]


def test_needs_follow_the_arguments() -> None:
    assert build_objective("natural").needs == frozenset()
    assert build_objective("rrm").needs == {"features"}
    assert build_objective("rrm", ce_weight=0).needs == {"features", "frozen_classifier"}
    assert build_objective("rrm").borrows_classifier
    assert not build_objective("rrm", distance="relative_l2").borrows_classifier
    assert not build_objective("rrm", kd_weight=1).borrows_classifier
    assert build_objective("rrm", freeze_classifier=True).needs == {"features", "frozen_classifier"}
    assert build_objective("rrm", freeze_classifier=False).needs == {"features"}
    assert build_objective("rrm-adv", ce_weight=0, clean_ce_weight=1).needs == {"features"}
    assert build_objective("rrm", ce_weight=0, kd_weight=1).needs == {"features", "logits"}
    assert build_objective("rrm", kd_weight=1).needs == {"features", "logits"}
    assert build_objective("rrm", feature_weight=0, kd_weight=1).needs == {"logits"}
    assert build_objective("rrm-adv", ascend="kl").needs == {"features", "logits"}
    assert build_objective("rrm-adv", igdm_weight=1).needs == {"features", "logits"}
    assert build_objective("kd-adv", ascend="ce").needs == {"logits"}
    assert build_objective("rrm-adv", weighting="entropy").needs == {"features", "logits"}
    assert build_objective("trades").needs == frozenset()


def test_a_penalty_on_a_gradient_is_told_before_training() -> None:
    twice = [("gradnorm", {}), ("rrm", {"gradient_weight": 1}), ("kd", {"gradient_weight": 1})]
    assert all(build_objective(name, **arguments).differentiates_twice for name, arguments in twice)
    assert TeacherLabels(build_objective("kd", gradient_weight=1)).differentiates_twice
    assert not any(build_objective(name).differentiates_twice for name in OBJECTIVES if name != "gradnorm")
