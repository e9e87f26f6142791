"""Which precision and memory format train this student fastest on this machine: measured, not guessed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import nn

from rrm_transfer.data.loader import Batch, evaluation_batches
from rrm_transfer.runs.setup import Assembly
from rrm_transfer.training.execution import set_checkpointing
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.runtime.processes import Precision, Runtime
from rrm_transfer.training.step import infer
from rrm_transfer.training.updating import Updater
from rrm_transfer.recipe.schema import Recipe

STEPS = 2
"""Timed steps of each candidate in each of two rounds; the fastest counts, as others may use the machine."""
TARGET_SECONDS = 0.1
"""Time that a step may take; the batch is cut accordingly."""
FEW = 8
"""Images of the smallest batch that is measured."""
HOPELESS_SECONDS = 0.5
"""A candidate whose first step takes this much longer than three of the best is given up."""
BF16_MARGIN, CHANNELS_LAST_MARGIN = 1.1, 1.03
"""How much faster it must be to be chosen: rounding has its price, and noise is not a reason."""


@dataclass(frozen=True)
class Numerics:
    """A way to compute the same steps.

    Attributes:
        precision: Of forward and backward passes.
        channels_last: Memory format of images and weights.
    """

    precision: Precision
    channels_last: bool

    @property
    def format(self) -> str:
        return "channels_last" if self.channels_last else "contiguous"

    @property
    def handicap(self) -> float:
        return (BF16_MARGIN if self.precision == "bf16" else 1.0) * (
            CHANNELS_LAST_MARGIN if self.channels_last else 1.0
        )


def adopt(recipe: Recipe, recorded: Recipe) -> None:
    """Takes over what was measured when a run was started, so that it resumes to the last bit."""
    for name in ("precision", "channels_last"):
        if getattr(recipe.train, name) is None:
            setattr(recipe.train, name, getattr(recorded.train, name))


def calibrate(assembly: Assembly, student: nn.Module, runtime: Runtime, narrator: Narrator) -> None:
    """Fills in the precision and the memory format that the recipe leaves automatic.

    A few training steps of the recipe's objective are measured on copies of ``student``, on all processes at
    once; the first process decides.

    Args:
        assembly: Its recipe is completed.
        student: As built; left as it is.
        runtime: Processes and devices.
        narrator: Told the outcome in one line.
    """
    train = assembly.recipe.train
    candidates = _candidates(train.precision, train.channels_last, runtime.device)
    chosen = candidates[0]
    if len(candidates) > 1:
        seconds, images = _measure(assembly, student, runtime, candidates)
        chosen = runtime.from_main(min(seconds, key=lambda numerics: seconds[numerics] * numerics.handicap))
        narrator.note(describe(chosen, seconds, images))
    train.precision, train.channels_last = chosen.precision, chosen.channels_last


def describe(chosen: Numerics, seconds: dict[Numerics, float], images: int) -> str:
    """Returns the outcome in one line.

    Args:
        chosen: One of the keys of ``seconds``.
        seconds: Of a step.
        images: In that step.
    """
    other_precision = replace(chosen, precision="float32" if chosen.precision == "bf16" else "bf16")
    other_format = replace(chosen, channels_last=not chosen.channels_last)
    parts = [
        f"{mine} {ratio:.1f}x faster than {other}"
        if ratio >= 1
        else f"{mine} {1 / ratio:.2f}x slower than {other}"
        for mine, other, alternative in (
            (chosen.precision, other_precision.precision, other_precision),
            (chosen.format, other_format.format, other_format),
        )
        if alternative in seconds
        for ratio in [seconds[alternative] / seconds[chosen]]
    ]
    return f"measured: {', '.join(parts)}; {1e3 * seconds[chosen]:.3g} ms for a step of {images} images"


def _candidates(
    precision: Precision | None, channels_last: bool | None, device: torch.device
) -> list[Numerics]:
    """Returns what is open, the plain way first."""
    precisions: list[Precision] = ["float32", "bf16"]
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_bf16_supported()):
        precisions = ["float32"]
    return [
        Numerics(*choice)
        for choice in product(
            precisions if precision is None else [precision],
            [False, True] if channels_last is None else [channels_last],
        )
    ]


def _measure(
    assembly: Assembly, student: nn.Module, runtime: Runtime, candidates: list[Numerics]
) -> tuple[dict[Numerics, float], int]:
    assembly.loader(runtime)  # a set smaller than a batch is told as such
    batch_size, accumulation = assembly.recipe.train.global_batch_size, assembly.recipe.train.accumulation
    assert batch_size is not None
    whole = -(-batch_size // runtime.world // accumulation)
    few = min(FEW, whole)
    first = _stepping(assembly, student, runtime, candidates[0])
    pixels = _batch(assembly, runtime, few)
    first(pixels)
    images = int(min(whole, max(few, few * TARGET_SECONDS / first(pixels))))
    images = runtime.from_main(images)
    del first
    batch = _batch(assembly, runtime, images)
    seconds: dict[Numerics, float] = {}
    hopeless: set[Numerics] = set()
    for numerics in (*candidates, *reversed(candidates)):  # there and back, as the machine's speed may drift
        if numerics in hopeless:
            continue
        step = _stepping(assembly, student, runtime, numerics)
        warming = step(batch)
        limit = 3 * min(seconds.values()) + HOPELESS_SECONDS if seconds else float("inf")
        if runtime.from_main(warming > limit):
            hopeless.add(numerics)
            fastest = warming
        else:
            fastest = min(step(batch) for _ in range(STEPS))
        seconds[numerics] = min(fastest, seconds.get(numerics, fastest))
    return seconds, images


def _batch(assembly: Assembly, runtime: Runtime, images: int) -> Batch:
    few = assembly.data.train.select(range(images))
    batches = evaluation_batches(
        few, fit=assembly.fit, batch_size=images, device=runtime.device, substitute=True
    )
    return next(batches)


def _stepping(
    assembly: Assembly, student: nn.Module, runtime: Runtime, numerics: Numerics
) -> Callable[[Batch], float]:
    """Returns what does one training step and tells how many seconds it took."""
    objective, section = assembly.objective(), assembly.recipe.teacher
    cached = section is not None and section.cache is not None
    copied = copy.deepcopy(student)
    updater = Updater(
        replace(
            assembly.plan("calibration", 1),
            accumulation=1,
            compile=False,
            precision=numerics.precision,
            channels_last=numerics.channels_last,
        ),
        runtime=runtime,
        student=copied,
        teacher=assembly.teacher if objective.needs else None,
        objective=objective,
        steps_per_epoch=1 + STEPS,
    )

    if updater.plan.gradient_checkpointing:
        set_checkpointing(updater.student, True)

    def step(batch: Batch) -> float:
        # From a cache the teacher's answers cost next to nothing.
        clean = infer(updater.teacher, batch.x) if cached and updater.teacher is not None else None
        runtime.synchronise()
        begun = time.perf_counter()
        updater.update(updater.student, 0, batch, clean)
        runtime.synchronise()
        return time.perf_counter() - begun

    return step
