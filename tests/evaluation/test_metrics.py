"""The form of metrics.json: what is written comes back, and nothing else is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.evaluation.metrics import CorruptionRow, Metrics, read_metrics, row


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
        conditions={"attacks": ["pgd"], "weights": "ab", "surrogate": None},
    )


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    _metrics().write(tmp_path / "metrics.json")
    assert read_metrics(tmp_path / "metrics.json") == _metrics()


def test_a_row_knows_its_images_and_its_names() -> None:
    clean, attacked = _metrics().rows
    assert clean.kept == "c040"
    right = clean.right()
    assert right is not None
    assert np.flatnonzero(right).tolist() == [0, 1, 9]
    assert (clean.title, clean.ball) == ("clean", "clean")
    assert (attacked.title, attacked.ball, attacked.effort) == (
        "Linf 8/255 pgd-20×5",
        "Linf 8/255",
        "pgd-20×5",
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
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
