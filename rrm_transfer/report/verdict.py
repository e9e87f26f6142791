"""The report's first sentence, computed from the rows and the checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rrm_transfer.core.quantities import counted
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.metrics import Model, Row
from rrm_transfer.evaluation.paired import Difference, Paired, difference
from rrm_transfer.report.wording import at, percent, points, total
from rrm_transfer.training.passes import Passes

Tone = Literal["good", "doubtful", "neutral"]


@dataclass(frozen=True)
class Headline:
    """The measurement that the verdict is about.

    Attributes:
        student: The student's row.
        teacher: The teacher's row of the same measurement.
        control: The control's.
    """

    student: Row
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


def headline(rows: Sequence[Row], threat: ThreatModel, model: Model = "student") -> Headline | None:
    """Chooses a measurement: nearest to the threat model, most models measured, lowest accuracy.

    Args:
        rows: Of one metrics.json.
        threat: Of the run.
        model: The network that the verdict is about.

    Returns:
        None where no attack was made on test images.
    """
    test = [row for row in rows if row.split == "test" and row.eps]
    beside = {(row.model, row.measurement): row for row in test if row.model != model}

    def found(row: Row) -> Headline:
        return Headline(
            row, beside.get(("teacher", row.measurement)), beside.get(("control", row.measurement))
        )

    def order(candidate: Headline) -> tuple[bool, float, int, float]:
        student, others = candidate.student, (candidate.teacher, candidate.control)
        distance = abs((student.eps or 0.0) - threat.eps)
        return student.norm != threat.norm, distance, others.count(None), student.accuracy

    return min((found(row) for row in test if row.model == model), key=order, default=None)


def verdict(
    chosen: Headline | None,
    statuses: Mapping[str, int],
    *,
    passes: Passes | None = None,
    noun: str = "student",
) -> Verdict:
    """Writes the verdict.

    Args:
        chosen: See `headline`.
        statuses: How many checks of the network came out ``pass`` and ``suspicious``.
        passes: What training it took; None where that is not known.
        noun: What the network is called.
    """
    passed, suspicious = statuses.get("pass", 0), statuses.get("suspicious", 0)
    about_checks = _checks(passed, suspicious)
    if chosen is None:
        return Verdict(f"No attack was run, so nothing is known about robustness; {about_checks}.", "neutral")
    student, teacher, control = chosen.student, chosen.teacher, chosen.control
    pair = None if teacher is None else Paired.of(student, teacher)
    share = None if pair is None else pair.ratio()
    if share is not None:
        value, low, high = (percent(figure, 0) for figure in share)
        text = f"The {noun} keeps {value} (interval {low} to {high}) of the teacher’s robust accuracy"
    else:
        text = f"The {noun} classifies {percent(student.accuracy)} of {student.count:,} test images correctly"
    text += f" at {at(student)}"
    above: Difference | None = None
    if control is not None:
        above = difference(student, control)
        text += f" and {_against_control(above)}"
    if passes is not None:
        text += f", for {_price(passes, aside=teacher is not None)}"
    if suspicious or (above is not None and above.interval.low <= 0):
        tone: Tone = "doubtful"
    else:
        tone = "good" if passed and above is not None else "neutral"
    return Verdict(f"{text}; {about_checks}.", tone)


def _against_control(difference: Difference) -> str:
    value, low, high = difference.interval
    size = f"{abs(100 * value):.1f} points"
    interval = f"interval {points(low)} to {points(high)}{', unpaired' * (not difference.paired)}"
    if low > 0:
        return f"is {size} above the undefended control ({interval})"
    if high < 0:
        return f"is {size} below the undefended control ({interval})"
    return f"cannot be told apart from the undefended control ({points(value)} points, {interval})"


def _price(passes: Passes, *, aside: bool) -> str:
    others = ", the teacher’s own aside" if aside else ""
    made = f"{total(passes)} in {counted(passes.epochs, 'epoch')}{others}"
    return f"{passes.ratio:.2f} times the passes of plain training ({made})"


def _checks(passed: int, suspicious: int) -> str:
    run = passed + suspicious
    if not run:
        return "no check for misleading figures was run"
    if suspicious:
        return f"{suspicious} of {run} checks {'is' if suspicious == 1 else 'are'} suspicious"
    return "the one check that was run passes" if run == 1 else f"all {run} checks that were run pass"
