"""Which students suit an objective that differentiates them twice."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from rrm_transfer.core.errors import RecipeError, UserError
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.recipe.schema import ObjectiveSection
from rrm_transfer.runs.resolve import resolve, with_objective
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runs.smoothness import missing_derivative, piecewise_linear_activations
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.progress import Narrator
from tests.support import tiny


class Net(nn.Module):
    """A convolution between two activations."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(activation, nn.Conv2d(1, 2, 3), activation, nn.Flatten())

    def forward(self, x: torch.Tensor) -> Outputs:
        features = self.layers(x)
        return Outputs(features, features)


@pytest.mark.parametrize(
    ("activation", "kinks", "has_derivative"),
    [
        (nn.ReLU(), 2, True),
        (nn.ReLU6(), 2, True),
        (nn.LeakyReLU(), 2, True),
        (nn.GELU(), 0, True),
        (nn.SiLU(), 0, True),
        (nn.Hardswish(), 0, True),
        (nn.Hardsigmoid(), 0, False),
    ],
    ids=str,
)
def test_kinks_are_counted_and_what_has_no_derivative_is_named(
    activation: nn.Module, kinks: int, has_derivative: bool
) -> None:
    network, images = Net(activation).to("meta"), torch.empty(2, 1, 8, 8, device="meta")
    assert piecewise_linear_activations(network, images) == kinks
    missing = missing_derivative(network, images)
    assert (missing is None) == has_derivative
    assert has_derivative or "hardsigmoid_backward" in str(missing)


def _setup(data: Path, *overrides: str, student: str) -> tuple[Setup, str]:
    said = StringIO()
    content = {
        "student": {"name": student},
        "data": {"name": str(data)},
        "objective": {"name": "gradnorm"},
        "control": {"enabled": False},
    }
    recipe = build_recipe(content, [*tiny.settings(epochs=1), *overrides])
    setup = resolve(recipe, Context.begin(Narrator(Console(file=said, width=1000))))
    return setup, said.getvalue()


def test_a_relu_network_is_warned_of_and_another_not(tiny_data: Path) -> None:
    _, said = _setup(tiny_data, student="test_resnet")
    assert "12 activations of test_resnet are piecewise linear" in said
    assert "act_layer=gelu" in said
    setup, said = _setup(tiny_data, "student.args.act_layer=gelu", student="test_resnet")
    assert "piecewise linear" not in said
    compiled = setup.recipe.changed(train=setup.recipe.train.changed(compile=True))
    with pytest.raises(RecipeError, match=r"train\.compile: goes without gradnorm"):
        with_objective(replace(setup, recipe=compiled), ObjectiveSection(name="gradnorm"))


def test_what_cannot_be_differentiated_twice_is_refused_before_training(tiny_data: Path) -> None:
    with pytest.raises(UserError, match="hardsigmoid_backward") as caught:
        _setup(tiny_data, student="lcnet_035")
    assert "act_layer=gelu" in str(caught.value)
    with pytest.raises(RecipeError, match=r"train\.gradient_checkpointing: goes without gradnorm"):
        _setup(tiny_data, "train.gradient_checkpointing=true", student="test_resnet")
