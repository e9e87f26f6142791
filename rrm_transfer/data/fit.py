"""How images of a source's size become the network's square input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from rrm_transfer.core.errors import UserError

Box = tuple[int, int, int, int]
"""top, left, height, width in native pixels."""

Rule = Literal["none", "pad", "resize", "crop"]
RULES: tuple[str, ...] = get_args(Rule)

CROP_FRACTION = 0.875
"""Side of the centre crop in units of the resized shorter side: 224 of 256, as customary on ImageNet."""

SMALLEST, LARGEST, STEP = 32, 224, 32
"""Input sizes that are chosen unasked: multiples of 32, which networks divide, from 32 to 224."""


@dataclass(frozen=True)
class Fit:
    """The rule that brings an image to ``size`` x ``size``, the same in training and evaluation.

    Attributes:
        rule: ``none``; ``pad`` with zeros on all sides; ``resize`` the whole image; or ``crop``: resize
            the shorter side and keep the centre. Resizing is bilinear and antialiased.
        size: Side of the result in pixels.
    """

    rule: Rule
    size: int

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UserError("Unknown rule to fit images.", received=self.rule, allowed=RULES)
        if self.size < 1:
            raise UserError("The image size must be positive.", received=self.size)

    def __str__(self) -> str:
        square = f"{self.size}x{self.size}"
        shorter = round(self.size / CROP_FRACTION)
        return {
            "none": "as they are",
            "pad": f"padded to {square}",
            "resize": f"resized to {square}",
            "crop": f"shorter side resized to {shorter}, centre cropped to {square}",
        }[self.rule]

    def describe(self, size: tuple[int, int] | None) -> str:
        """Names the rule with the size that it starts from: ``28x28 padded to 32x32``.

        Args:
            size: Native (height, width), None where images differ.
        """
        native = "mixed sizes" if size is None else f"{size[0]}x{size[1]}"
        return native if self.rule == "none" else f"{native}{',' * (size is None)} {self}"

    def box(self, height: int, width: int) -> Box:
        """Returns which part of an image is kept before it is padded or resized.

        Raises:
            UserError: The rule does not suit this size.
        """
        if self.rule == "crop":
            side = max(1, round(min(height, width) * CROP_FRACTION))
            return (height - side) // 2, (width - side) // 2, side, side
        if self.rule == "none" and (height, width) != (self.size, self.size):
            raise self._unsuited(height, width, "resize")
        if self.rule == "pad" and max(height, width) > self.size:
            raise self._unsuited(height, width, "crop")
        return 0, 0, height, width

    def apply(self, pixels: Tensor) -> Tensor:
        """Fits a batch.

        Args:
            pixels: ``(B, C, H, W)`` uint8.

        Returns:
            ``(B, C, size, size)`` uint8.

        Raises:
            UserError: The rule does not suit this size.
        """
        top, left, height, width = self.box(*pixels.shape[2:])
        kept = pixels[:, :, top : top + height, left : left + width]
        if self.rule == "pad":
            above, before = (self.size - height) // 2, (self.size - width) // 2
            return F.pad(kept, (before, self.size - width - before, above, self.size - height - above))
        return resize(kept, self.size)

    def _unsuited(self, height: int, width: int, better: str) -> UserError:
        return UserError(
            f"Images cannot be fitted by the rule {self.rule!r}.",
            received=f"{height}x{width} for a {self.size}x{self.size} input",
            hint=f"use the rule {better!r}",
        )


def resize(pixels: Tensor, size: int) -> Tensor:
    """Resizes ``(B, C, H, W)`` uint8 to squares of ``size``, bilinear and antialiased."""
    if pixels.shape[2:] == (size, size):
        return pixels
    floats = F.interpolate(pixels.float(), (size, size), mode="bilinear", antialias=True)
    return floats.round_().clamp_(0, 255).to(torch.uint8)


def choose_fit(size: tuple[int, int] | None, image_size: int | None) -> Fit:
    """Chooses how images reach the network's input.

    Small images are padded where the border stays under a quarter of the input, and resized otherwise;
    images larger than 128 px and oblong ones are cropped as on ImageNet.

    Args:
        size: Native (height, width), None where images differ.
        image_size: The side of the network's input; None chooses a multiple of 32, 224 at most.
    """
    if size is None:
        return Fit("crop", image_size or LARGEST)
    height, width = size
    if image_size is None:
        image_size = min(LARGEST, max(SMALLEST, -(-max(size) // STEP) * STEP))
    if height == width == image_size:
        return Fit("none", image_size)
    if max(size) <= image_size and 4 * min(size) >= 3 * image_size:
        return Fit("pad", image_size)
    return Fit("resize" if height == width and height <= max(128, image_size) else "crop", image_size)
