"""What each objective costs on this machine: steps taken in turns, so that all meet the same disturbances."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path

from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.costs.estimate import SAT, Cost, CostReport
from rrm_transfer.costs.feature_sample import FeatureSample, is_cacheable, sample_features
from rrm_transfer.data.loader import Batch, TrainingLoader
from rrm_transfer.objectives import PLAIN
from rrm_transfer.objectives.base import Need
from rrm_transfer.recipe.schema import ObjectiveSection, Recipe
from rrm_transfer.runs.calibration import calibrate
from rrm_transfer.runs.recipe_names import check_names
from rrm_transfer.runs.setup import Assembly, assemble, check_fits
from rrm_transfer.runtime.machine import devices, peak_bytes, resident_bytes
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.training.features.shards import Dtype
from rrm_transfer.training.objective import objective_of
from rrm_transfer.training.timing import Stopwatch, untimed
from rrm_transfer.training.updating import Updater

STANDARD = (PLAIN, "rrm", "rrm-adv", "kd", "rslad", "free-at", SAT)
WARMING, DISSECTED = 2, 3
"""Steps of each objective before those that count, and after them with each part timed by itself."""
BATCHES = 8
"""Different batches, used again and again."""


def bench(
    recipe: Recipe,
    *,
    objectives: Sequence[str] = (),
    steps: int = 20,
    allow_code: bool = False,
    narrator: Narrator | None = None,
) -> CostReport:
    """Measures training steps of several objectives with the recipe's student, teacher and data.

    Args:
        recipe: Its own objective keeps its arguments, the others have their defaults.
        objectives: Names; none: those of the usual comparison and the recipe's own, as far as the teacher
            can serve them. Plain training is always among them.
        steps: Of each objective.
        allow_code: Whether a teacher's ``package.module:factory`` may be imported and called.
        narrator: Says what happens; None: nobody.

    Raises:
        UserError: The recipe or an objective cannot be used.
    """
    runtime = Runtime()
    narrator = narrator if narrator is not None and runtime.is_main else Narrator()
    names = list(objectives) or [*STANDARD, recipe.objective.name]
    lead = recipe.objective.name
    if recipe.teacher is not None and not _needs(recipe):
        # Assembled for an objective that does without it, the recipe would lose its teacher.
        lead = next((name for name in names if _needs(_with(recipe, name))), lead)
    assembly = assemble(_with(recipe, lead), runtime, narrator, allow_code=allow_code)
    calibrate(assembly, assembly.student(), runtime, narrator)
    costs = measure(assembly, names, steps=steps, runtime=runtime, narrator=narrator, strict=bool(objectives))
    return replace(costs, recipe=_with(costs.recipe, recipe.objective.name))


def measure(
    assembly: Assembly,
    names: Sequence[str],
    *,
    steps: int,
    runtime: Runtime,
    narrator: Narrator,
    strict: bool,
) -> CostReport:
    """Measures the steps of an assembled and calibrated run; see ``bench``.

    Args:
        assembly: Of the run.
        names: Objectives.
        steps: Of each objective.
        runtime: Processes and devices.
        narrator: Shows progress.
        strict: Whether an objective that the teacher cannot serve is an error; it is left out otherwise.
    """
    loader = assembly.loader(runtime)
    batches, data_seconds = _draw(loader, min(BATCHES, steps), runtime)
    with ExitStack() as stack:
        contenders = []
        for name in dict.fromkeys([PLAIN, *names]):
            try:
                part = _part(assembly, name)
            except UserError as error:
                if strict:
                    raise
                narrator.note(f"{name}: left out. {error.what}")
            else:
                contenders.append(_Contender.of(part, loader, runtime, stack))
                if _is_wanted_cached(part):
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    contenders.append(_Contender.cached(part, loader, runtime, stack, batches, folder))
        stream = cycle(enumerate(batches))
        with narrator.task(f"bench: {len(contenders)} objectives in turns", WARMING + steps) as task:
            for count, (number, batch) in enumerate(islice(stream, WARMING + steps)):
                for contender in contenders:
                    seconds = contender.step(number, batch)
                    if count >= WARMING:
                        contender.seconds.append(seconds)
                task.update(count + 1)
        for number, batch in islice(stream, DISSECTED):
            for contender in contenders:
                contender.dissect(number, batch)
        costs = [contender.cost(batches[0], loader, data_seconds) for contender in contenders]
    return CostReport(
        assembly.recipe,
        device=", ".join(devices()),
        processes=runtime.world,
        batches=loader.steps_per_epoch,
        data_seconds=data_seconds,
        data_overlaps=loader.overlaps,
        costs=costs,
        extra_batches=0 if assembly.extra is None else len(assembly.extra) / loader.global_batch_size,
    )


@dataclass
class _Contender:
    name: str
    updater: Updater
    prepared: nn.Module
    stopwatch: Stopwatch
    features: FeatureSample | None = None
    seconds: list[float] = field(default_factory=list)
    dissected: float = 0.0

    @staticmethod
    def of(assembly: Assembly, loader: TrainingLoader, runtime: Runtime, stack: ExitStack) -> _Contender:
        objective, epochs = assembly.objective(), assembly.recipe.train.epochs
        assert epochs is not None
        updater = Updater(
            assembly.plan("bench", epochs),
            runtime=runtime,
            student=assembly.student(),
            teacher=assembly.teacher,
            objective=objective,
            steps_per_epoch=loader.steps_per_epoch * objective.replays,
        )
        prepared = stack.enter_context(updater.prepared())
        stopwatch = Stopwatch(runtime.synchronise)
        return _Contender(assembly.recipe.objective.name, updater, prepared, stopwatch)

    @staticmethod
    def cached(
        assembly: Assembly,
        loader: TrainingLoader,
        runtime: Runtime,
        stack: ExitStack,
        batches: Sequence[Batch],
        folder: Path,
    ) -> _Contender:
        objective, teacher = assembly.objective(), assembly.teacher
        assert teacher is not None
        features = sample_features(teacher, batches, objective, folder=folder, dtype=_cache_dtype(assembly))
        live = "other" in objective.teacher_sees
        contender = _Contender.of(assembly, loader, runtime, stack)
        contender.updater.teacher = contender.updater.teacher if live else None
        contender.features = features
        return contender

    def step(self, number: int, batch: Batch) -> float:
        runtime = self.updater.runtime
        runtime.synchronise()
        begun = time.perf_counter()
        clean = None
        if self.features is not None:
            with self.updater.clock("teacher"):
                clean = self.features.read(number)
        self.updater.update(self.prepared, 0, batch, clean)
        runtime.synchronise()
        return time.perf_counter() - begun

    def dissect(self, number: int, batch: Batch) -> None:
        self.updater.clock = self.stopwatch
        self.dissected += self.step(number, batch)
        self.updater.clock = untimed

    def cost(self, batch: Batch, loader: TrainingLoader, data_seconds: float) -> Cost:
        updater = self.updater
        parts = {str(part): seconds / DISSECTED for part, seconds in self.stopwatch.seconds.items()}
        parts["other"] = max(0.0, self.dissected / DISSECTED - sum(parts.values()))
        held = resident_bytes([updater.student, updater.teacher], updater.optimizer)
        return Cost(
            self.name,
            cached=self.features is not None,
            replays=updater.objective.replays,
            seconds=[_with_data(seconds, data_seconds, loader) for seconds in self.seconds],
            images=loader.global_batch_size,
            peak_bytes=held + peak_bytes(lambda: self.step(0, batch), updater.runtime.device),
            parts={"data": data_seconds, **parts},
        )


def _is_wanted_cached(assembly: Assembly) -> bool:
    """Tells whether an objective is also measured with a cache: matching, or what the recipe caches."""
    section, name = assembly.recipe.teacher, assembly.recipe.objective.name
    if assembly.teacher is None or section is None or not is_cacheable(assembly.objective()):
        return False
    return name == "rrm" or section.cache is not None


def _cache_dtype(assembly: Assembly) -> Dtype:
    section = assembly.recipe.teacher
    return "float16" if section is None or section.cache is None else section.cache.dtype


def _with_data(step: float, data: float, loader: TrainingLoader) -> float:
    """Returns the time of a step in training, where decoding by other processes hides behind it."""
    return max(step, data) if loader.overlaps else step + data


def _draw(loader: TrainingLoader, count: int, runtime: Runtime) -> tuple[list[Batch], float]:
    """Returns batches, and the median time that one takes when nothing else goes on."""
    stream = loader.epoch(0)
    ahead = loader.prefetched
    batches, seconds = [], []
    for _ in range(min(loader.steps_per_epoch, ahead + count)):
        runtime.synchronise()
        begun = time.perf_counter()
        batches.append(next(stream))
        runtime.synchronise()
        seconds.append(time.perf_counter() - begun)
    return batches[-count:], statistics.median(seconds[min(ahead, len(seconds) - 1) :])


def _needs(recipe: Recipe) -> frozenset[Need]:
    return objective_of(recipe).needs


def _with(recipe: Recipe, objective: str) -> Recipe:
    """Returns the recipe with another objective, its default arguments and no extra images, or as it is.

    The batches that are measured are the same: what a step costs does not depend on who has a label.
    """
    if objective == recipe.objective.name:
        return recipe
    data = recipe.data.model_copy(update={"extra": []})
    return recipe.model_copy(update={"objective": ObjectiveSection(name=objective), "data": data})


def _part(assembly: Assembly, name: str) -> Assembly:
    """Returns the run with another objective.

    Raises:
        UserError: Its teacher cannot serve it.
    """
    recipe = check_names(_with(assembly.recipe, name))
    needs = _needs(recipe)
    if not needs:
        return replace(assembly, recipe=recipe, teacher=None)
    if assembly.teacher is None:
        raise UserError(f"The objective {name!r} needs a teacher.", hint="name it: --teacher T")
    check_fits(assembly.teacher, assembly.data, recipe, needs)
    return replace(assembly, recipe=recipe)
