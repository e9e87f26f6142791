from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch

from rrm_transfer.attacks import corruptions
from rrm_transfer.attacks.attack import Victims
from rrm_transfer.attacks.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    check_corruptions_usable,
    corruption_attack,
)
from rrm_transfer.core.errors import UserError

library = pytest.importorskip("imagecorruptions", exc_type=ImportError)


def victims(channels: int = 3, count: int = 4, side: int = 32) -> Victims:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    x = torch.nn.functional.interpolate(coarse, side, mode="bilinear")
    return Victims(torch.arange(count) + 10, (x * 255).round() / 255, torch.zeros(count, dtype=torch.int64))


def corrupted(name: str, severity: int, batch: Victims, *, seed: int = 0) -> torch.Tensor:
    return corruption_attack(name, severity, seed=seed).stages[0].perturb(lambda x: x, batch)


def test_the_fifteen_are_those_of_the_library() -> None:
    assert list(CORRUPTIONS) == library.get_corruption_names("common")


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_corrupted_the_same_way_in_any_batch(name: str, channels: int) -> None:
    batch = victims(channels)
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    found = corrupted(name, 3, batch)
    assert found.shape == batch.x.shape
    assert found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 1
    assert not torch.equal(found, batch.x)
    apart = [corrupted(name, 3, Victims(*(part[[n]] for part in batch))) for n in (3, 1)]
    assert torch.equal(torch.cat(apart), found[[3, 1]])
    assert np.random.random() == expected


@pytest.mark.parametrize(
    "name", ["gaussian_noise", "impulse_noise", "glass_blur", "motion_blur", "frost", "fog"]
)
def test_seed_and_index_decide_what_is_random(name: str) -> None:
    batch = victims()
    same = Victims(batch.index, batch.x[:1].expand_as(batch.x), batch.y)
    found = corrupted(name, 3, same)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found, corrupted(name, 3, same, seed=1))


def test_severity_grows() -> None:
    batch = victims()
    changes = [(corrupted("gaussian_noise", s, batch) - batch.x).abs().mean() for s in SEVERITIES]
    assert sorted(changes) == changes


def test_noise_is_as_strong_on_grey_images_as_on_coloured_ones() -> None:
    grey = Victims(torch.tensor([0]), torch.full((1, 1, 64, 64), 0.5), torch.tensor([0]))
    coloured = Victims(grey.index, grey.x.expand(1, 3, 64, 64), grey.y)
    assert torch.equal(corrupted("gaussian_noise", 1, grey), corrupted("gaussian_noise", 1, coloured)[:, 1:2])
    assert (corrupted("gaussian_noise", 1, grey) - 0.5).std() == pytest.approx(0.08, rel=0.05)


@pytest.mark.parametrize(("channels", "side", "refused"), [(3, 28, "28x28"), (2, 32, "2 channels")])
def test_images_that_the_library_does_not_take_are_refused(channels: int, side: int, refused: str) -> None:
    with pytest.raises(UserError, match=refused):
        check_corruptions_usable(channels, side)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imagecorruptions", None)
    with pytest.raises(UserError, match=r"rrm-transfer\[corruptions\]"):
        check_corruptions_usable(1, 32)
    monkeypatch.setattr(corruptions, "version", _missing)
    assert corruptions.corruptions_version() is None


def _missing(name: str) -> str:
    raise PackageNotFoundError(name)
