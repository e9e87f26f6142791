from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.fit import Fit, choose_fit
from tests.data.fixtures import noise


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [
        ((28, 28), None, Fit("pad", 32)),
        ((32, 32), None, Fit("none", 32)),
        ((32, 32), 32, Fit("none", 32)),
        ((30, 32), None, Fit("pad", 32)),
        ((64, 64), None, Fit("none", 64)),
        ((28, 28), 64, Fit("resize", 64)),
        ((32, 32), 224, Fit("resize", 224)),
        ((64, 64), 32, Fit("resize", 32)),
        ((256, 256), 224, Fit("crop", 224)),
        ((300, 400), None, Fit("crop", 224)),
        ((20, 64), None, Fit("crop", 64)),
        (None, None, Fit("crop", 224)),
        (None, 96, Fit("crop", 96)),
    ],
)
def test_the_rule_that_is_chosen(size: tuple[int, int] | None, image_size: int | None, expected: Fit) -> None:
    assert choose_fit(size, image_size) == expected


def test_rules_say_what_they_do() -> None:
    assert Fit("pad", 32).describe((28, 28)) == "28x28 padded to 32x32"
    assert Fit("none", 32).describe((32, 32)) == "32x32"
    assert Fit("crop", 224).describe(None) == (
        "mixed sizes, shorter side resized to 256, centre cropped to 224x224"
    )


def test_padding_puts_zeros_around_and_changes_nothing_else() -> None:
    pixels = torch.from_numpy(noise(2, 1, 27, 28))
    fitted = Fit("pad", 32).apply(pixels)
    assert fitted.shape == (2, 1, 32, 32)
    assert torch.equal(fitted[:, :, 2:29, 2:30], pixels)
    assert fitted.sum() == pixels.sum()


def test_cropping_takes_the_centre_without_resampling_where_it_can() -> None:
    pixels = torch.from_numpy(noise(1, 3, 256, 300))
    assert torch.equal(Fit("crop", 224).apply(pixels), pixels[:, :, 16:240, 38:262])


@pytest.mark.parametrize("size", [16, 48])
def test_resizing_agrees_with_pillow_within_rounding(size: int) -> None:
    pixels = noise(1, 3, 30, 30)
    fitted = Fit("resize", size).apply(torch.from_numpy(pixels))[0].numpy().astype(int)
    image = Image.fromarray(pixels[0].transpose(1, 2, 0)).resize((size, size), Image.Resampling.BILINEAR)
    assert np.abs(fitted - np.asarray(image).transpose(2, 0, 1)).max() <= 1


@pytest.mark.parametrize(("rule", "size"), [("none", 30), ("pad", 24)])
def test_a_rule_that_does_not_suit_is_a_mistake(rule: str, size: int) -> None:
    with pytest.raises(UserError, match=rule):
        Fit(rule, size).box(28, 28)  # type: ignore[arg-type]


def test_unknown_rules_and_sizes_are_mistakes() -> None:
    with pytest.raises(UserError, match="none, pad, resize, crop"):
        Fit("stretch", 32)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="positive"):
        Fit("pad", 0)
