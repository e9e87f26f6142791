"""A teacher's test figures: those that it comes with, those of an earlier run, else measured now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rrm_transfer import __version__
from rrm_transfer.core.documents import key_of
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import cache_folder
from rrm_transfer.data.images import ImageSet
from rrm_transfer.runs.setup import Assembly
from rrm_transfer.evaluation.evaluator import PGDSpec
from rrm_transfer.evaluation.metrics import Metrics, Row, read_metrics
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.runtime.processes import Runtime

Measure = Callable[[Sequence[PGDSpec]], list[Row]]
"""Returns the row of clean accuracy, then one for each attack."""


def teacher_figures(
    assembly: Assembly,
    images: ImageSet,
    specs: Sequence[PGDSpec],
    measure: Measure,
    runtime: Runtime,
    narrator: Narrator,
) -> tuple[list[Row], dict[str, Any]]:
    """Returns a teacher's rows on the test images, and its timing as far as its source tells it.

    A teacher with other classes than the data has no rows.

    Args:
        assembly: Of the run.
        images: That are measured on.
        specs: Attacks.
        measure: Measures the teacher.
        runtime: The main process reads and writes what is kept.
        narrator: Says where figures come from.
    """
    teacher = assembly.teacher
    assert teacher is not None
    rows, timing = _published(assembly, images, specs)
    if rows:
        narrator.note(f"teacher: test figures taken from the metrics that {teacher.name} comes with")
    elif teacher.num_classes == assembly.data.num_classes:
        evaluate = assembly.recipe.evaluate
        facts = {
            "rrm-transfer": __version__,
            "torch": torch.__version__,
            "device": runtime.device.type,
            "teacher": teacher.fingerprint(),
            "data": images.fingerprint,
            "fit": asdict(assembly.fit),
            "attacks": [asdict(spec) for spec in specs],
            "batch_size": evaluate.batch_size,
            "seed": assembly.recipe.seed,
        }
        rows = _kept_or_measured(facts, specs, measure, runtime, narrator)
    return rows, timing


def _published(
    assembly: Assembly, images: ImageSet, specs: Sequence[PGDSpec]
) -> tuple[list[Row], dict[str, Any]]:
    """Returns what the teacher's source says, its rows only if they are of these images and attacks."""
    section, teacher = assembly.recipe.teacher, assembly.teacher
    assert section is not None
    assert teacher is not None
    itself = section.weights is None and section.arch is None and section.normalisation is None
    source = assembly.teacher_facts.metrics if itself else None
    if source is None:
        return [], {}
    known = read_metrics(source)
    timing = known.timing.get("student", {})
    # Images of another size reach the teacher through another view, which may cost it accuracy.
    if teacher.image_size != assembly.fit.size or known.data != images.fingerprint:
        return [], timing
    count = len(images)
    attacks = [(s.threat.norm, s.threat.eps, s.steps, s.restarts) for s in specs]
    wanted = {
        ("test", "none", None, None, None, None, count),
        *(("test", "pgd", *attack, count) for attack in attacks),
    }
    rows = [replace(row, model="teacher") for row in known.of("student") if row.measurement in wanted]
    return (rows if len(rows) == 1 + len(specs) else []), timing


def _kept_or_measured(
    facts: Mapping[str, Any],
    specs: Sequence[PGDSpec],
    measure: Measure,
    runtime: Runtime,
    narrator: Narrator,
) -> list[Row]:
    """Returns the rows that an earlier run kept, if the teacher's clean accuracy is still theirs.

    Their key does not know the code that computes, so that much is measured in any case.
    """
    file = cache_folder() / "figures" / f"{key_of(facts)}.json"
    kept = runtime.from_main(_read(file) if runtime.is_main else [])
    if kept and measure([]) == kept[:1]:
        narrator.note("teacher: test figures are those of an earlier run")
        return list(kept)
    rows = measure(specs)
    if runtime.is_main:
        Metrics(rows, conditions=dict(facts)).write(file)
    return rows


def _read(file: Path) -> list[Row]:
    try:
        return read_metrics(file).rows
    except UserError:
        return []
