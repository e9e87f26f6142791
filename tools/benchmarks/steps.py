"""Targets 1 to 3: a step of matching against plain training and PGD adversarial training.

python -m tools.benchmarks.steps [--students resnet18,vit] [--steps 40] [--batch 32] [--set k=v]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from rrm_transfer.costs.bench import bench
from rrm_transfer.costs.estimate import SAT, CostReport
from rrm_transfer.objectives import PLAIN
from rrm_transfer.runtime.progress import Narrator
from tools.benchmarks.models import STUDENTS, recipe, write_teacher
from tools.benchmarks.record import emit


def main() -> None:
    """Measures every student and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", default="resnet18,vit")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--small", action="store_true", help="a small teacher, to rehearse")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    verdicts: dict[str, bool | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        teacher = write_teacher(Path(folder) / "teacher", small=options.small)
        for student in options.students.split(","):
            assert student in STUDENTS, f"students: {', '.join(STUDENTS)}"
            wanted = recipe(student, teacher, batch=options.batch, overrides=options.overrides)
            report = bench(
                wanted,
                objectives=[PLAIN, "rrm", SAT],
                steps=options.steps,
                narrator=Narrator(Console(stderr=True)),
            )
            rows += _rows(student, report)
            verdicts |= _verdicts(student, report)
    emit(
        f"steps: 32 px, batches of {options.batch}, medians of {options.steps} interleaved steps",
        rows,
        verdicts,
    )


def _rows(student: str, report: CostReport) -> list[dict[str, Any]]:
    train = report.recipe.train
    return [
        {
            "student": student,
            "precision": f"{train.precision}{', channels_last' * bool(train.channels_last)}",
            "objective": f"{cost.name}{', cached' * cost.cached}",
            "ms": 1e3 * cost.median,
            "quartiles ms": 1e3 * cost.spread,
            "teacher ms": 1e3 * cost.parts.get("teacher", 0.0),
            "peak MB": cost.peak_bytes / 2**20,
            "÷ natural": report.ratio(cost),
        }
        for cost in report.costs
    ]


def _verdicts(student: str, report: CostReport) -> dict[str, bool | None]:
    plain, sat = report.cost(PLAIN), report.cost(SAT)
    live, cached = report.cost("rrm"), report.cost("rrm", cached=True)
    assert plain is not None
    assert sat is not None
    assert live is not None
    allowed = (plain.median + live.parts["teacher"]) * 1.03
    found: dict[str, bool | None] = {
        f"{student}: live step {1e3 * live.median:.4g} ms ≤ plain + teacher + 3 % = {1e3 * allowed:.4g} ms": (
            live.median <= allowed
        )
    }
    if cached is None:
        found[f"{student}: cached step"] = None
        return found
    ratio, speedup = report.ratio(cached), sat.median / cached.median
    found[f"{student}: cached step {ratio:.3f} ≤ 1.05 of a plain one"] = ratio <= 1.05
    if student != "vit":
        found[f"{student}: PGD-10 ÷ cached {speedup:.2f} ≥ 6.5"] = speedup >= 6.5
    return found


if __name__ == "__main__":
    main()
