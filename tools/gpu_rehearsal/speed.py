"""Part 2: images per second at 32 px, as in training: losses are read in every twentieth step."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from rrm_transfer.costs.bench import FeatureSample, sample_features
from rrm_transfer.data.loader import Batch
from rrm_transfer.runtime.processes import Precision
from tools.gpu_rehearsal.findings import Findings, Row
from tools.gpu_rehearsal.subjects import BATCH, PLAN, Subjects

_WARMING, _ROUNDS, _PROFILED, _READ_EVERY = 12, 3, 5, 20
_CACHED = 4
"""Batches whose teacher's outputs lie in the cache."""
_STEPS = 400
_COSTLY = {"pgd-at": 8, "trades": 8}
"""Steps cost about so many plain ones."""


class Case(NamedTuple):
    """What is measured."""

    objective: str
    cached: bool = False
    batch: int = BATCH
    compiled: bool = False
    precision: Precision = "bf16"
    channels_last: bool = True
    benchmark: bool = False


def cases(*, small: bool) -> Iterator[Case]:
    """Yields the table's rows, the plain ones first."""
    if small:
        yield from (Case("natural", batch=4), Case("rrm", cached=True, batch=4))
        return
    yield Case("natural", precision="float32", channels_last=False)
    yield Case("natural", channels_last=False)
    yield Case("natural", benchmark=True)
    yield from (Case("natural", batch=b, compiled=c) for c, b in product((False, True), (BATCH, 512)))
    yield from (Case("rrm", cached=c, batch=b) for c, b in product((False, True), (BATCH, 512)))
    yield from (Case("rrm", cached=c, compiled=True) for c in (False, True))
    yield from (Case(name) for name in ("fast-at", "rrm-adv", "trades", "pgd-at"))
    yield from (Case(name, compiled=True) for name in ("fast-at", "pgd-at"))


def rehearse(subjects: Subjects, findings: Findings) -> None:
    """Measures every row of the table."""
    for case in findings.in_time(cases(small=subjects.small)):
        with findings.row("speed", **case._asdict()) as row, tempfile.TemporaryDirectory() as folder:
            torch.backends.cudnn.benchmark = case.benchmark
            try:
                row.update(_measured(subjects, case, Path(folder)))
            finally:
                torch.backends.cudnn.benchmark = False


def _measured(subjects: Subjects, case: Case, folder: Path) -> Row:
    plan = replace(PLAN, compile=case.compiled, precision=case.precision, channels_last=case.channels_last)
    updater, batches = subjects.updater(case.objective, plan), subjects.batches(case.batch)
    features: FeatureSample | None = None
    if case.cached:
        assert updater.teacher is not None
        teacher, updater.teacher = updater.teacher, None
        few = [next(batches) for _ in range(_CACHED)]
        features = sample_features(teacher, few, updater.objective, folder=folder, dtype="float16")
    numbers = cycle(range(_CACHED))
    steps = _STEPS * BATCH // case.batch // _COSTLY.get(case.objective, 1)
    steps, warming = (1, 1) if subjects.small else (steps, _WARMING)
    with updater.prepared() as prepared:

        def take(count: int) -> float:
            """Returns the seconds that so many steps take."""
            begun = time.perf_counter()
            losses: list[Tensor] = []
            for number in range(count):
                batch: Batch = next(batches)
                known = None if features is None else features.read(next(numbers))
                losses += updater.update(prepared, 0, batch, known).values()
                if number % _READ_EVERY == _READ_EVERY - 1:
                    torch.stack(losses).tolist()
                    losses = []
            subjects.runtime.synchronise()
            return time.perf_counter() - begun

        first = take(warming)
        seconds = [take(steps) / steps for _ in range(_ROUNDS)]
        device = _on_the_device(take) if subjects.on_gpu else {}
    rates = [case.batch / each for each in seconds]
    return {
        "images_per_s": round(statistics.median(rates)),
        "spread": round(max(rates) - min(rates)),
        "step_ms": round(1e3 * statistics.median(seconds), 2),
        "first_steps_s": round(first, 1),
        **device,
    }


def _on_the_device(take: object) -> Row:
    """Returns a step's launches, and the time for which the device works on it."""
    assert callable(take)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        take(_PROFILED)
    events = profiler.events() or []
    launches = sum("LaunchKernel" in event.name or "GraphLaunch" in event.name for event in events)
    busy = sum(event.self_device_time_total for event in events if str(event.device_type).endswith("CUDA"))
    return {"launches": launches // _PROFILED, "device_ms": round(busy / _PROFILED / 1e3, 2)}
