"""The plot that matters: robust accuracy against the cost of training, readable in black and white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import replacing_file
from rrm_transfer.evaluation.metrics import Row
from rrm_transfer.report.comparison import Comparison, Line
from rrm_transfer.report.comparison_text import title_of
from rrm_transfer.report.entries import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
_MARKERS = "osD^vP*X<>ph8d"
_FILLS = ("white", "black", "0.7", "0.45")
_WIDE = 8
"""Ratio of the largest to the smallest cost above which the axis is logarithmic."""
_ROOM = 0.35
"""Part of the axis that a label to the left of its point may need."""
_DOTS_PER_INCH = 160


@dataclass(frozen=True)
class Point:
    """One run in the plot.

    Attributes:
        line: Where it stands in the table.
        cost: As the axis says.
        row: Its accuracy.
    """

    line: Line
    cost: float
    row: Row


def check_plot_file(path: Path) -> None:
    """Checks that a plot can be written under this name.

    Raises:
        UserError: The suffix names neither PNG nor SVG.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError("Not a kind of picture.", received=path, allowed=SUFFIXES)


def front(points: Sequence[Point]) -> list[Point]:
    """Returns the Pareto front: each is more robust than everything that costs as much or less."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.row.accuracy)):
        if not best or point.row.accuracy > best[-1].row.accuracy:
            best.append(point)
    return best


def draw(comparison: Comparison, path: Path) -> None:
    """Draws one point a run: the marker is its method, the filling its student, the line the Pareto front.

    Raises:
        UserError: The suffix is unknown, or no run has a robust accuracy and a cost.
    """
    check_plot_file(path)
    column = _column(comparison)
    points, axis = _points(comparison, column)
    if not points:
        raise UserError("Nothing to plot: no run has a robust accuracy and a cost of training.")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "comparison",
        "text.parse_math": False,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(8.4, 5.0), layout="constrained")
        axes = figure.add_subplot()
        _draw_points(axes, points)
        costs = [point.cost for point in points]
        if max(costs) > _WIDE * min(costs) > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axes.margins(x=0.12, y=0.14)
        axes.set_ylim(bottom=max(-0.03, axes.get_ylim()[0]))
        _draw_front(axes, front(points), several=len({point.line.student for point in points}) > 1)
        axes.set_xlabel(axis)
        axes.set_ylabel(f"accuracy under {title_of(column)}")
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
        with replacing_file(path) as temporary:
            figure.savefig(temporary, dpi=_DOTS_PER_INCH, metadata=None if _is_png(path) else {"Date": None})


def _is_png(path: Path) -> bool:
    return path.suffix.lower() == ".png"


def _column(comparison: Comparison) -> Column:
    """Chooses the measurement that most runs have; of those the largest ball, then the hardest attack."""
    made = [line for line in comparison.lines if line.model != "teacher"]

    def order(column: Column) -> tuple[int, float, float]:
        spreads = [spread for line in made if (spread := line.accuracy(column)) is not None]
        return len(spreads), column.eps or 0.0, -sum(spread.mean for spread in spreads)

    robust = [column for column in comparison.columns if column.eps]
    if not robust:
        raise UserError("Nothing to plot: no attack was run.")
    return max(robust, key=order)


def _points(comparison: Comparison, column: Column) -> tuple[list[Point], str]:
    """Returns the points and what their cost is: passes where every run tells them, else seconds."""
    found = [
        (line, entry)
        for line in comparison.lines
        for entry in line.entries
        if entry.model != "teacher" and column in entry.figures
    ]
    counted = [
        Point(line, entry.spent.passes.total, entry.figures[column])
        for line, entry in found
        if entry.spent.passes is not None
    ]
    if len(counted) == len(found):
        return counted, "training in passes: epochs of plain training of the same student"
    timed = [
        Point(line, entry.spent.seconds, entry.figures[column])
        for line, entry in found
        if entry.spent.seconds
    ]
    return timed, "training time in seconds"


def _draw_points(axes: Axes, points: Sequence[Point]) -> None:
    methods = list(dict.fromkeys(point.line.method for point in points))
    students = list(dict.fromkeys(point.line.student for point in points))
    for point in points:
        row = point.row
        axes.errorbar(
            point.cost, row.accuracy, [[row.accuracy - row.low], [row.high - row.accuracy]],
            color="0.65", linewidth=0.8, capsize=0, zorder=2,
        )  # fmt: skip
        axes.plot(
            point.cost, row.accuracy, linestyle="", color="black",
            marker=_MARKERS[methods.index(point.line.method) % len(_MARKERS)], markersize=7,
            markerfacecolor=_FILLS[students.index(point.line.student) % len(_FILLS)], zorder=4,
        )  # fmt: skip
    look: dict[str, Any] = {"linestyle": "", "color": "black", "markersize": 7}
    for number, method in enumerate(methods):
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot([], [], label=method, marker=marker, markerfacecolor="white", **look)
    if len(students) > 1:
        for number, student in enumerate(students):
            fill = _FILLS[number % len(_FILLS)]
            axes.plot([], [], label=student, marker="s", markerfacecolor=fill, **look)


def _draw_front(axes: Axes, best: Sequence[Point], *, several: bool) -> None:
    x, y = [point.cost for point in best], [point.row.accuracy for point in best]
    axes.step(
        x, y, where="post", color="black", linewidth=1.2, linestyle="--", label="Pareto front", zorder=3
    )
    axes.plot(x, y, linestyle="", marker="o", markersize=14, markerfacecolor="none", color="black", zorder=3)
    across = axes.transData + axes.transAxes.inverted()
    for point in best:
        place = (point.cost, point.row.accuracy)
        text = f"{point.line.method}, {point.line.student}" if several else point.line.method
        # Nothing is above the front: a label to the left, where the axis leaves it room, else to the right.
        right = across.transform(place)[0] < _ROOM
        axes.annotate(
            text, place, xytext=(9 if right else -8, 9), textcoords="offset points",
            ha="left" if right else "right", fontsize=8, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
