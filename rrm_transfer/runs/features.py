"""The cache of teacher features in a run: whether one is asked for, how it is filled, and what it cost."""

from __future__ import annotations

import time
from typing import Any

from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.setup import Setup
from rrm_transfer.training.features.building import FeatureBuilder
from rrm_transfer.training.features.cache import FeatureCache, feature_cache

EVENT = "teacher_features"
"""Of the log."""


def find_features(setup: Setup) -> FeatureCache | None:
    """Returns the cache that the recipe asks for, filled or not; None where the teacher is asked live.

    Raises:
        UserError: What is still to be filled in does not fit on the disk.
    """
    section = setup.recipe.teacher
    if setup.teacher is None or section is None or section.cache is None:
        return None
    cache = feature_cache(setup.teacher, setup.loader(), setup.objective, dtype=section.cache.dtype)
    cache.require_space()
    return cache


def provide_features(setup: Setup, folder: RunFolder) -> tuple[FeatureCache | None, dict[str, Any]]:
    """Makes the cache whole that the recipe asks for.

    Returns:
        The cache, None where no teacher is asked or it is asked live, and what it cost: facts of
        ``FeatureBuilder.complete`` with the seconds of all sessions of a resumed run.
    """
    cache, runtime = find_features(setup), setup.context.runtime
    if cache is None or setup.teacher is None:
        return None, {}
    builder = FeatureBuilder(
        cache,
        setup.teacher,
        setup.loader(),
        batch_size=setup.recipe.evaluate.batch_size,
        context=setup.context,
    )
    begun, facts = time.monotonic(), dict[str, Any]()
    try:
        facts = builder.complete()
    finally:
        facts["seconds"] = round(time.monotonic() - begun, 3)
        if runtime.is_main:
            folder.log(EVENT, facts)
    if runtime.is_main:
        facts["seconds"] = sum(event["seconds"] for event in folder.events(EVENT))
    return cache, facts


def with_features(timing: dict[str, Any], cost: dict[str, Any]) -> dict[str, Any]:
    """Counts what the cache cost, if there is one, as training of the student, whose timing this is."""
    if not cost:
        return timing
    seconds = timing["train_seconds"] + cost["seconds"]
    rate = timing["images_per_s"] * timing["train_seconds"] / max(seconds, 1e-9)
    return {**timing, "train_seconds": seconds, "images_per_s": rate, "teacher_features": cost}
