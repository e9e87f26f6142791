"""A comparison as a table for people, as Markdown, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from rich.table import Table

from rrm_transfer.evaluation.metrics import BEST
from rrm_transfer.report.comparison import Comparison, Line, Spread
from rrm_transfer.report.entries import Column
from rrm_transfer.report.screen import new_table
from rrm_transfer.report.wording import duration, factors, points

SCHEMA = 1
_NOTHING = "–"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_TO_BEST = (" to best", " to best low", " to best high", " to best paired")
_COST_KEYS = ("passes", "teacher_passes", "train_seconds", "teacher_train_seconds")
_COSTS = ("passes", "training", "teacher's training")


def as_table(comparison: Comparison) -> Table:
    """Makes the table for a terminal; cells have up to three lines."""
    heads = [head.replace(" ", "\n", 2).replace("\n", " ", 1) for head in _heads(comparison.columns)]
    table = new_table(caption(comparison), "method", "student", figures=(*heads, *_COSTS))
    for line in comparison.lines:
        table.add_row(*_cells(comparison, line, "\n"))
    return table


def as_markdown(comparison: Comparison) -> str:
    """Writes a table of GitHub's Markdown, its caption below."""
    heads, text = ["method", "student", *_heads(comparison.columns), *_COSTS], caption(comparison)
    ruler = ["---", "---"] + ["---:"] * (len(heads) - 2)
    lines = [heads, ruler, *(_cells(comparison, line, " ") for line in comparison.lines)]
    rows = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    return "\n".join([*rows, "", f"{text[0].upper()}{text[1:]}."])


def _defused(cell: object) -> object:
    """Keeps a spreadsheet from taking a stranger's words for a formula; numbers stay numbers."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def as_csv(comparison: Comparison) -> str:
    """Writes one row a line, numbers unrounded; each accuracy with its deviation and interval."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads = _heads(comparison.columns)
    titles = (
        ["method", "student", "model", "weights", "epochs", "runs"]
        + [f"{head}{suffix}" for head in heads for suffix in ("", " runs", " sd", " low", " high", *_TO_BEST)]
        + [f"{cost}{suffix}" for cost in _COST_KEYS for suffix in ("", "_sd")]
        + ["machine"]
    )
    writer.writerow(map(_defused, titles))
    for line in comparison.lines:
        facts = [line.method, line.student, line.model, _weights(line), line.epochs, len(line.entries)]
        for column in comparison.columns:
            figure = _figure(comparison, line, column) or {}
            runs = len(figure.get("counts", ())) or None
            facts += [figure.get("accuracy"), runs, *(figure.get(key) for key in ("sd", "low", "high"))]
            to_best = figure.get("to_best") or {}
            facts += [to_best.get(key) for key in ("difference", "low", "high", "paired")]
        for spread in _costs(line):
            facts += [None, None] if spread is None else [spread.mean, spread.deviation]
        facts.append("; ".join(_machines([line])))
        writer.writerow(map(_defused, facts))
    return stream.getvalue().rstrip("\n")


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """Returns the comparison as JSON holds it."""
    return {
        "schema": SCHEMA,
        "columns": [asdict(column) for column in comparison.columns],
        "lines": [_line_document(comparison, line) for line in comparison.lines],
        "left_out": [{"folder": str(folder), "reason": reason} for folder, reason in comparison.left_out],
        "notes": comparison.notes,
    }


FORMATS: dict[str, Callable[[Comparison], Table | str]] = {
    "rich": as_table,
    "markdown": as_markdown,
    "csv": as_csv,
}


def caption(comparison: Comparison) -> str:
    """Says what the figures are."""
    counts = sorted({column.count for column in comparison.columns})
    images = f"on {counts[0]:,} test images" if len(counts) == 1 else "on as many test images as stated"
    text = f"accuracy {images}, 95 % Wilson intervals"
    if any(len(line.entries) > 1 for line in comparison.lines):
        text += "; over several seeds the mean ± the standard deviation"
    lines, columns = comparison.lines, comparison.columns
    compared = [comparison.to_best(line, column) for line in lines for column in columns]
    if any(compared):
        text += "; points to the best trained network, 95 % intervals, paired on the same images"
        text += " unless it says unpaired" * any(found is not None and not found.paired for found in compared)
    if any(entry.spent.passes for line in lines for entry in line.entries):
        text += "; passes: epochs of plain training of the same network, by counted operations"
    # Others are named by the notes.
    machines = _machines(line for line in lines if line.model != "teacher")
    return f"{text}; trained on {machines[0]}{_load(lines)}" if len(machines) == 1 else text


def _load(lines: Iterable[Line]) -> str:
    entries = [entry for line in lines for entry in line.entries if line.model != "teacher"]
    found = [entry.spent.load for entry in entries if entry.spent.load is not None]
    if not found:
        return ""
    low, high = f"{min(found):.1f}", f"{max(found):.1f}"
    return f" under a load of {low}" + (f" to {high}" if high != low else "")


def title_of(column: Column) -> str:
    """Names a column on its own: ``Linf 8/255 pgd-20 on 1,000 images``."""
    return f"{column.title} on {column.count:,} images"


def _heads(columns: list[Column]) -> list[str]:
    """Names the columns; counts where they differ, and the images where counts do not tell them apart."""
    several = len({column.count for column in columns}) > 1
    heads = [column.title + (f" n={column.count:,}" if several else "") for column in columns]
    twice = Counter(heads)
    return [
        f"{head} images {(column.data or 'unknown')[:6]}" if twice[head] > 1 else head
        for head, column in zip(heads, columns, strict=True)
    ]


def _cells(comparison: Comparison, line: Line, gap: str) -> list[str]:
    passes, teacher_passes, seconds, teacher_seconds = _costs(line)
    one, taught = line.entries[0].spent.passes, line.entries[0].teacher
    of_teacher = [_cost(teacher_passes, _passes), _cost(teacher_seconds, duration)]
    known = [words for words in of_teacher if words != _NOTHING]
    seeds = f"{gap}{len(line.seeds)} seeds: {', '.join(map(str, sorted(line.seeds)))}"
    return [
        line.method + (seeds if len(line.seeds) > 1 else ""),
        line.student,
        *(_accuracy(comparison, line, column, gap) for column in comparison.columns),
        _NOTHING if one is None else f"{_cost(passes, '{:,.1f}'.format)}{gap}({factors(one)})",
        _cost(seconds, duration),
        gap.join(known) or ("not known" if taught is not None and line.model != "teacher" else _NOTHING),
    ]


def _accuracy(comparison: Comparison, line: Line, column: Column, gap: str) -> str:
    spread, rows = line.accuracy(column), line.rows(column)
    if spread is None:
        return _NOTHING
    fewer = f" ({len(rows)} of {len(line.entries)})" if len(rows) < len(line.entries) else ""
    if spread.deviation is None:
        text = f"{spread.mean:.1%}{gap}[{rows[0].low:.1%}, {rows[0].high:.1%}]{fewer}"
    else:
        text = f"{spread.mean:.1%}{gap}± {100 * spread.deviation:.1f}{fewer}"
    to_best = comparison.to_best(line, column)
    if to_best is None:
        return text
    value, low, high = map(points, to_best.interval)
    return f"{text}{gap}to best {value} [{low}, {high}]{'' if to_best.paired else ' unpaired'}"


def _passes(total: float) -> str:
    return f"{total:,.1f} passes"


def _cost(spread: Spread | None, words: Callable[[float], str]) -> str:
    if spread is None:
        return _NOTHING
    if spread.deviation is None or words(spread.mean + spread.deviation) == words(spread.mean):
        return words(spread.mean)
    return f"{words(spread.mean)} ± {words(spread.deviation)}"


def _costs(line: Line) -> tuple[Spread | None, Spread | None, Spread | None, Spread | None]:
    """Returns what the keys name; a teacher's passes are of its own network."""
    return line.passes(), line.passes(teacher=True), line.seconds(), line.seconds(teacher=True)


def _machines(lines: Iterable[Line]) -> list[str]:
    found = (entry.spent.machine for line in lines for entry in line.entries if entry.spent.seconds)
    return list(dict.fromkeys(machine for machine in found if machine is not None))


def _weights(line: Line) -> str:
    return "best" if line.model == BEST else "last"


def _line_document(comparison: Comparison, line: Line) -> dict[str, Any]:
    return {
        "method": line.method,
        "student": line.student,
        "model": line.model,
        "weights": _weights(line),
        "epochs": line.epochs,
        "runs": [
            {
                "folder": str(entry.run.folder),
                "seed": entry.seed,
                **entry.spent.to_json(),
            }
            for entry in line.entries
        ],
        "figures": [_figure(comparison, line, column) for column in comparison.columns],
        **{key: _spread_document(spread) for key, spread in zip(_COST_KEYS, _costs(line), strict=True)},
    }


def _spread_document(spread: Spread | None) -> dict[str, float | None] | None:
    return None if spread is None else {"mean": spread.mean, "sd": spread.deviation}


def _figure(comparison: Comparison, line: Line, column: Column) -> dict[str, Any] | None:
    """Returns an accuracy; counts and interval are those of one run, the deviation that of several."""
    spread, rows = line.accuracy(column), line.rows(column)
    if spread is None:
        return None
    alone, to_best = rows[0] if len(rows) == 1 else None, comparison.to_best(line, column)
    return {
        "accuracy": spread.mean,
        "sd": spread.deviation,
        "low": alone and alone.low,
        "high": alone and alone.high,
        "counts": [[row.correct, row.count] for row in rows],
        "to_best": None
        if to_best is None
        else {
            "difference": to_best.interval.value,
            "low": to_best.interval.low,
            "high": to_best.interval.high,
            "paired": to_best.paired,
            "p": to_best.p,
        },
    }
