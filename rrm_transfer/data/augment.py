"""Augmentation in batches whose random numbers belong to the sample.

The same (seed, view, sample id) gives the same picture in any batch, process and order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rrm_transfer.core.devices import constant
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.pixels import LUMA
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.data.fit import Box

ASPECT_RATIOS = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10
PCA_VALUES = (0.2175, 0.0188, 0.0045)
PCA_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Principal components of ImageNet's pixel colours, a column each, and their standard deviations."""


Draws = dict[str, Tensor]
"""Random numbers of some images, by what they are for."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, applied in the order of the attributes.

    Attributes:
        random_resized_crop: Range of the area kept, as fractions of the image; aspect ratios are between
            3/4 and 4/3 (Szegedy et al., CVPR 2015). It takes the place of the fit rule.
        crop_padding: Pixels of zeros around the fitted image before a random crop of its size.
        flip: Mirrors left and right with probability 1/2.
        jitter: Brightness, contrast and saturation, in this order, each by a factor within 1 ± jitter.
        rotation: Turns by an angle within ± so many degrees; corners become zero.
        lighting: Standard deviation of noise along ImageNet's colour components (Krizhevsky et al.,
            NeurIPS 2012); colour images only.
    """

    crop_padding: int = 0
    flip: bool = False
    jitter: float = 0.0
    rotation: float = 0.0
    random_resized_crop: tuple[float, float] | None = None
    lighting: float = 0.0

    def __post_init__(self) -> None:
        for name, limit in (("crop_padding", math.inf), ("jitter", 1), ("rotation", 180), ("lighting", 1)):
            value = getattr(self, name)
            if not 0 <= value <= limit:
                allowed = f"0 to {limit}" if math.isfinite(limit) else "0 or more"
                raise UserError(f"Augmentation: {name} is out of range.", received=value, allowed=allowed)
        if self.random_resized_crop is not None:
            low, high = self.random_resized_crop
            if not 0 < low <= high <= 1:
                raise UserError(
                    "Augmentation: random_resized_crop is out of range.",
                    received=f"{low}, {high}",
                    allowed="two fractions of the area, rising, above 0 and up to 1",
                )

    def __str__(self) -> str:
        parts = []
        if self.random_resized_crop:
            low, high = self.random_resized_crop
            parts.append(f"random resized crop {low:g} to {high:g}")
        parts += [f"crop {self.crop_padding}"] * bool(self.crop_padding)
        parts += ["flip"] * self.flip
        parts += [f"jitter {self.jitter:g}"] * bool(self.jitter)
        parts += [f"rotation {self.rotation:g}°"] * bool(self.rotation)
        parts += [f"lighting {self.lighting:g}"] * bool(self.lighting)
        return " + ".join(parts) or "no augmentation"

    def __call__(self, pixels: Tensor, randomness: Randomness) -> Tensor:
        """Changes a batch of fitted images; ``random_resized_crop`` comes before, see ``random_box``.

        Args:
            pixels: ``(B, C, H, W)`` uint8.
            randomness: Keyed by the batch's ids, on the device of ``pixels``.

        Returns:
            Pixels in [0, 1], ``(B, C, H, W)`` float32.
        """
        return self.apply(pixels, self.draw(randomness))

    def draw(self, randomness: Randomness) -> Draws:
        """Returns what ``apply`` needs for each image, by the change that needs it, a row ``(N, …)`` each."""
        draws: Draws = {}
        if self.crop_padding:
            for side in ("top", "left"):
                draws[side] = randomness.integers(f"crop/{side}", 2 * self.crop_padding + 1)
        if self.flip:
            draws["flip"] = randomness.integers("flip", 2).to(torch.uint8).mul_(255)
        if self.jitter:
            draws["jitter"] = 1 + self.jitter * (2 * randomness.uniform("jitter", (3,)) - 1)
        if self.rotation:
            draws["rotation"] = self.rotation * (2 * randomness.uniform("rotation", ()) - 1)
        if self.lighting:
            draws["lighting"] = self.lighting * randomness.normal("lighting", (3,))
        return draws

    def apply(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Changes a batch of fitted images by what was drawn for them; see ``__call__``."""
        if self.crop_padding:
            pixels = _shift(pixels, draws["top"], draws["left"], self.crop_padding)
        if self.flip:
            pixels = _mirror(pixels, draws["flip"])
        x = pixels.float().div_(255)
        if self.jitter:
            x = _jitter(x, draws["jitter"])
        if self.rotation:
            x = _rotate(x, draws["rotation"])
        if self.lighting:
            x = _light(x, draws["lighting"])
        return x


def draw_boxes(randomness: Randomness) -> Tensor:
    """Returns what ``random_box`` needs for each sample, ``(B, 10, 4)`` in [0, 1)."""
    return randomness.uniform("random resized crop", (CROP_ATTEMPTS, 4))


def random_box(draws: Tensor, scale: tuple[float, float], height: int, width: int) -> Box:
    """Turns a sample's draws into the box of its random resized crop.

    The first of the attempts that lies within the image counts; failing all, the largest centred box of
    an allowed aspect ratio.

    Args:
        draws: ``(10, 4)`` in [0, 1): area, aspect ratio, vertical and horizontal place.
        scale: Range of the area, as fractions of the image.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
    """
    low, high = (math.log(ratio) for ratio in ASPECT_RATIOS)
    for area, ratio, vertical, horizontal in draws.tolist():
        kept = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = math.exp(low + (high - low) * ratio)
        rows, columns = round(math.sqrt(kept / aspect)), round(math.sqrt(kept * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            top, left = int(vertical * (height - rows + 1)), int(horizontal * (width - columns + 1))
            return top, left, rows, columns
    rows = min(height, round(width / ASPECT_RATIOS[0]))
    columns = min(width, round(height * ASPECT_RATIOS[1]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _shift(pixels: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    batch, _, height, width = pixels.shape
    windows = F.pad(pixels, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(batch, device=pixels.device), :, top, left]


def _mirror(pixels: Tensor, chosen: Tensor) -> Tensor:
    # Bits of two images swapped under a mask: on CPUs a sixth to an eighth of the time of torch.where.
    mask = chosen[:, None, None, None]
    return pixels.flip(-1).bitwise_xor_(pixels).bitwise_and_(mask).bitwise_xor_(pixels)


def _jitter(x: Tensor, factors: Tensor) -> Tensor:
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
    x = (x * brightness).clamp_(0, 1)
    mean = _grey(x).mean((1, 2, 3), keepdim=True)
    x = (mean + (x - mean) * contrast).clamp_(0, 1)
    if x.shape[1] == 1:
        return x
    grey = _grey(x)
    return (grey + (x - grey) * saturation).clamp_(0, 1)


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    weights = constant(LUMA, x.device).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def _rotate(x: Tensor, degrees: Tensor) -> Tensor:
    angle = torch.deg2rad(degrees)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    height, width = x.shape[2:]
    # Grid coordinates span [-1, 1] on either axis, so an oblong image needs its sides' ratio.
    matrix = torch.stack(
        [cosine, -sine * height / width, zero, sine * width / height, cosine, zero], dim=1
    ).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _light(x: Tensor, amounts: Tensor) -> Tensor:
    values = constant(PCA_VALUES, x.device)
    vectors = constant(PCA_VECTORS, x.device)
    return (x + ((amounts * values) @ vectors.T)[:, :, None, None]).clamp_(0, 1)
