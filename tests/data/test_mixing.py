from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.mixing import Mixing, Passes

LABELLED, EXTRA = 50, 90


def mixing(**changes: Any) -> Mixing:
    settings: dict[str, Any] = {"batch_size": 16, "share": 0.7, "seed": 3}
    return Mixing(LABELLED, EXTRA, **(settings | changes))


@pytest.mark.parametrize(("share", "count"), [(0.7, 11), (0.5, 8), (0.05, 1), (0.95, 15)])
def test_every_batch_has_the_share(share: float, count: int) -> None:
    made = mixing(share=share)
    assert made.extra_per_batch == count
    for number in range(40):
        positions = made.batch(number)
        assert int((positions >= LABELLED).sum()) == count
        assert 0 <= positions.min() <= positions.max() < LABELLED + EXTRA


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_of_processes_have_the_share_to_within_one_image(parts: int) -> None:
    exact = (mixing(share=0.5).batch(0) >= LABELLED).view(parts, -1).sum(1)
    assert exact.tolist() == [8 // parts] * parts
    uneven = (mixing(share=0.7).batch(0) >= LABELLED).view(parts, -1).sum(1)
    assert int(uneven.max() - uneven.min()) <= 1


def test_each_pass_meets_every_image_once_whatever_the_batches() -> None:
    made = mixing(share=0.5)
    positions = torch.cat([made.batch(number) for number in range(100)])
    for own, size in ((positions[positions < LABELLED], LABELLED), (positions[positions >= LABELLED], EXTRA)):
        passes = own[: len(own) // size * size].view(-1, size)
        assert len(passes) > 3
        for one in passes:
            assert len(set(one.tolist())) == size
        assert not torch.equal(passes[0], passes[1])


def test_batches_depend_on_seed_and_number_alone() -> None:
    made, again = mixing(), mixing()
    backwards = {number: again.batch(number) for number in reversed(range(30))}
    assert all(torch.equal(made.batch(number), backwards[number]) for number in range(30))
    assert not torch.equal(made.batch(0), mixing(seed=4).batch(0))


def test_labels_count_so_that_the_mean_is_that_of_the_labelled() -> None:
    made = mixing(share=0.7)
    weights = (made.batch(0) < LABELLED) * made.label_weight
    assert weights.mean().item() == pytest.approx(1.0)


def test_a_sequence_goes_on_from_pass_to_pass() -> None:
    def taken(*bounds: int) -> Tensor:
        sequence = Passes(7, seed=0, purpose="test")
        return torch.cat([sequence.take(start, end - start) for start, end in pairwise(bounds)])

    assert torch.equal(taken(0, 30), taken(0, 3, 7, 14, 15, 30))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"share": 0.01}, "labelled and extra"), ({"share": 0.99}, "labelled and extra")],
)
def test_shares_that_leave_nothing_are_mistakes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mixing(**changes)
    with pytest.raises(UserError, match="fewer extra images"):
        Mixing(LABELLED, 7, batch_size=16, share=0.5, seed=0)
