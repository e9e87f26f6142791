"""The form of metrics.json."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
)
from pydantic_core import CoreSchema, core_schema

from rrm_transfer.core.documents import as_form, parse_json, read_form
from rrm_transfer.core.files import write_text
from rrm_transfer.core.quantities import Proportion, format_eps, median_interval
from rrm_transfer.core.threat import Norm, ThreatModel

SCHEMA = 1
Model = Literal["teacher", "control", "student", "student-best"]
"""Which network a row is about. A run trains a student, also where it is meant as a teacher; ``student-best``
is the student with the best weights by the held-out part, beside which its own are the last."""
MODELS: tuple[Model, ...] = get_args(Model)
BEST: Model = "student-best"

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[Finite, Field(ge=0, le=1)]
Seconds = Annotated[Finite, Field(ge=0)]
Radius = Annotated[Finite, Field(ge=0, le=1e6)]
Whole = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Count = Annotated[Whole, Field(ge=1)]
_CLOSED = ConfigDict(extra="forbid")


class Facts(BaseModel):
    """A mapping some of whose keys are read; the others are what they are."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class _Is:
    """Has a mapping checked as ``form`` when it is read; it stays a mapping."""

    def __init__(self, form: type[Facts]) -> None:
        self._form = form

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            lambda facts: facts.model_dump(exclude_unset=True), handler.generate_schema(self._form)
        )


@dataclass(frozen=True)
class Row:
    """One accuracy.

    Attributes:
        model: See ``Model``.
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
        kept: Which images are still classified correctly: one bit for each in the order of the measured
            images, the first the highest of its byte, as hexadecimal digits; None where that is not known.
            Rows of the same images can be compared image by image.
    """

    __pydantic_config__ = _CLOSED

    model: Model
    split: str
    attack: str
    norm: Norm | None
    eps: Radius | None
    steps: Whole | None
    restarts: Whole | None
    correct: Whole
    count: Count
    accuracy: Share
    low: Share
    high: Share
    kept: str | None = None

    def __post_init__(self) -> None:
        if self.correct > self.count or not math.isclose(self.accuracy, self.correct / self.count):
            raise ValueError("an accuracy that is correct / count, which is at most 1")
        if not self.low <= self.accuracy <= self.high:
            raise ValueError("an interval that holds the accuracy")
        if (self.norm is None) != (self.eps is None):
            raise ValueError("norm and eps, or neither")
        if self.kept is not None and not self._keeps():
            raise ValueError("kept: as many bits as there are images, and those of the correct ones set")

    def _keeps(self) -> bool:
        text = self.kept or ""
        digits = 2 * math.ceil(self.count / 8)
        if len(text) != digits or not set(text) <= set("0123456789abcdef"):
            return False
        bits = int(text, 16)
        padding = 4 * digits - self.count
        return bits.bit_count() == self.correct and bits & ((1 << padding) - 1) == 0

    @property
    def measurement(self) -> tuple[object, ...]:
        """What was measured, apart from the model and the result."""
        return (self.split, self.attack, self.norm, self.eps, self.steps, self.restarts, self.count)

    @property
    def ball(self) -> str:
        """Where the attack stays: ``Linf 8/255``; or ``clean``."""
        return "clean" if self.attack == "none" or self.eps is None else f"{self.norm} {format_eps(self.eps)}"

    @property
    def effort(self) -> str:
        """The attack with its effort: ``pgd-20×5``, ``autoattack``."""
        steps = "" if self.steps is None else f"-{self.steps}"
        restarts = f"×{self.restarts}" if self.restarts and self.restarts > 1 else ""
        return f"{self.attack}{steps}{restarts}"

    @property
    def title(self) -> str:
        """Names the measurement: ``clean``, ``Linf 8/255 pgd-20``."""
        return self.ball if self.ball == "clean" else f"{self.ball} {self.effort}"

    def right(self) -> npt.NDArray[np.bool_] | None:
        """Returns which images are still classified correctly, ``(count,)``; None where that is not known."""
        if self.kept is None:
            return None
        bits = np.frombuffer(bytes.fromhex(self.kept), dtype=np.uint8)
        return np.unpackbits(bits, count=self.count).astype(bool)


def row(
    model: Model,
    split: str,
    proportion: Proportion,
    *,
    kept: Iterable[int] | None = None,
    attack: str = "none",
    norm: Norm | None = None,
    eps: float | None = None,
    steps: int | None = None,
    restarts: int | None = None,
) -> Row:
    """Makes a row with its accuracy and interval; ``kept`` are the positions of the correct images."""
    low, high = proportion.interval()
    return Row(
        model, split, attack, norm, eps, steps, restarts,
        proportion.correct, proportion.count, proportion.value, low, high,
        None if kept is None else _bits(kept, proportion.count),
    )  # fmt: skip


def _bits(positions: Iterable[int], count: int) -> str:
    right = np.zeros(count, dtype=bool)
    right[list(positions)] = True
    return np.packbits(right).tobytes().hex()


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

    __pydantic_config__ = _CLOSED

    model: Model
    split: str
    corruption: str
    severity: Annotated[Whole, Field(ge=1, le=5)] | None
    correct: Whole
    count: Count
    accuracy: Share
    low: Share
    high: Share


@dataclass(frozen=True)
class MinimumRow:
    """The smallest perturbations that were found, image by image, in pixel units.

    Attributes:
        model: As of a `Row`.
        split: Of the data set.
        attack: What looked for them.
        norm: That they are measured in.
        limit: Nothing larger was looked for.
        steps: Of the attack.
        count: Images.
        wrong: How many are misclassified as they are; their size is 0.
        unbroken: For how many nothing was found.
        median: Over all images; None where half of them are unbroken.
        low: Lower end of its 95 % interval; see `median_interval`.
        high: Upper end; None where there is none.
        sizes: In the order of the measured images; None where nothing was found.
    """

    __pydantic_config__ = _CLOSED

    model: Model
    split: str
    attack: str
    norm: Norm
    limit: Radius
    steps: Whole
    count: Count
    wrong: Whole
    unbroken: Whole
    median: Radius | None
    low: Radius
    high: Radius | None
    sizes: list[Radius | None]

    @classmethod
    def of(
        cls,
        model: Model,
        split: str,
        *,
        attack: str,
        limit: ThreatModel,
        steps: int,
        sizes: list[float | None],
    ) -> MinimumRow:
        """Sums sizes up."""
        return cls(model, split, attack, limit.norm, limit.eps, steps, *_summary(sizes), sizes)

    def __post_init__(self) -> None:
        given = (self.count, self.wrong, self.unbroken, self.median, self.low, self.high)
        if not self.sizes or given != _summary(self.sizes):
            raise ValueError("count, wrong, unbroken, median, low and high that are those of the sizes")

    def within(self, eps: float) -> Row:
        """Returns the accuracy in the ball of a radius: images that need a larger perturbation are robust."""
        kept = [place for place, size in enumerate(self.sizes) if size is None or size > eps]
        return row(
            self.model, self.split, Proportion(len(kept), self.count), kept=kept, attack=self.attack,
            norm=self.norm, eps=eps, steps=self.steps,
        )  # fmt: skip


def _summary(sizes: list[float | None]) -> tuple[int, int, int, float | None, float, float | None]:
    known = sorted(math.inf if size is None else size for size in sizes)
    figures = (statistics.median(known), *median_interval(known))
    median, low, high = (value if math.isfinite(value) else None for value in figures)
    # Where most are unbroken, all that is known of the lower end is the largest size that was found.
    largest = max((size for size in sizes if size is not None), default=0.0)
    return len(sizes), sizes.count(0.0), sizes.count(None), median, largest if low is None else low, high


class _Features(Facts):
    seconds: Seconds = 0.0
    build_seconds: Seconds = 0.0


class _Passes(Facts):
    epochs: Count
    per_image: Seconds
    before: Seconds


class _Training(Facts):
    passes: _Passes | None = None
    machine: str | None = None
    load: Seconds | None = None
    train_seconds: Seconds | None = None
    images_per_s: Seconds | None = None
    steps: Whole | None = None
    epochs: Whole | None = None
    teacher_features: _Features | None = None


class _Timing(Facts):
    teacher: _Training | None = None
    control: _Training | None = None
    student: _Training | None = None
    attacks: dict[str, Seconds] | None = None


class _Check(Facts):
    name: str
    status: Literal["pass", "suspicious", "not-run"]
    figure: Finite | None
    limit: Finite | None


class _Conditions(Facts):
    dataset: str | None = None
    attacks: list[Any] | None = None
    steps: Whole | None = None
    restarts: Whole | None = None
    surrogate: str | None = None


@dataclass(frozen=True)
class Metrics:
    """The contents of metrics.json.

    Attributes:
        rows: Accuracies without and under attack.
        indices: Positions of the measured images in the test split; None: all of it.
        data: Fingerprint of the measured images.
        timing: Per model: passes and seconds of training, machine and load, steps, images per second.
            ``attacks``: seconds by attack.
        checks: ``{name, status, figure, limit}`` each; see ``evaluation.checks``.
        survivors: Images left after each stage, by attack, where it has several.
        corruptions: Accuracies under common corruptions, where they were measured.
        minima: Smallest perturbations, where they were looked for.
        conditions: What the figures depend on: hashes, versions, seed, batch size.
    """

    __pydantic_config__ = _CLOSED

    rows: Annotated[list[Row], Field(min_length=1)]
    indices: list[Whole] | None = None
    data: str | None = None
    timing: Annotated[dict[str, Any], _Is(_Timing)] = field(default_factory=dict)
    checks: list[Annotated[dict[str, Any], _Is(_Check)]] = field(default_factory=list)
    survivors: dict[str, dict[str, Whole]] = field(default_factory=dict)
    corruptions: list[CorruptionRow] = field(default_factory=list)
    minima: list[MinimumRow] = field(default_factory=list)
    conditions: Annotated[dict[str, Any], _Is(_Conditions)] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(self.to_json(), indent=1) + "\n")

    def measured_on(self, dataset: str) -> bool:
        """Tells whether the figures are of the data set; those that name none are of the run's own."""
        return bool(self.conditions.get("dataset", dataset) == dataset)

    def of(self, model: Model) -> list[Row]:
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
    return read_form(path, _FORM)


def metrics_of(path: Path, content: object) -> Metrics:
    """Returns the metrics that a file was found to hold.

    Raises:
        UserError: It has another form.
    """
    return as_form(path, content, _FORM)


def _without_schema(content: Any) -> Any:
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"a mapping with schema {SCHEMA}")
    return {key: value for key, value in content.items() if key != "schema"}


def _agrees(metrics: Metrics) -> Metrics:
    """Refuses two results of one measurement, and corruptions without their mean."""
    found: dict[object, Row] = {}
    for row in metrics.rows:
        if found.setdefault((row.model, row.measurement), row) != row:
            raise ValueError(f"one result of each measurement, not two of {row.model}, {row.title}")
    named = {row.corruption for row in metrics.corruptions}
    if named and not (MEAN in named and len(named) > 1):
        raise ValueError(f"corruptions by name, and their {MEAN}")
    return metrics


_FORM = TypeAdapter(Annotated[Metrics, AfterValidator(_agrees), BeforeValidator(_without_schema)])
