from __future__ import annotations

import math

import pytest
import torch

from rrm_transfer.core.randomness import Randomness, derive_seed


def randomness(index: torch.Tensor, seed: int = 1, epoch: int = 2) -> Randomness:
    return Randomness(seed, epoch, index)


def test_a_sample_draws_the_same_numbers_in_any_batch() -> None:
    everything = randomness(torch.arange(100)).uniform("start", (3, 4))
    some = torch.tensor([7, 99, 3])
    assert torch.equal(randomness(some).uniform("start", (3, 4)), everything[some])


@pytest.mark.parametrize("changed", [{"seed": 2}, {"epoch": 3}])
def test_seed_epoch_and_purpose_change_every_number(changed: dict[str, int]) -> None:
    index = torch.arange(50)
    before = randomness(index).uniform("a", (20,))
    assert (before == randomness(index, **changed).uniform("a", (20,))).float().mean() < 0.01
    assert (before == randomness(index).uniform("b", (20,))).float().mean() < 0.01


def test_uniform_numbers_are_uniform_and_independent() -> None:
    numbers = randomness(torch.arange(2000)).uniform("u", (500,)).double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, bins=100, min=0, max=1)
    chi_square = float(((counts - 1e4) ** 2 / 1e4).sum())
    assert chi_square < 160  # 99 degrees of freedom: exceeded once in 10,000 draws
    centred = numbers - 0.5
    for shifted in (centred.roll(1, 0), centred.roll(1, 1)):
        correlation = float((centred * shifted).mean() * 12)
        assert abs(correlation) < 5e-3


def test_normal_numbers_have_normal_moments() -> None:
    numbers = randomness(torch.arange(2000)).normal("n", (500,)).double()
    assert numbers.isfinite().all()
    moments = [float((numbers**k).mean()) for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.02)
    within = float((numbers.abs() < 1).double().mean())
    assert within == pytest.approx(math.erf(1 / math.sqrt(2)), abs=2e-3)


def test_integers_cover_their_range() -> None:
    drawn = randomness(torch.arange(10_000)).integers("i", 7)
    assert set(drawn.tolist()) == set(range(7))


def test_derived_seeds_do_not_collide_by_concatenation() -> None:
    assert len({derive_seed(1, 23), derive_seed(12, 3), derive_seed("1", 23), derive_seed(1, "23")}) == 4
    assert 0 <= derive_seed(5) < 2**63
