"""A network whose robustness is known by counting."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.pixels import NAMED_STATISTICS
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.teachers.view import View

SIZE = 32


class Brightness(nn.Module):
    """Two classes: light, then dark."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 2)
        self.fc.weight.data = torch.tensor([[1.0], [-1.0]])
        self.fc.bias.data = torch.tensor([-0.5, 0.5])

    def forward(self, x: torch.Tensor) -> Outputs:
        features = x.mean((2, 3))
        return Outputs(self.fc(features), features)


def brightness(**_: Any) -> Teacher:
    return Teacher(
        Brightness(),
        name="brightness",
        architecture="brightness",
        statistics=NAMED_STATISTICS["none"],
        view=View((1, 1), (SIZE, SIZE)),
        class_names=("light", "dark"),
    )
