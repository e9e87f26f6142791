"""The cache of teacher features in a run: whether one is asked for, filled before training, and what it cost."""

from __future__ import annotations

import time
from typing import Any

from rrm_transfer.objectives.base import Objective
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.setup import Assembly
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.training.features.building import FeatureBuilder
from rrm_transfer.training.features.cache import FeatureCache, feature_cache

EVENT = "teacher_features"
"""Of the log."""


def find_features(assembly: Assembly, runtime: Runtime) -> FeatureCache | None:
    """Returns the cache that the recipe asks for, filled or not; None where the teacher is asked live.

    Raises:
        UserError: What is still to be filled in does not fit on the disk.
    """
    section = assembly.recipe.teacher
    if assembly.teacher is None or section is None or section.cache is None:
        return None
    loader = assembly.loader(runtime)
    cache = feature_cache(assembly.teacher, loader, assembly.objective(), dtype=section.cache.dtype)
    cache.require_space()
    return cache


def provide_features(
    assembly: Assembly, objective: Objective, runtime: Runtime, narrator: Narrator, folder: RunFolder
) -> tuple[FeatureCache | None, dict[str, Any]]:
    """Makes the cache whole that the recipe asks for, if the objective of this phase has a teacher.

    Returns:
        The cache, None where no teacher is asked or it is asked live, and what it cost: facts of
        ``FeatureBuilder.complete`` with the seconds of all sessions of a resumed run.
    """
    cache = find_features(assembly, runtime) if objective.needs else None
    if cache is None or assembly.teacher is None:
        return None, {}
    builder = FeatureBuilder(
        cache,
        assembly.teacher,
        assembly.loader(runtime),
        batch_size=assembly.recipe.evaluate.batch_size,
        runtime=runtime,
        narrator=narrator,
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
