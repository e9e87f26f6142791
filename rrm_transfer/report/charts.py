"""Line charts as inline SVG that takes its colours from the page, so that it follows light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from rrm_transfer.evaluation.metrics import BEST, Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES = (5.2, 3.3)
_DENSE = 16
"""Points of a curve above which markers would hide it."""
_INK, _RULE = "#0a0b01", "#0a0b02"
_PAGE_COLOURS = {
    _INK: "var(--ink)",
    _RULE: "var(--rule)",
    "#0a0b03": "var(--teacher)",
    "#0a0b04": "var(--control)",
    "#0a0b05": "var(--student)",
}
"""Colours that matplotlib writes, and the page's that take their places."""


@dataclass(frozen=True)
class Style:
    """How a curve looks; any two differ in print without colours too."""

    colour: str
    marker: str
    line: str


STYLES: dict[Model, Style] = {
    "teacher": Style("#0a0b03", "s", "--"),
    "control": Style("#0a0b04", "^", ":"),
    "student": Style("#0a0b05", "o", "-"),
    BEST: Style("#0a0b05", "D", "-."),
}
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: In the legend.
        style: Its look.
        x: Ascending.
        y: As many.
        low: Lower ends of intervals, none or as many.
        high: Upper ends.
    """

    label: str
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        title: With its unit.
        log: Whether it is logarithmic; linear around zero up to ``linear_until``.
        ticks: Values to mark; none: automatic.
        top: Upper end; None: automatic.
        percent: Whether values in [0, 1] are written as percentages.
    """

    title: str
    log: bool = False
    linear_until: float | None = None
    ticks: Sequence[float] = ()
    top: float | None = None
    percent: bool = False


def line_chart(
    name: str,
    curves: Sequence[Curve],
    *,
    x: Scale,
    y: Scale,
    alt: str,
    reference: tuple[str, float] | None = None,
) -> Markup:
    """Draws curves with their interval bands, the first on top: its line should be one with gaps.

    Args:
        name: Unique in the page.
        curves: One or more.
        x: Horizontal axis.
        y: Vertical axis.
        alt: What the chart shows, in words.
        reference: Name and height of a horizontal line.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 10,
        "lines.linewidth": 1.8,
        "lines.markersize": 5.5,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
        **dict.fromkeys(("axes.edgecolor", "grid.color"), _RULE),
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for depth, curve in enumerate(reversed(curves)):
            _draw(axes, curve, depth)
        if reference is not None:
            text, height = reference
            axes.axhline(height, color=_INK, linewidth=0.8, dashes=(1, 3))
            axes.annotate(
                text, (0.01, height), xycoords=("axes fraction", "data"), xytext=(0, 2),
                textcoords="offset points", fontsize=9,
            )  # fmt: skip
        axes.grid(axis="y", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        _scale(axes, x, "x")
        _scale(axes, y, "y")
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1], labels[::-1], loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False,
            borderaxespad=0.2, handlelength=2.6, columnspacing=1.4,
        )  # fmt: skip
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    return _inline(stream.getvalue(), name, alt)


def _draw(axes: Axes, curve: Curve, depth: int) -> None:
    style = curve.style
    marker = style.marker if len(curve.x) <= _DENSE else ""
    axes.plot(
        curve.x, curve.y, color=style.colour, marker=marker, linestyle=style.line, label=curve.label,
        zorder=3 + depth,
    )  # fmt: skip
    if curve.low:
        axes.fill_between(curve.x, curve.low, curve.high, color=style.colour, alpha=0.16, linewidth=0)


def _scale(axes: Axes, scale: Scale, which: str) -> None:
    from matplotlib.ticker import (
        FixedLocator,
        FormatStrFormatter,
        LogLocator,
        NullLocator,
        PercentFormatter,
    )

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_label_text(scale.title)
    axis.set_tick_params(which="both", length=3)
    if scale.log:
        kind = {"linthresh": scale.linear_until, "linscale": 0.4} if scale.linear_until else {}
        name = "symlog" if scale.linear_until else "log"
        (axes.set_xscale if which == "x" else axes.set_yscale)(name, **kind)
    if which == "x" and scale.linear_until:
        axes.set_xlim(left=-0.2 * scale.linear_until)
    if which == "y" and scale.top is not None:
        axes.set_ylim(0, scale.top)
    if scale.ticks:
        axis.set_major_locator(FixedLocator(list(scale.ticks)))
        axis.set_minor_locator(NullLocator())
    elif scale.log:
        axis.set_minor_locator(LogLocator(subs=(2, 5)))  # more labels than these would overlap
    if scale.percent:
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    elif scale.log or scale.ticks:
        axis.set_major_formatter(FormatStrFormatter("%.4g"))
        axis.set_minor_formatter(FormatStrFormatter("%.4g"))


def _inline(svg: str, name: str, alt: str) -> Markup:
    """Takes what only a file needs from an SVG document and gives it the page's colours."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1))
