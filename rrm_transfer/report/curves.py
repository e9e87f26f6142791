"""The report's charts: accuracy against eps, severity and steps; losses and learning rate against steps."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from rrm_transfer.core.quantities import Proportion, format_eps, wilson_interval
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.metrics import MEAN, MODELS, CorruptionRow, MinimumRow, Model, Row
from rrm_transfer.report.charts import LINES, MARKERS, STYLES, Curve, Scale, Style, line_chart
from rrm_transfer.report.wording import minimum, percent
from rrm_transfer.runs.finished import FinishedRun, SelectionEvent, StepEvent

_WIDE = 12
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""

_POINTS = 40
"""Of a curve that has one for every image."""

_Key = tuple[str, str, str, str]
"""Images, split, norm and attack: what the points of one chart have in common."""


@dataclass(frozen=True)
class Chart:
    """A drawing with what stands under it."""

    svg: Markup
    caption: str


def robustness_charts(run: FinishedRun) -> list[Chart]:
    """Draws a chart for each attack that was made at two radii or more, or for the one made at most."""
    groups: dict[_Key, dict[str, dict[float, Row]]] = defaultdict(lambda: defaultdict(dict))
    clean: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for source, metrics in run.measurements():
        images = metrics.data or source or ""
        for row in metrics.rows:
            if row.attack in {found.attack for found in metrics.minima}:
                continue  # has a chart of its own
            if row.attack == "none" or row.eps is None:
                clean[images, row.split].setdefault(row.model, row)
            else:
                points = groups[images, row.split, str(row.norm), row.effort][row.model]
                points.setdefault(row.eps, row)
    for (images, split, *_), group in groups.items():
        for model, points in group.items():
            if model in clean[images, split]:
                points.setdefault(0.0, clean[images, split][model])

    def radii(key: _Key) -> int:
        return len({eps for points in groups[key].values() for eps in points if eps})

    keys = [key for key in groups if radii(key) > 1]
    keys = keys or [key for key in groups if key[1] == "test"][:1]
    keys.sort(key=radii, reverse=True)
    chance = 1 / run.student.classes
    return [_robustness_chart(f"eps{n}", key, groups[key], chance) for n, key in enumerate(keys)]


def _robustness_chart(name: str, key: _Key, group: Mapping[str, Mapping[float, Row]], chance: float) -> Chart:
    _, split, norm, attack = key
    unit = 255 if norm == "Linf" else 1
    curves, words, counts = [], [], set()
    for model in MODELS:
        rows = [row for _, row in sorted(group.get(model, {}).items())]
        if not rows:
            continue
        eps = sorted(group[model])
        curves.append(
            Curve(
                model,
                STYLES[model],
                x=[unit * value for value in eps],
                y=[row.accuracy for row in rows],
                low=[row.low for row in rows],
                high=[row.high for row in rows],
            )
        )
        values = (f"{percent(row.accuracy)} at {format_eps(e)}" for e, row in zip(eps, rows, strict=True))
        words.append(f"{model} {', '.join(values)}")
        counts |= {row.count for row in rows}
    x = sorted({value for curve in curves for value in curve.x})
    positive = [value for value in x if value]
    wide = bool(positive) and positive[-1] > _WIDE * positive[0]
    svg = line_chart(
        name,
        curves,
        x=Scale(
            _eps_title(norm), log=wide, linear_until=positive[0] if wide else None, ticks=_ticks(x, wide=wide)
        ),
        y=Scale("accuracy", top=1.0, percent=True),
        alt=f"Accuracy against eps under {attack}: {'; '.join(words)}.",
        reference=("chance", chance),
    )
    images = " or ".join(f"{count:,}" for count in sorted(counts))
    return Chart(svg, f"Accuracy under {attack} on {images} {split} images; bands are 95 % intervals.")


def minimum_charts(run: FinishedRun) -> list[Chart]:
    """Draws, for each set of images and norm, at which eps how many images have fallen."""
    groups: dict[tuple[str, str, str], dict[str, MinimumRow]] = defaultdict(dict)
    for source, metrics in run.measurements():
        for row in metrics.minima:
            groups[metrics.data or source or "", row.split, row.norm].setdefault(row.model, row)
    chance = 1 / run.student.classes
    return [
        _minimum_chart(f"minimum{n}", norm, group, chance)
        for n, ((_, _, norm), group) in enumerate(groups.items())
    ]


def _minimum_chart(name: str, norm: str, group: Mapping[str, MinimumRow], chance: float) -> Chart:
    unit = 255 if norm == "Linf" else 1
    curves = []
    for model in MODELS:
        if model not in group:
            continue
        row = group[model]
        found = sorted(size for size in row.sizes if size is not None)
        # As many points as a curve of this size can show.
        eps = sorted({0.0, *found[:: max(1, len(found) // _POINTS)], *found[-1:]})
        kept = [row.count - bisect_right(found, value) for value in eps]
        low, high = zip(*(Proportion(count, row.count).interval() for count in kept), strict=True)
        curves.append(
            Curve(
                model,
                STYLES[model],
                x=[unit * value for value in eps],
                y=[count / row.count for count in kept],
                low=low,
                high=high,
            )
        )
    svg = line_chart(
        name,
        curves,
        x=Scale(_eps_title(norm)),
        y=Scale("accuracy", top=1.0, percent=True),
        alt="Share of images that need a larger perturbation, against eps. "
        + " ".join(f"{model}: {minimum(row)}." for model, row in group.items()),
        reference=("chance", chance),
    )
    words = " ".join(f"{model.capitalize()}: {minimum(row)}." for model, row in group.items())
    return Chart(svg, f"Images that need a larger perturbation than eps; bands are 95 % intervals. {words}")


def _eps_title(norm: str) -> str:
    return f"eps in 1/255 ({norm})" if norm == "Linf" else f"eps in pixel units ({norm})"


def _ticks(values: list[float], *, wide: bool) -> list[float]:
    """Chooses the measured values that leave room for each other's labels."""
    ticks = values[:1]
    for value in values[1:]:
        if value > (1.9 * ticks[-1] if wide else ticks[-1] + values[-1] / 9):
            ticks.append(value)
    return ticks


def corruption_charts(run: FinishedRun) -> list[Chart]:
    """Draws the mean accuracy under common corruptions against their severity, for each set of images."""
    groups: dict[tuple[str, str], dict[str, list[CorruptionRow]]] = defaultdict(dict)
    for source, metrics in run.measurements():
        means = [row for row in metrics.corruptions if row.corruption == MEAN and row.severity is not None]
        for model in {row.model for row in means}:
            rows = sorted((row for row in means if row.model == model), key=lambda row: row.severity or 0)
            groups[metrics.data or source or "", rows[0].split].setdefault(model, rows)
    return [
        _corruption_chart(f"corruption{n}", split, group)
        for n, ((_, split), group) in enumerate(groups.items())
    ]


def _corruption_chart(name: str, split: str, group: Mapping[str, list[CorruptionRow]]) -> Chart:
    curves = [
        Curve(
            model,
            STYLES[model],
            x=[row.severity or 0 for row in group[model]],
            y=[row.accuracy for row in group[model]],
            low=[row.low for row in group[model]],
            high=[row.high for row in group[model]],
        )
        for model in MODELS
        if model in group
    ]
    words = (f"{curve.label} from {percent(curve.y[0])} to {percent(curve.y[-1])}" for curve in curves)
    svg = line_chart(
        name,
        curves,
        x=Scale("severity", ticks=sorted({x for curve in curves for x in curve.x})),
        y=Scale("accuracy", top=1.0, percent=True),
        alt=f"Mean accuracy under common corruptions against severity: {'; '.join(words)}.",
    )
    return Chart(
        svg, f"Mean accuracy over all corruptions of the same {split} images; bands are 95 % intervals."
    )


def training_charts(run: FinishedRun) -> list[Chart]:
    """Draws losses and held-out accuracies of each network, and the learning rates of all."""
    by_model, accuracies = _by_model(run, StepEvent), _by_model(run, SelectionEvent)
    charts = []
    for model, steps in by_model.items():
        charts.append(_loss_chart(model, steps))
        if model in accuracies:
            charts.append(_accuracy_chart(model, accuracies[model]))
    return [*charts, _rate_chart(by_model)] if charts else []


_Logged = TypeVar("_Logged", StepEvent, SelectionEvent)


def _by_model(run: FinishedRun, kind: type[_Logged]) -> dict[Model, list[_Logged]]:
    """Returns the events of each network in order; a step that a resumed run repeats counts last."""
    found: dict[Model, dict[int, _Logged]] = defaultdict(dict)
    for event in run.events:
        if isinstance(event, kind):
            found[event.model][event.step] = event
    return {model: [steps[step] for step in sorted(steps)] for model, steps in found.items()}


def _loss_chart(model: Model, steps: list[StepEvent]) -> Chart:
    colour = STYLES[model].colour
    curves, words = [], []
    for number, term in enumerate(dict.fromkeys(term for step in steps for term in step.losses)):
        points = [(step.step, step.losses[term]) for step in steps if term in step.losses]
        style = Style(colour, MARKERS[number % len(MARKERS)], LINES[number % len(LINES)])
        x, y = zip(*points, strict=True)
        curves.append(Curve(term, style, x, y))
        words.append(f"{term} from {y[0]:.4g} to {y[-1]:.4g}")
    values = [value for curve in curves for value in curve.y]
    wide = min(values) > 0 and max(values) > _WIDE * min(values)
    svg = line_chart(
        f"loss-{model}",
        curves,
        x=Scale("optimizer step"),
        y=Scale("loss", log=wide),
        alt=f"Losses of the {model} against optimizer steps: {', '.join(words)}.",
    )
    return Chart(svg, f"Training losses of the {model}, unweighted, each the mean since the point before.")


def _accuracy_chart(model: Model, events: list[SelectionEvent]) -> Chart:
    style = STYLES[model]
    last = events[-1]
    attacked = str(ThreatModel(last.norm, last.eps))
    count = last.count
    curves, words = [], []
    for number, (key, label) in enumerate((("clean", "clean"), ("robust", attacked))):
        points = [(event.step, value) for event in events if (value := getattr(event, key)) is not None]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        low, high = zip(*(wilson_interval(value, count) for value in y), strict=True)
        look = Style(style.colour, MARKERS[number], LINES[number])
        curves.append(Curve(label, look, x, y, low, high))
        words.append(f"{label} from {percent(y[0])} to {percent(y[-1])}")
    svg = line_chart(
        f"accuracy-{model}",
        curves,
        x=Scale("optimizer step"),
        y=Scale("accuracy", top=1.0, percent=True),
        alt=f"Held-out accuracy of the {model} against optimizer steps: {', '.join(words)}.",
    )
    return Chart(
        svg, f"Accuracy of the {model} on {count:,} held-out training images; bands are 95 % intervals."
    )


def _rate_chart(by_model: Mapping[Model, list[StepEvent]]) -> Chart:
    curves = [
        Curve(
            model,
            STYLES[model],
            x=[step.step for step in steps],
            y=[step.lr for step in steps],
        )
        for model, steps in by_model.items()
    ]
    highest = ", ".join(f"{curve.label} at most {max(curve.y):.4g}" for curve in curves)
    svg = line_chart(
        "rate",
        curves,
        x=Scale("optimizer step"),
        y=Scale("learning rate"),
        alt=f"Learning rate against optimizer steps: {highest}.",
    )
    return Chart(svg, "Learning rate.")
