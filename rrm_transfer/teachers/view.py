"""How a teacher sees the data: the conversion from the data's size and channels to the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.pixels import LUMA

_COLOURS = {1: "grey", 3: "RGB"}


@dataclass(frozen=True)
class View:
    """A differentiable conversion of pixels; it keeps them in [0, 1].

    Attributes:
        channels: Of the data and of the teacher.
        size: Side in pixels of the data and of the teacher's input; None for the teacher: as it comes.
    """

    channels: tuple[int, int]
    size: tuple[int, int | None]

    def __post_init__(self) -> None:
        given, wanted = self.channels
        if given != wanted and not {given, wanted} <= set(_COLOURS):
            raise UserError(
                "The teacher's channels do not fit the data.",
                received=f"data with {given} channels, a teacher with {wanted}",
                allowed="equal numbers, or grey (1) and RGB (3)",
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Converts ``x``.

        Args:
            x: Pixels in [0, 1], ``(B, data channels, H, W)``.

        Returns:
            Pixels in [0, 1], ``(B, teacher channels, size, size)``.
        """
        given, wanted = self.channels
        if given < wanted:
            x = x.expand(-1, wanted, -1, -1)
        elif given > wanted:
            x = (x * x.new_tensor(LUMA).view(1, -1, 1, 1)).sum(1, keepdim=True)
        side = self.size[1]
        if side is not None and x.shape[-2:] != (side, side):
            # Bilinear weights are not negative, so the range is kept; bicubic would leave it.
            x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        return x

    def __str__(self) -> str:
        """Writes the conversion as it is printed and recorded."""
        steps = []
        given, wanted = self.channels
        if given != wanted:
            steps.append(f"{_COLOURS[given]} to {_COLOURS[wanted]}")
        side, target = self.size
        if target is not None and side != target:
            steps.append(f"{side}x{side} to {target}x{target}, bilinear")
        return "; ".join(steps) or "as the data"
