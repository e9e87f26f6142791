"""The form of metrics.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import write_text
from rrm_transfer.core.quantities import Proportion

SCHEMA = 1
Role = Literal["teacher", "control", "student"]


def best_of(role: str) -> str:
    """Names the best weights of a model by the held-out split, beside which its own are the last."""
    return f"{role}-best"


@dataclass(frozen=True)
class Row:
    """One accuracy.

    Attributes:
        model: ``teacher``, ``control`` or ``student``; see also ``best_of``.
        split: Of the data set.
        attack: ``none``, ``pgd``, …
        norm: None for attack ``none``.
        eps: In pixel units; None for attack ``none``.
        steps: Of the attack.
        restarts: Of the attack.
        correct: Images still classified correctly.
        count: Images tried.
        accuracy: ``correct / count``.
        low: Lower end of the 95 % Wilson interval.
        high: Upper end.
    """

    model: str
    split: str
    attack: str
    norm: str | None
    eps: float | None
    steps: int | None
    restarts: int | None
    correct: int
    count: int
    accuracy: float
    low: float
    high: float

    @property
    def measurement(self) -> tuple[object, ...]:
        """What was measured, apart from the model and the result."""
        return (self.split, self.attack, self.norm, self.eps, self.steps, self.restarts, self.count)


def row(
    model: str,
    split: str,
    proportion: Proportion,
    *,
    attack: str = "none",
    norm: str | None = None,
    eps: float | None = None,
    steps: int | None = None,
    restarts: int | None = None,
) -> Row:
    """Makes a row with its accuracy and interval."""
    low, high = proportion.interval()
    return Row(
        model, split, attack, norm, eps, steps, restarts,
        proportion.correct, proportion.count, proportion.value, low, high,
    )  # fmt: skip


MEAN = "mean"
"""Stands for all corruptions in a `CorruptionRow`."""


@dataclass(frozen=True)
class CorruptionRow:
    """One accuracy under common corruptions.

    Attributes:
        model: As of a `Row`.
        split: Of the data set.
        corruption: Its name, or ``mean``: all of them.
        severity: 1 to 5; None: all of them.
        correct: Corrupted images that are classified correctly.
        count: Corrupted images tried.
        accuracy: ``correct / count``.
        low: Lower end of the 95 % Wilson interval; images count once, however many corrupted copies were
            tried, so that it is rather too wide.
        high: Upper end.
    """

    model: str
    split: str
    corruption: str
    severity: int | None
    correct: int
    count: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Metrics:
    """The contents of metrics.json.

    Attributes:
        rows: Accuracies without and under attack.
        indices: Positions of the measured images in the test split; None: all of it.
        data: Fingerprint of the measured images.
        timing: Per model: seconds of training, steps, images per second. ``attacks``: seconds by attack.
        checks: ``{name, status, figure, limit}`` each; see ``evaluation.checks``.
        survivors: Images left after each stage, by attack, where it has several.
        corruptions: Accuracies under common corruptions, where they were measured.
        conditions: What the figures depend on: hashes, versions, seed, batch size.
    """

    rows: list[Row]
    indices: list[int] | None = None
    data: str | None = None
    timing: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    survivors: dict[str, dict[str, int]] = field(default_factory=dict)
    corruptions: list[CorruptionRow] = field(default_factory=list)
    conditions: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(self.to_json(), indent=1) + "\n")

    def measured_on(self, dataset: str) -> bool:
        """Tells whether the figures are of the data set; those that name none are of the run's own."""
        return bool(self.conditions.get("dataset", dataset) == dataset)

    def of(self, model: str) -> list[Row]:
        return [row for row in self.rows if row.model == model]


def is_evaluation(path: Path) -> bool:
    """Tells whether ``evaluate`` wrote a regular file, as its figures or as what it had found so far."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    conditions = content.get("conditions") if isinstance(content, dict) else None
    return isinstance(conditions, dict) and "rrm-transfer" in conditions and content.get("schema") == SCHEMA


def read_metrics(path: Path) -> Metrics:
    """Reads a metrics.json.

    Raises:
        UserError: It is missing, or has another form.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        rows = [Row(**entry) for entry in content.pop("rows")]
        corruptions = [CorruptionRow(**entry) for entry in content.pop("corruptions", [])]
        return Metrics(rows=rows, corruptions=corruptions, **content)
    except FileNotFoundError:
        raise UserError(
            "There is no metrics.json.", received=path, hint="the run may not be finished"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"Not a metrics.json that this version reads: {error!r}", received=path) from None
