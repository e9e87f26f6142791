"""The report's first sentence, computed from the rows and the checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.metrics import Row
from rrm_transfer.report.wording import at, percent, points

Tone = Literal["good", "doubtful", "neutral"]


@dataclass(frozen=True)
class Headline:
    """The measurement that the verdict is about.

    Attributes:
        made: The row of the network that the run made.
        teacher: The teacher's row of the same measurement.
        control: The control's.
    """

    made: Row
    teacher: Row | None
    control: Row | None


@dataclass(frozen=True)
class Verdict:
    """One sentence, and what supports or limits it.

    Attributes:
        sentence: In words.
        tone: ``good`` where the network is above the control and checks found nothing.
    """

    sentence: str
    tone: Tone


def headline(rows: Sequence[Row], role: str, threat: ThreatModel) -> Headline | None:
    """Chooses a measurement: nearest to the threat model, most models measured, lowest accuracy.

    Args:
        rows: Of one metrics.json.
        role: Of the network that the run made.
        threat: Of the run.

    Returns:
        None where no attack was made on test images.
    """
    test = [row for row in rows if row.split == "test" and row.eps]
    beside = {(row.model, row.measurement): row for row in test if row.model != role}

    def found(row: Row) -> Headline:
        return Headline(
            row, beside.get(("teacher", row.measurement)), beside.get(("control", row.measurement))
        )

    def order(candidate: Headline) -> tuple[bool, float, int, float]:
        made, others = candidate.made, (candidate.teacher, candidate.control)
        distance = abs((made.eps or 0.0) - threat.eps)
        return made.norm != threat.norm, distance, others.count(None), made.accuracy

    return min((found(row) for row in test if row.model == role), key=order, default=None)


def verdict(chosen: Headline | None, statuses: Mapping[str, int]) -> Verdict:
    """Writes the verdict.

    Args:
        chosen: See `headline`.
        statuses: How many checks of the network came out ``pass`` and ``suspicious``.
    """
    passed, suspicious = statuses.get("pass", 0), statuses.get("suspicious", 0)
    about_checks = _checks(passed, suspicious)
    if chosen is None:
        return Verdict(f"No attack was run, so nothing is known about robustness; {about_checks}.", "neutral")
    made, teacher, control = chosen.made, chosen.teacher, chosen.control
    if teacher is not None and teacher.correct:
        share = percent(made.correct / teacher.correct, 0)
        text = f"The {made.model} keeps {share} of the teacher’s robust accuracy at {at(made)}"
    else:
        text = f"The {made.model} classifies {percent(made.accuracy)} of {made.count:,} test images correctly"
        text += f" at {at(made)}"
    above = None
    if control is not None:
        above = difference(made, control)
        text += f" and {_against_control(*above)}"
    if suspicious or (above is not None and above[1] <= 0):
        tone: Tone = "doubtful"
    else:
        tone = "good" if passed and above is not None else "neutral"
    return Verdict(f"{text}; {about_checks}.", tone)


def difference(row: Row, other: Row) -> tuple[float, float, float]:
    """Returns the difference of two accuracies and its 95 % interval.

    Newcombe, "Interval estimation for the difference between independent proportions", Statistics in
    Medicine 1998, method 10, from the rows' Wilson intervals. The rows share their images, which this does
    not use, so the interval is rather too wide than too narrow.
    """
    value = row.accuracy - other.accuracy
    low = value - math.hypot(row.accuracy - row.low, other.high - other.accuracy)
    high = value + math.hypot(row.high - row.accuracy, other.accuracy - other.low)
    return value, low, high


def _against_control(value: float, low: float, high: float) -> str:
    size = f"{abs(100 * value):.1f} points"
    if low > 0:
        return f"is {size} above the undefended control"
    if high < 0:
        return f"is {size} below the undefended control"
    interval = f"{points(value)} points, interval {points(low)} to {points(high)}"
    return f"cannot be told apart from the undefended control ({interval})"


def _checks(passed: int, suspicious: int) -> str:
    run = passed + suspicious
    if not run:
        return "no check for misleading figures was run"
    if suspicious:
        return f"{suspicious} of {run} checks {'is' if suspicious == 1 else 'are'} suspicious"
    return "the one check that was run passes" if run == 1 else f"all {run} checks that were run pass"
