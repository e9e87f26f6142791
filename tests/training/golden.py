"""Losses of 20 steps of every objective, frozen. ``python -m tests.training.golden`` writes them anew.

The networks compute in float64. In float32 a rounding can turn the sign of a small gradient around, and with
it a step of an attack; τ² = 900 of ARD's divergence multiplies what is left of two nearly equal logarithms.
Both depend on the processor.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from rrm_transfer.objectives import OBJECTIVES, build_objective
from rrm_transfer.runtime.processes import Precision
from tests.training.small import PLAN, Run, small_images, with_optimization

FILE = Path(__file__).with_name("golden.json")
STEPS = 20
# Four batches of 11 images an epoch, of which accumulation makes parts of 6 and 5.
_PLAN = replace(with_optimization(PLAN, lr=0.02, warmup_epochs=1.0), accumulation=2)
_ARGUMENTS: dict[str, dict[str, object]] = {"free-at": {"replays": 2}}
_OPTIONS: dict[str, tuple[str, dict[str, object]]] = {
    "rrm with layers": ("rrm", {"student_layers": [0, 1], "layer_weights": [0.5, 2]}),
    "rrm-adv on all inputs": (
        "rrm-adv",
        {
            "student_layers": 0,
            "kd_weight": 0.5,
            "clean_kd_weight": 0.25,
            "clean_ce_weight": 0.1,
            "noise": 0.5,
        },
    ),
    "kd with a gradient's norm": ("kd", {"gradient_weight": 0.5}),
    "kd-adv by entropy on adversarial answers": (
        "kd-adv",
        {"target": "adversarial", "weighting": "entropy", "clean_kd_weight": 0.5, "begin": 0.5},
    ),
}
CASES = {**{name: (name, _ARGUMENTS.get(name, {})) for name in sorted(OBJECTIVES)}, **_OPTIONS}
"""Objectives with their arguments by name."""


def losses(case: str, *, precision: Precision | None = None, steps: int = STEPS) -> list[dict[str, float]]:
    """Returns the loss terms of the first steps.

    Args:
        case: One of ``CASES``.
        precision: Of training; None: float64.
        steps: How many.
    """
    objective, arguments = CASES[case]
    layers = len(build_objective(objective, **arguments).layers)
    epochs = STEPS // 4 if objective != "free-at" else -(-STEPS // 8)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            Path(folder),
            plan=replace(_PLAN, epochs=epochs, precision=precision or "float32"),
            objective=objective,
            arguments=arguments,
            network={"layers": layers},
            float64=precision is None,
            batch=11,
            images=small_images(47),
        )
        run()
    return run.losses[:steps]


if __name__ == "__main__":
    lines = []
    for name in CASES:
        steps = [{term: float(f"{value:.10g}") for term, value in terms.items()} for terms in losses(name)]
        lines.append(f'"{name}": [\n  ' + ",\n  ".join(map(json.dumps, steps)) + "\n]")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
