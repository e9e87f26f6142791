"""Training on images beside the labelled ones: what is learned from them, continuation, and the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rrm_transfer.core.errors import Interrupted
from rrm_transfer.data.extra import Extra
from rrm_transfer.data.images import MemoryImages
from rrm_transfer.objectives import build_objective
from rrm_transfer.runtime.context import Context
from rrm_transfer.training.features.building import FeatureBuilder
from rrm_transfer.training.features.cache import FeatureCache, feature_cache
from tests.data.fixtures import memory_images, noise
from tests.training.features.test_cache import a_teacher
from tests.training.small import CLASSES, PLAN, SIZE, Run, equal, small_images, small_loader


def extra(*, share: float = 0.5, labelled: bool = False, count: int = 31) -> Extra:
    """Two sets, in colour and of another size, so that they are fitted."""
    sets = (
        memory_images(count, channels=3, size=SIZE, classes=CLASSES),
        MemoryImages(
            pixels=torch.from_numpy(noise(9, 1, 6, 6, seed=4)), labels=torch.zeros(9, dtype=torch.int64)
        ),
    )
    return Extra(sets, share, labelled)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RRM_TRANSFER_CACHE", str(tmp_path / "cache"))


VARIANTS: dict[str, dict[str, Any]] = {
    "kd-adv": {"objective": "kd-adv", "arguments": {"ce_weight": 0.5}},
    "accumulation": {"objective": "rrm", "plan": replace(PLAN, accumulation=2)},
    "labels by the teacher": {"objective": "n-fgsm", "teacher_labels": True},
    "labels of the source": {
        "objective": "free-at",
        "arguments": {"replays": 2},
        "extra": extra(labelled=True),
    },
    "a mean, whose statistics are estimated": {
        "objective": "trades",
        "arguments": {"steps": 2},
        "plan": replace(PLAN, average_epochs=2),
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stopped_run_goes_on_bit_for_bit(variant: str, tmp_path: Path) -> None:
    options = {"extra": extra(), **VARIANTS[variant]}
    whole = Run(tmp_path / "whole", **options)
    steps = whole().steps
    stopped = Run(tmp_path / "parts", **options, stop_after=steps // 2 + 2)
    with pytest.raises(Interrupted):
        stopped()
    resumed = Run(tmp_path / "parts", **options)
    resumed(resume=True)
    assert equal(resumed.weights, whole.weights)
    assert stopped.losses + resumed.losses == whole.losses


def test_an_epoch_is_as_long_as_without_and_learns_something_else(tmp_path: Path) -> None:
    plain, beside = Run(tmp_path / "a"), Run(tmp_path / "b", extra=extra())
    assert plain().steps == beside().steps == 10
    assert not equal(plain.weights, beside.weights)


@pytest.mark.parametrize("objective", ["kd-adv", "rrm", "trades"])
def test_the_classes_of_extra_images_are_never_seen(objective: str, tmp_path: Path) -> None:
    """Not even where they lie in memory: the loss without labels does not depend on what stands there."""
    arguments = {"ce_weight": 0.5} if objective != "trades" else {"steps": 2}
    runs = []
    for number in range(2):
        beside = extra()
        for images in beside.sets:
            images.labels = (images.labels + number) % CLASSES
        runs.append(Run(tmp_path / str(number), objective=objective, arguments=arguments, extra=beside))
        runs[-1]()
    assert equal(runs[0].weights, runs[1].weights)
    assert runs[0].losses == runs[1].losses


@pytest.mark.parametrize("accumulation", [2, 4])
def test_parts_of_unequal_share_add_up_to_the_whole_batch(accumulation: int, tmp_path: Path) -> None:
    """Eight images of which three have a label; nothing ties the images of a part together."""
    losses = []
    for parts in (1, accumulation):
        run = Run(
            tmp_path / str(parts),
            plan=replace(PLAN, accumulation=parts),
            objective="kd",
            arguments={"ce_weight": 1.0},
            network={"norm": "group"},
            batch=8,
            extra=extra(share=0.6),
        )
        run()
        losses.append(run.losses)
    for whole, split in zip(*losses, strict=True):
        assert split == pytest.approx(whole, rel=1e-4)


def _cache(beside: Extra) -> tuple[Any, FeatureCache, dict[str, Any]]:
    teacher, loader = a_teacher(), small_loader(small_images(), views=2, extra=beside)
    cache = feature_cache(teacher, loader, build_objective("kd-adv"), dtype="float16")
    builder = FeatureBuilder(cache, teacher, loader, batch_size=10, context=Context.begin())
    return teacher, cache, builder.complete()


@pytest.mark.parametrize("teacher_labels", [False, True])
def test_a_cached_run_has_the_losses_of_a_live_one(teacher_labels: bool, tmp_path: Path) -> None:
    beside = extra()
    teacher, cache, facts = _cache(beside)
    assert (facts["cache"], facts["bytes"]) == ("built", 2 * (45 + 40) * CLASSES * 2)
    assert _cache(extra())[2]["cache"] == "hit"
    options: dict[str, Any] = {
        "objective": "kd-adv",
        "arguments": {"ce_weight": 0.5},
        "plan": replace(PLAN, optimization=replace(PLAN.optimization, lr=1e-6)),
        "extra": beside,
        "teacher_labels": teacher_labels,
    }
    live = Run(tmp_path / "live", **options)
    cached = Run(tmp_path / "cached", **options, taught_by=teacher, views=2, features=cache)
    live(), cached()
    assert cached.trainer._updater.teacher is None
    for a, b in zip(live.losses, cached.losses, strict=True):
        assert b == pytest.approx(a, rel=2e-3, abs=1e-5)


def test_the_cache_is_of_these_extra_images_whatever_their_share() -> None:
    _, cache, _ = _cache(extra())
    assert _cache(extra(share=0.3))[1].shards.key == cache.shards.key
    without = feature_cache(
        a_teacher(), small_loader(small_images(), views=2), build_objective("kd-adv"), dtype="float16"
    )
    keys = {cache.shards.key, without.shards.key, _cache(extra(count=30))[1].shards.key}
    assert len(keys) == 3
