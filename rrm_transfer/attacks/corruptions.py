"""Common corruptions (Hendrycks and Dietterich, arXiv 1903.12261) through the imagecorruptions library."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor

from rrm_transfer.attacks.attack import Attack, Logits, Stage, Victims
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import derive_seed

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32
"""Side in pixels of the smallest images that the library takes."""

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""The fifteen of the benchmark, without the four that the paper keeps for validation."""

_SEEDED_BY_ARGUMENT = ("impulse_noise", "glass_blur")
"""These draw from generators of their own, which numpy's global seed does not reach."""
_GREEN = 1


def corruptions_version() -> str | None:
    """Returns the versions of the libraries that the pictures come from, None where one is missing."""
    names = ("imagecorruptions-imaug", "opencv-python", "scikit-image", "scipy", "pillow")
    try:
        return ", ".join(f"{name} {version(name)}" for name in names)
    except PackageNotFoundError:
        return None


def check_corruptions_usable(channels: int, image_size: int) -> None:
    """Checks that images can be corrupted, before anything is measured.

    Raises:
        UserError: The library is not installed or does not start, or it does not take such images.
    """
    try:
        import imagecorruptions  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"Corruptions need the imagecorruptions library: {error}.",
            hint='pip install "rrm-transfer[corruptions]"; where libGL is missing, then also '
            "pip install --force-reinstall opencv-python-headless",
        ) from None
    if channels not in (1, 3) or image_size < SMALLEST:
        raise UserError(
            "Such images cannot be corrupted.",
            received=f"{image_size}x{image_size} pixels, {channels} channels",
            allowed=f"{SMALLEST}x{SMALLEST} pixels or more, 1 or 3 channels",
        )


def corruption_attack(name: str, severity: int, *, seed: int) -> Attack:
    """Makes a measurement on corrupted images.

    The library corrupts 8-bit images with the constants of ImageNet-C at every image size, so small images
    suffer more than in CIFAR-10-C, whose constants are milder. Grey images are corrupted as RGB images of
    three equal channels and the green one is kept: a mean of the channels would take from the noise what is
    independent in them.

    Args:
        name: One of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: An image's corruption depends on this, on its index and on ``name``, on nothing else.
    """

    def perturb(_: Logits, victims: Victims) -> Tensor:
        pictures = (victims.x * 255).round().byte().cpu().permute(0, 2, 3, 1).numpy()
        corrupted = np.stack(
            [
                _corrupt(picture, name, severity, derive_seed(seed, name, index))
                for picture, index in zip(pictures, victims.index.tolist(), strict=True)
            ]
        )
        channels = corrupted if pictures.shape[-1] == 3 else corrupted[..., _GREEN : _GREEN + 1]
        return torch.from_numpy(channels).permute(0, 3, 1, 2).to(victims.x) / 255

    return Attack(f"{name}-{severity}", None, None, None, (Stage(name, 1.0, perturb),))


def _corrupt(
    picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], name: str, severity: int, seed: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    import imagecorruptions

    seed %= 1 << 32
    own = {"seed": seed} if name in _SEEDED_BY_ARGUMENT else {}
    with _numpy_seeded(seed), contextlib.redirect_stdout(io.StringIO()):
        result: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = imagecorruptions.corrupt(
            picture, severity=severity, corruption_name=name, **own
        )
    return result


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator, which the library draws from, and puts it back."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
