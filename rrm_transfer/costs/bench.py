"""What each objective costs on this machine: steps taken in turns, so that all meet the same disturbances."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.costs.estimate import SAT, Choice, Cost, CostReport
from rrm_transfer.data.loader import Batch, TrainingLoader
from rrm_transfer.objectives import PLAIN
from rrm_transfer.objectives.base import Objective
from rrm_transfer.recipe.defaults import Numerics
from rrm_transfer.recipe.schema import ObjectiveSection, Recipe
from rrm_transfer.runs.extra import without_extra
from rrm_transfer.runs.resolve import check_names, resolve, with_objective
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runs.teacher import teacher_spent
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.machine import devices, peak_bytes, resident_bytes
from rrm_transfer.runtime.processes import Precision, Runtime
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.training.features.cache import FeatureCache
from rrm_transfer.training.features.shards import DTYPES, Dtype, Shard, ShardSet
from rrm_transfer.training.passes import Passes
from rrm_transfer.training.step import infer
from rrm_transfer.training.timing import Stopwatch, untimed
from rrm_transfer.training.updating import Updater

STANDARD = (PLAIN, "rrm", "rrm-adv", "kd", "rslad", "free-at", SAT)
WARMING, PROFILED = 2, 3
"""Steps of each objective before those that count, and after them with each part timed by itself."""
CHOICE_STEPS = 5
"""Steps in each precision and memory format."""
HOPELESS = 5
"""A precision whose first step takes this many times the recipe's is not measured further."""
BATCHES = 8
"""Different batches, used again and again."""


def bench(
    recipe: Recipe,
    *,
    objectives: Sequence[str] = (),
    steps: int = 20,
    allow_code: frozenset[str] = frozenset(),
    narrator: Narrator | None = None,
) -> CostReport:
    """Measures training steps of several objectives with the recipe's student, teacher and data.

    Args:
        recipe: Its own objective keeps its arguments, the others have their defaults.
        objectives: Names; none: those of the usual comparison and the recipe's own, as far as the teacher
            can serve them. Plain training is always among them.
        steps: Of each objective.
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.
        narrator: Says what happens; None: nobody.

    Raises:
        UserError: The recipe or an objective cannot be used.
    """
    own = recipe.objective
    names = list(objectives) or [*STANDARD, own.name]
    sections = [own if name == own.name else ObjectiveSection(name=name) for name in [PLAIN, *names]]
    first = own
    if recipe.teacher is not None and not check_names(recipe)[1].needs:
        # Resolved for an objective that does without it, the recipe would lose its teacher. The one that
        # keeps it may not be able to use extra images, without which a step costs the same.
        recipe = without_extra(recipe)
        asking = (section for section in sections if check_names(recipe.changed(objective=section))[1].needs)
        first = next(asking, own)
    setup = resolve(recipe.changed(objective=first), Context.begin(narrator), allow_code=allow_code)
    costs = measure(setup, sections, steps=steps, strict=bool(objectives))
    setup = with_objective(setup, own)
    choices = measure_numerics(setup, steps=min(steps, CHOICE_STEPS))
    return replace(
        costs, recipe=setup.recipe, passes=_passes(setup), teacher=teacher_spent(setup), choices=choices
    )


def measure(setup: Setup, objectives: Sequence[ObjectiveSection], *, steps: int, strict: bool) -> CostReport:
    """Measures the steps of a run with several objectives; see ``bench``.

    Args:
        setup: Of the run.
        objectives: Plain training first; one that was there already is left out.
        steps: Of each objective.
        strict: Whether an objective that the teacher cannot serve is an error; it is left out otherwise.
    """
    runtime, narrator = setup.context.runtime, setup.context.narrator
    loader = setup.loader()
    batches, data_seconds = _draw(loader, min(BATCHES, steps), runtime)
    with ExitStack() as stack:
        contenders: list[_Contender] = []
        counted: list[Passes] = []
        for name, section in {section.name: section for section in objectives}.items():
            try:
                part = with_objective(setup, section)
            except UserError as error:
                if strict:
                    raise
                narrator.note(f"{name}: left out. {error.what}")
            else:
                contenders.append(_Contender.of(part, loader, stack))
                counted.append(_passes(part, views=0))
                if _is_wanted_cached(part):
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    contenders.append(_Contender.cached(part, loader, stack, batches, folder))
                    counted.append(_passes(part, views=_views(part)))

        # In turns, so that whatever else the machine does meets all of them; then each part by itself.
        stream = cycle(enumerate(batches))
        with narrator.task(f"bench: {len(contenders)} objectives in turns", WARMING + steps) as task:
            for count, (number, batch) in enumerate(islice(stream, WARMING + steps)):
                for contender in contenders:
                    seconds = contender.step(number, batch)
                    if count >= WARMING:
                        contender.seconds.append(seconds)
                task.update(count + 1)
        for number, batch in islice(stream, PROFILED):
            for contender in contenders:
                contender.profile(number, batch)
        costs = [
            contender.cost(batches[0], loader, data_seconds, passes)
            for contender, passes in zip(contenders, counted, strict=True)
        ]
    return CostReport(
        setup.recipe,
        device=", ".join(devices()),
        processes=runtime.world,
        batches=loader.steps_per_epoch,
        data_seconds=data_seconds,
        data_overlaps=loader.overlaps,
        costs=costs,
        passes=_passes(setup),
        teacher=teacher_spent(setup),
        extra_batches=0 if setup.extra is None else len(setup.extra) / loader.global_batch_size,
    )


def _passes(setup: Setup, *, views: int | None = None) -> Passes:
    """Counts what training the recipe's student will take; ``views`` as of ``Setup.passes``."""
    return setup.passes(setup.build_student(), setup.objective, setup.recipe.train.epochs, views=views)


def _views(setup: Setup) -> int:
    cache = None if setup.recipe.teacher is None else setup.recipe.teacher.cache
    return 1 if cache is None else cache.views


def measure_numerics(setup: Setup, *, steps: int) -> list[Choice]:
    """Measures a run's steps in each precision and memory format, whichever it trains with.

    Args:
        setup: Of the run.
        steps: Of each; the median counts.

    Returns:
        What the run does, then the other choices.
    """
    runtime, train = setup.context.runtime, setup.recipe.train
    own = Numerics(train.precision, train.channels_last)
    choices = [own, *(other for other in _numerics(runtime) if other != own)]
    loader = setup.loader()
    batches, _ = _draw(loader, 1, runtime)
    with ExitStack() as stack, setup.context.narrator.task("bench: precisions and formats", steps) as task:
        contenders = {
            # Each with a teacher of its own, whose memory format is the student's.
            choice: _Contender.of(
                replace(setup, teacher=copy.deepcopy(setup.teacher)), loader, stack, numbers=choice
            )
            for choice in choices
        }
        warming = {choice: contender.step(0, batches[0]) for choice, contender in contenders.items()}
        # One step tells enough of a choice that the device only emulates; processes step together.
        hopeless = runtime.from_main([c for c in choices if warming[c] > HOPELESS * warming[own]])
        found = {choice: [warming[choice]] if choice in hopeless else [] for choice in choices}
        for count in range(steps):
            for choice in (choice for choice in choices if choice not in hopeless):
                found[choice].append(contenders[choice].step(0, batches[0]))
            task.update(count + 1)
    return [Choice(choice, statistics.median(seconds)) for choice, seconds in found.items()]


def _numerics(runtime: Runtime) -> list[Numerics]:
    precisions: list[Precision] = ["float32"]
    if runtime.has_bf16 or runtime.device.type == "cpu":
        precisions.append("bf16")
    return [Numerics(precision, form) for precision in precisions for form in (False, True)]


@dataclass
class _Contender:
    name: str
    updater: Updater
    prepared: nn.Module
    stopwatch: Stopwatch
    features: FeatureSample | None = None
    seconds: list[float] = field(default_factory=list)
    profiled: float = 0.0

    @staticmethod
    def of(
        setup: Setup, loader: TrainingLoader, stack: ExitStack, *, numbers: Numerics | None = None
    ) -> _Contender:
        plan = setup.plan("student", setup.recipe.train.epochs)
        if numbers is not None:
            plan = replace(plan, precision=numbers.precision, channels_last=numbers.channels_last)
        student = setup.build_student()
        updater = Updater(
            plan,
            runtime=setup.context.runtime,
            student=student,
            anchor=setup.anchor_beside(student, setup.objective),
            teacher=setup.teacher,
            objective=setup.objective,
            steps_per_epoch=loader.steps_per_epoch * setup.objective.replays,
        )
        prepared = stack.enter_context(updater.prepared())
        stopwatch = Stopwatch(setup.context.runtime.synchronise)
        return _Contender(setup.recipe.objective.name, updater, prepared, stopwatch)

    @staticmethod
    def cached(
        setup: Setup, loader: TrainingLoader, stack: ExitStack, batches: Sequence[Batch], folder: Path
    ) -> _Contender:
        section = setup.recipe.teacher
        dtype: Dtype = "float16" if section is None or section.cache is None else section.cache.dtype
        contender = _Contender.of(setup, loader, stack)
        teacher = contender.updater.teacher
        if teacher is not None:
            contender.features = sample_features(
                teacher, batches, setup.objective, folder=folder, dtype=dtype
            )
        if "other" not in setup.objective.teacher_sees:
            contender.updater.teacher = None
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

    def profile(self, number: int, batch: Batch) -> None:
        self.updater.clock = self.stopwatch
        self.profiled += self.step(number, batch)
        self.updater.clock = untimed

    def cost(self, batch: Batch, loader: TrainingLoader, data_seconds: float, passes: Passes) -> Cost:
        updater = self.updater
        parts = {str(part): seconds / PROFILED for part, seconds in self.stopwatch.seconds.items()}
        parts["other"] = max(0.0, self.profiled / PROFILED - sum(parts.values()))
        held = resident_bytes([updater.student, updater.teacher], updater.optimizer)
        return Cost(
            self.name,
            cached=self.features is not None,
            replays=updater.objective.replays,
            seconds=[_with_data(seconds, data_seconds, loader) for seconds in self.seconds],
            images=loader.global_batch_size,
            peak_bytes=held + peak_bytes(lambda: self.step(0, batch), updater.runtime.device),
            parts={"data": data_seconds, **parts},
            passes=passes,
        )


def _is_wanted_cached(setup: Setup) -> bool:
    """Tells whether an objective is also measured with a cache: matching, or what the recipe caches."""
    section, name = setup.recipe.teacher, setup.recipe.objective.name
    if setup.teacher is None or section is None or not is_cacheable(setup.objective):
        return False
    return name == "rrm" or section.cache is not None


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


def is_cacheable(objective: Objective) -> bool:
    """Tells whether an objective asks the teacher about clean images, and for no intermediate layers."""
    return "clean" in objective.teacher_sees and not objective.layers


@dataclass(frozen=True)
class FeatureSample:
    """The cache, and where in it the outputs on each batch are.

    Attributes:
        cache: On the disk, read as in training.
        positions: Of each batch, scattered as in training.
    """

    cache: FeatureCache
    positions: Sequence[Tensor]

    def read(self, number: int) -> Outputs:
        """Returns the teacher's outputs on a batch."""
        return self.cache.read(0, self.positions[number])


def sample_features(
    teacher: nn.Module, batches: Sequence[Batch], objective: Objective, *, folder: Path, dtype: Dtype
) -> FeatureSample:
    """Asks the teacher about a few batches and writes what it says as a cache does.

    Args:
        teacher: On the device of the batches.
        batches: Of this process.
        objective: Says which outputs it needs.
        folder: Where the files go.
        dtype: Of what is stored.
    """
    device = batches[0].x.device
    said = [infer(teacher, batch.x) for batch in batches]
    values: dict[str, Tensor] = {
        "features": torch.cat([outputs.features for outputs in said]).cpu(),
        "logits": torch.cat([outputs.logits for outputs in said]).cpu(),
    }
    parts: tuple[str, ...] = tuple(part for part in values if part in objective.needs)
    count = len(values["features"])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    widths = {part: values[part].shape[1] for part in parts}
    shards = ShardSet(folder, "sample", count, widths, DTYPES[dtype])
    for part in parts:
        stored = values[part][order].to(DTYPES[dtype])
        for number in shards.numbers:
            rows = shards.rows(number)
            shards.write(Shard(part, 0, number), stored[rows.start : rows.stop].contiguous(), seconds=0.0)
    cache = FeatureCache(shards, parts, layers=(), views=1, identity={}, device=device)
    return FeatureSample(cache, torch.split(order.argsort(), [len(batch.index) for batch in batches]))
