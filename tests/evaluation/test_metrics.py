"""The form of metrics.json: what is written comes back, and nothing else is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.metrics import CorruptionRow, Metrics, MinimumRow, read_metrics, row


def _minimum(sizes: list[float | None]) -> MinimumRow:
    limit = ThreatModel("Linf", 1.0)
    return MinimumRow.of("student", "test", attack="minimum-norm", limit=limit, steps=100, sizes=sizes)


def _metrics() -> Metrics:
    attack: dict[str, Any] = {"attack": "pgd", "norm": "Linf", "eps": 8 / 255, "steps": 20, "restarts": 5}
    corrupted = [CorruptionRow("student", "test", name, 1, 5, 10, 0.5, 0.2, 0.8) for name in ("fog", "mean")]
    return Metrics(
        [
            row("student", "test", Proportion(3, 10), kept=[0, 1, 9]),
            row("student", "test", Proportion(1, 10), kept=[9], **attack),
        ],
        timing={"student": {"train_seconds": 3.5, "more": [1]}, "attacks": {"pgd Linf 8/255": 1.0}},
        checks=[{"name": "deterministic", "status": "suspicious", "figure": None, "limit": 0.1}],
        survivors={"autoattack": {"none": 9, "square": 0}},
        corruptions=corrupted,
        minima=[_minimum([0.0, 0.25, None, 0.5, 0.125])],
        conditions={"attacks": ["pgd"], "weights": "ab", "surrogate": None},
    )


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    _metrics().write(tmp_path / "metrics.json")
    assert read_metrics(tmp_path / "metrics.json") == _metrics()


def test_smallest_perturbations_are_summed_up() -> None:
    few = _minimum([0.0, 0.25, None, 0.5, 0.125])
    assert (few.count, few.wrong, few.unbroken, few.median, few.low, few.high) == (5, 1, 1, 0.25, 0.0, None)
    # Ten values: the second and the ninth hold the median with 97.9 %, the third and the eighth with 89 %.
    ten = _minimum([0.01 * (1 + (7 * n) % 10) for n in range(10)])
    assert (ten.median, ten.low, ten.high) == pytest.approx((0.055, 0.02, 0.09))
    hundred = _minimum([0.001 * (n + 1) for n in range(100)])
    assert (hundred.low, hundred.high) == pytest.approx((0.040, 0.061))  # the tables' ranks 40 and 61
    most = _minimum([0.1, 0.2, *[None] * 8])
    assert (most.median, most.low, most.high) == (None, 0.2, None)


def test_what_needs_a_larger_perturbation_is_robust_within() -> None:
    within = _minimum([0.0, 0.25, None, 0.5, 0.125]).within(0.25)
    assert (within.correct, within.count, within.eps, within.norm) == (2, 5, 0.25, "Linf")
    assert np.flatnonzero(np.asarray(within.right())).tolist() == [2, 3]


def test_a_row_knows_its_images_and_its_names() -> None:
    clean, attacked = _metrics().rows
    assert clean.kept == "c040"
    assert np.flatnonzero(np.asarray(clean.right())).tolist() == [0, 1, 9]
    assert (clean.title, clean.ball) == ("clean", "clean")
    assert (attacked.title, attacked.ball, attacked.effort) == (
        "Linf 8/255 pgd-20×5",
        "Linf 8/255",
        "pgd-20×5",
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("minima", 0, "median"), 0.3, r"minima\.0 holds[^$]*those of the sizes"),
        (("minima", 0, "sizes"), [0.0], r"minima\.0 holds[^$]*those of the sizes"),
        (("minima", 0, "sizes", 0), -1.0, r"minima\.0\.sizes\.0 holds"),
        (("rows", 0, "count"), "10", r"rows\.0\.count holds '10'"),
        (("rows", 0, "count"), True, r"rows\.0\.count holds True"),
        (("rows", 0, "count"), 11, r"rows\.0 holds"),
        (("rows", 0, "accuracy"), float("nan"), r"rows\.0\.accuracy holds nan"),
        (("rows", 0, "kept"), "c041", r"rows\.0 holds[^$]*as many bits"),
        (("rows", 0, "kept"), "c0", r"rows\.0 holds[^$]*as many bits"),
        (("rows", 1, "norm"), None, r"rows\.1 holds[^$]*norm and eps"),
        (("rows", 1, "eps"), 1e300, r"rows\.1\.eps holds 1e\+300"),
        (("rows", 0, "model"), "pupil", r"rows\.0\.model holds 'pupil'"),
        (("rows", 0, "unknown"), 1, r"rows\.0\.unknown holds 1"),
        (("rows",), [], r"rows holds \[\]"),
        (("timing", "student", "train_seconds"), "fast", r"timing\.student\.train_seconds holds 'fast'"),
        (("timing", "student"), 3, r"timing\.student holds 3"),
        (("checks", 0, "status"), "fine", r"checks\.0\.status holds 'fine'"),
        (("corruptions", 1, "corruption"), "rain", "corruptions by name, and their mean"),
        (("conditions",), [], r"conditions holds \[\]"),
        (("schema",), 2, "a mapping with schema 1"),
    ],
)
def test_what_is_no_such_file_is_named(
    path: tuple[str | int, ...], value: object, message: str, tmp_path: Path
) -> None:
    content: Any = _metrics().to_json()
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_metrics(file)
    assert "changed or is damaged: metrics.json" in caught.value.what


def test_two_results_of_one_measurement_are_refused(tmp_path: Path) -> None:
    content = _metrics().to_json()
    content["rows"] += [dict(content["rows"][1])]
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    assert len(read_metrics(file).rows) == 3
    content["rows"][2] |= {"kept": "8000"}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="two of student, Linf 8/255 pgd-20"):
        read_metrics(file)
