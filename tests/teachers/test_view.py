from __future__ import annotations

import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.teachers.view import View
from tests.teachers.fixtures import pixels


def test_equal_geometry_changes_nothing() -> None:
    x = pixels()
    view = View((3, 3), (32, 32))
    assert view(x) is x
    assert str(view) == "as the data"


def test_grey_repeats_and_colour_becomes_luma() -> None:
    grey = pixels(channels=1)
    assert torch.equal(View((1, 3), (32, None))(grey), grey.repeat(1, 3, 1, 1))
    x = pixels()
    luma = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    torch.testing.assert_close(View((3, 1), (32, None))(x)[:, 0], luma)


@pytest.mark.parametrize("target", [20, 64])
def test_resizing_keeps_the_pixel_range_and_says_so(target: int) -> None:
    view = View((1, 3), (32, target))
    x = (pixels(channels=1) > 0.5).float()
    seen = view(x)
    assert seen.shape == (2, 3, target, target)
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
    assert str(view) == f"grey to RGB; 32x32 to {target}x{target}, bilinear"


def test_other_channels_are_refused() -> None:
    with pytest.raises(UserError, match="channels do not fit"):
        View((4, 3), (32, None))


def test_luma_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time would have the host wait for the device."""
    view, x = View((3, 1), (32, None)), pixels()
    first = view(x)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a constant is made again")

    monkeypatch.setattr(torch.Tensor, "new_tensor", forbidden)
    monkeypatch.setattr(torch, "tensor", forbidden)
    assert torch.equal(view(x), first)
