from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.data.augment import Augmentation, draw_boxes, random_box
from tests.data.fixtures import noise

EVERYTHING = Augmentation(crop_padding=4, flip=True, jitter=0.3, rotation=10, lighting=0.1)


def sample(count: int = 24, channels: int = 3, size: int = 32) -> tuple[Tensor, Randomness]:
    pixels = torch.from_numpy(noise(count, channels, size, size))
    return pixels, Randomness(7, 3, torch.arange(count) * 5)


def test_crop_and_flip_equal_slicing_image_by_image() -> None:
    pixels, randomness = sample()
    x = Augmentation(crop_padding=4, flip=True)(pixels, randomness)
    tops, lefts = randomness.integers("crop/top", 9), randomness.integers("crop/left", 9)
    flips = randomness.integers("flip", 2)
    assert len(set(tops.tolist())) > 3
    assert 0 < flips.sum() < len(flips)
    for image, top, left, flip, result in zip(pixels, tops, lefts, flips, x, strict=True):
        framed = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)))[:, top : top + 32, left : left + 32]
        expected = framed[:, :, ::-1] if flip else framed
        np.testing.assert_array_equal(result.numpy(), expected.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_equals_torchvision_image_by_image(channels: int) -> None:
    pixels, randomness = sample(channels=channels)
    x = Augmentation(jitter=0.4)(pixels, randomness)
    factors = 1 + 0.4 * (2 * randomness.uniform("jitter", (3,)) - 1)
    for image, (brightness, contrast, saturation), result in zip(pixels, factors.tolist(), x, strict=True):
        expected = reference.adjust_brightness(image.float() / 255, brightness)
        expected = reference.adjust_contrast(expected, contrast)
        expected = reference.adjust_saturation(expected, saturation)
        # In grey torchvision weighs the red of tensors by 0.2989, that of Pillow's images by 0.299 as here.
        torch.testing.assert_close(result, expected, atol=1e-4 if channels == 3 else 1e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (20, 32)])
def test_rotation_equals_torchvision_image_by_image(size: tuple[int, int]) -> None:
    pixels = torch.from_numpy(noise(8, 3, *size))
    randomness = Randomness(7, 3, torch.arange(8))
    x = Augmentation(rotation=30)(pixels, randomness)
    angles = 30 * (2 * randomness.uniform("rotation", ()) - 1)
    for image, angle, result in zip(pixels, angles.tolist(), x, strict=True):
        expected = reference.rotate(image.float() / 255, angle, InterpolationMode.BILINEAR)
        torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


def test_lighting_moves_all_pixels_of_an_image_along_one_colour() -> None:
    pixels = torch.full((6, 3, 4, 4), 128, dtype=torch.uint8)
    randomness = Randomness(0, 0, torch.arange(6))
    shift = Augmentation(lighting=0.1)(pixels, randomness) - 128 / 255
    amounts = 0.1 * randomness.normal("lighting", (3,))
    first = torch.tensor([-0.5675, -0.5808, -0.5836]) * 0.2175
    second = torch.tensor([0.7192, -0.0045, -0.6948]) * 0.0188
    third = torch.tensor([0.4009, -0.8140, 0.4203]) * 0.0045
    expected = amounts[:, :1] * first + amounts[:, 1:2] * second + amounts[:, 2:] * third
    torch.testing.assert_close(shift, expected[:, :, None, None].expand_as(shift), atol=1e-6, rtol=0)


def test_an_image_changes_the_same_in_any_batch() -> None:
    pixels, randomness = sample()
    whole = EVERYTHING(pixels, randomness)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    shuffled = EVERYTHING(pixels[order], Randomness(7, 3, randomness.index[order]))
    torch.testing.assert_close(shuffled, whole[order], atol=1e-6, rtol=0)
    alone = EVERYTHING(pixels[5:6], Randomness(7, 3, randomness.index[5:6]))
    torch.testing.assert_close(alone, whole[5:6], atol=1e-6, rtol=0)
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_another_view_changes_the_images_otherwise() -> None:
    pixels, randomness = sample()
    other = Randomness(7, 4, randomness.index)
    assert not torch.equal(EVERYTHING(pixels, randomness), EVERYTHING(pixels, other))


def test_no_augmentation_only_scales() -> None:
    pixels, randomness = sample()
    assert torch.equal(Augmentation()(pixels, randomness), pixels.float() / 255)
    assert str(Augmentation()) == "no augmentation"
    assert str(EVERYTHING) == "crop 4 + flip + jitter 0.3 + rotation 10° + lighting 0.1"


@pytest.mark.parametrize(("height", "width"), [(32, 32), (200, 300), (500, 90), (1, 1)])
def test_random_boxes_lie_within_the_image_and_keep_the_area(height: int, width: int) -> None:
    draws = draw_boxes(Randomness(0, 0, torch.arange(200)))
    boxes = [random_box(draw, (0.25, 1.0), height, width) for draw in draws]
    for top, left, rows, columns in boxes:
        assert 0 <= top <= top + rows <= height
        assert 0 <= left <= left + columns <= width
        assert rows * columns > 0
    if min(height, width) > 100:
        areas = torch.tensor([rows * columns for _, _, rows, columns in boxes]) / (height * width)
        assert areas.min() > 0.24
        assert areas.max() > 0.7
        aspects = torch.tensor([columns / rows for _, _, rows, columns in boxes])
        assert 0.72 < aspects.min() < 0.85
        assert 1.2 < aspects.max() < 1.37


def test_a_box_that_fits_no_attempt_is_the_largest_centred_one() -> None:
    draws = torch.zeros(10, 4)
    assert random_box(draws, (1.0, 1.0), 100, 400) == (0, 133, 100, 133)
    assert random_box(draws, (1.0, 1.0), 400, 90) == (140, 0, 120, 90)


@pytest.mark.parametrize(
    "arguments",
    [
        {"crop_padding": -1},
        {"jitter": 1.5},
        {"rotation": 200},
        {"lighting": -0.1},
        {"random_resized_crop": (0.5, 0.2)},
        {"random_resized_crop": (0.0, 1.0)},
        {"random_resized_crop": (0.5, 1.1)},
    ],
)
def test_values_out_of_range_are_mistakes(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        Augmentation(**arguments)
