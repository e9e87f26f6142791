"""docs/results.md, its plot and docs/results/ablations.md, from docs/results/*.json; no figure is typed.

Finished runs that were evaluated with ``--skip`` are added, and evaluations of other networks, such as the
teacher, that ``evaluate --output`` wrote; then the page is written:

    python -m tools.results add docs/results/fashion-mnist.json RUN [RUN ...] --series S --method M
    python -m tools.results add docs/results/fashion-mnist.json EVALUATION.json --series S --method M
    python -m tools.results page
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.files import write_text
from rrm_transfer.core.quantities import format_eps
from rrm_transfer.evaluation.metrics import Metrics, Row, read_metrics
from rrm_transfer.evaluation.paired import Interval, mean_difference
from rrm_transfer.recipe.resolved import ResolvedRecipe
from rrm_transfer.runs.finished import FinishedRun, read_finished
from rrm_transfer.runtime.machine import processor
from tools.benchmarks.record import commit

DOCS = Path(__file__).parents[1] / "docs"
FOLDER = DOCS / "results"
PLOT = FOLDER / "frontier.svg"
PAGES = {DOCS / "results.md": "results.md.jinja", FOLDER / "ablations.md": "ablations.md.jinja"}
"""The pages and their templates, which stand beside this file."""

EPS = 8 / 255

Key = tuple[str, str]
"""A series and a method in it."""

Seeds = tuple[Sequence[int] | None, Sequence[int] | None]
"""Of two that are compared; None: all that there are."""

WHOLE = {"fashion-mnist": 60_000, "cifar10": 50_000}
"""Training images of each set: costs are told in epochs over all of them."""


@dataclass(frozen=True)
class Entry:
    """One trained network and what was measured of it.

    Attributes:
        dataset: The file it stands in, without the ending.
        series: Which question it belongs to: ``all-labels``, ``tenth-labels``, ``undefended-teacher``, ….
        method: The objective, as the page calls it.
        seed: Of the run.
        facts: Everything else: recipe, passes, seconds, commit, machine; None where no run is known.
        rows: Of the evaluation.
        data: Fingerprint of the measured images.
    """

    dataset: str
    series: str
    method: str
    seed: int
    facts: dict[str, Any]
    rows: tuple[Row, ...]
    data: str

    @staticmethod
    def from_json(dataset: str, document: dict[str, Any]) -> Entry:
        rows = tuple(Row(**row) for row in document["rows"])
        return Entry(
            dataset,
            document["series"],
            document["method"],
            document["seed"],
            document["facts"],
            rows,
            document["data"],
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "series": self.series,
            "method": self.method,
            "seed": self.seed,
            "facts": self.facts,
            "data": self.data,
            "rows": [vars(row) for row in self.rows],
        }

    def row(self, attack: str, eps: float | None) -> Row | None:
        """Returns the row of an attack; PGD's at the largest effort."""
        found = [row for row in self.rows if row.attack == attack and _same(row.eps, eps)]
        return max(found, key=lambda row: (row.restarts or 0) * (row.steps or 0), default=None)


@dataclass(frozen=True)
class Group:
    """The seeds of one method in one series."""

    entries: tuple[Entry, ...]

    @property
    def first(self) -> Entry:
        return self.entries[0]

    @property
    def passes(self) -> float | None:
        passes = self.first.facts.get("passes")
        return None if passes is None else float(passes["total"])

    @property
    def seconds(self) -> float:
        """Of training, the mean over seeds."""
        return statistics.fmean(entry.facts["train_seconds"] for entry in self.entries)

    def only(self, seeds: Sequence[int] | None) -> Group:
        """Returns the group of some of its seeds; None: all."""
        if seeds is None:
            return self
        by_seed = {entry.seed: entry for entry in self.entries}
        if missing := set(seeds) - by_seed.keys():
            raise ValueError(f"{self.first.series}, {self.first.method}: no seed {sorted(missing)}")
        return Group(tuple(by_seed[seed] for seed in seeds))

    def rows(self, attack: str, eps: float | None) -> list[Row]:
        return [row for entry in self.entries if (row := entry.row(attack, eps)) is not None]

    def accuracies(self, attack: str, eps: float | None) -> list[float]:
        return [row.accuracy for row in self.rows(attack, eps)]

    def mean(self, attack: str, eps: float | None) -> float:
        """Returns the accuracy, the mean over seeds."""
        return statistics.fmean(self.accuracies(attack, eps))

    def right(self, attack: str, eps: float | None) -> npt.NDArray[np.float64] | None:
        """Returns the share of the seeds that got each image right; None where that is not known."""
        found = [row.right() for row in self.rows(attack, eps)]
        known = [right for right in found if right is not None]
        if not known or len(known) < len(found) or len({len(right) for right in known}) > 1:
            return None
        shares: npt.NDArray[np.float64] = np.stack(known).mean(axis=0, dtype=np.float64)
        return shares


class Results:
    """All measurements, and what the page asks of them."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)

    @staticmethod
    def read(folder: Path = FOLDER) -> Results:
        return Results([entry for file in sorted(folder.glob("*.json")) for entry in read_entries(file)])

    def of(self, dataset: str) -> Results:
        """Returns the measurements on one data set."""
        return Results([entry for entry in self.entries if entry.dataset == dataset])

    @cached_property
    def groups(self) -> dict[Key, Group]:
        found: dict[Key, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault((entry.series, entry.method), []).append(entry)
        return {
            key: Group(tuple(sorted(entries, key=lambda entry: entry.seed))) for key, entries in found.items()
        }

    @property
    def commits(self) -> dict[str, list[str]]:
        """The series that were made at each commit, in the order of the files."""
        found: dict[str, list[str]] = {}
        for entry in self.entries:
            series = found.setdefault(entry.facts["commit"], [])
            if entry.series not in series:
                series.append(entry.series)
        return found

    def group(self, series: str, method: str) -> Group:
        return self.groups[series, method]

    def members(self, name: str) -> list[Group]:
        """Returns the methods of a series in the order of their files."""
        return [group for (series, _), group in self.groups.items() if series == name]

    def series(self, name: str) -> list[Group]:
        """Returns the methods of a series, the most robust first."""
        found = self.members(name)
        radius = max(row.eps or 0.0 for group in found for row in group.first.rows)
        return sorted(found, key=lambda group: -statistics.fmean(group.accuracies("pgd", radius) or [0.0]))

    def difference(
        self, first: Key, second: Key, attack: str, eps: float | None, seeds: Seeds = (None, None)
    ) -> Interval:
        """Returns how much more often the first is right, image by image, on the mean over seeds of each.

        Raises:
            ValueError: They were not measured on the same images.
        """
        one, other = self.group(*first).only(seeds[0]), self.group(*second).only(seeds[1])
        if {entry.data for entry in one.entries} != {entry.data for entry in other.entries}:
            raise ValueError(f"{first} and {second} were measured on other images")
        right, right_too = one.right(attack, eps), other.right(attack, eps)
        if right is None or right_too is None:
            raise ValueError(f"{first} and {second}: which images are right is not known")
        return mean_difference(right, right_too)


def _same(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return abs(first - second) < 1e-9


def percent(values: Sequence[float]) -> str:
    """Words a mean over seeds, with the standard deviation where there are several."""
    if not values:
        return "–"
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def points(interval: Interval) -> str:
    """Words a difference in points with its 95 % interval."""
    value, low, high = (f"{100 * number:+.1f}".replace("-", "−") for number in interval)
    return f"{value} [{low}, {high}]"


Balls = tuple[float | None, ...]
"""Radii of the columns of a table; None: clean."""


def _attack(eps: float | None) -> str:
    """Returns the attack of a column."""
    return "none" if eps is None else "pgd"


def counted(row: Row) -> str:
    """Words an accuracy with its count and its interval."""
    return (
        f"{100 * row.accuracy:.1f} ({row.correct} of {row.count}, {100 * row.low:.1f}–{100 * row.high:.1f})"
    )


def figures(group: Group, balls: Balls) -> str:
    """Words the accuracies of a method, column by column."""
    return " | ".join(percent(group.accuracies(_attack(eps), eps)) for eps in balls)


def differences(results: Results, one: Key, other: Key, balls: Balls, seeds: Seeds = (None, None)) -> str:
    """Words the differences between two methods, column by column."""
    found = (results.difference(one, other, _attack(eps), eps, seeds) for eps in balls)
    return " | ".join(map(points, found))


def adds(results: Results, one: Key, other: Key, balls: Balls, seeds: Seeds = (None, None)) -> str:
    """Tells in which columns the first is better or worse than the second by more than the interval."""
    better, worse = [], []
    for eps in balls:
        name = "clean" if eps is None else format_eps(eps)
        _, low, high = results.difference(one, other, _attack(eps), eps, seeds)
        if low > 0:
            better.append(name)
        elif high < 0:
            worse.append(name)
    words = [", ".join(better) or "nothing"]
    return "; loses ".join(words + [", ".join(worse)] * bool(worse))


def label(group: Group) -> str:
    """Names a method with what of its objective is neither in the name nor as in the other rows."""
    objective = group.first.facts["recipe"]["objective"]
    parts = [f"`{group.first.method}`"]
    if objective["name"] == "kd-adv":
        usual = {"ascend": "kl", "steps": 1} | ({"start_scale": 1} if objective["start"] == "noise" else {})
        parts += [f"`{key}={objective[key]}`" for key, value in usual.items() if objective[key] != value]
    return ", ".join(parts)


def cost(group: Group) -> str:
    """Words the passes and seconds of a training."""
    return f"{group.passes:.1f} | {group.seconds:.0f}"


def render(results: Results, template: str) -> str:
    """Returns a page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters |= {"counted": counted, "format_eps": format_eps, "percent": percent}
    environment.globals |= {
        "figures": figures, "differences": differences, "adds": adds, "cost": cost, "label": label,
        "fashion": results.of("fashion-mnist"), "cifar": results.of("cifar10"), "eps": EPS, "radius": 0.1,
        "balls": (None, EPS, 0.1),
    }  # fmt: skip
    return environment.get_template(template).render(results=results)


STUDENTS = {"test_efficientnet": "o", "test_byobnet": "s", "xcit_nano_12_p8_224": "^"}
METHODS = {
    "kd-adv": "tab:blue", "kd-adv and labels": "tab:purple", "n-fgsm": "tab:orange",
    "pgd-at, 2 steps": "tab:green", "rrm": "tab:red",
}  # fmt: skip
DRAWN = (
    "budget-4", "all-labels", "mixed", "byobnet", "xcit", "cheap", "budget-45", "budget-72",
    "undefended-teacher", "self-trained", "thousand-labels",
)  # fmt: skip
HOLLOW = {
    "undefended-teacher": "undefended",
    "self-trained": "plain, 1,000 labels",
    "thousand-labels": "1,000 labels",
}
"""Series that are no rivals at equal terms, and what is written beside their marks."""


def draw(results: Results, file: Path = PLOT) -> None:
    """Draws robust accuracy at two radii against passes: colours are methods, marks students."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "rrm-transfer"
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    fashion = results.of("fashion-mnist")
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained", sharex=True)
    for axes, eps, title, floor in zip(panels, (EPS, 0.1), ("8/255", "0.1"), (72.0, 60.0), strict=True):
        (teacher,) = fashion.members("teacher")
        top = 100 * teacher.mean("pgd", eps)
        axes.axhline(top, ls="--", lw=1, color="gray")
        axes.annotate("the teacher", (0.01, top + 0.1), xycoords=("axes fraction", "data"), fontsize=7)
        path: dict[str, list[tuple[float, float]]] = {}
        for series in DRAWN:
            for group in fashion.members(series):
                architecture, colour = group.first.facts["architecture"], METHODS[group.first.method]
                height, words = 100 * group.mean("pgd", eps), HOLLOW.get(series, "")
                place, mark = (group.passes or 0.0, height), STUDENTS[architecture]
                if height < floor:
                    # Far below everything else: at the border, with its figure.
                    words, mark = f"{words} {height:.1f}".strip(), "v"
                    place = (place[0] * (1.12 if series in HOLLOW else 0.92), floor + 0.4)
                elif not words and architecture == "test_efficientnet":
                    path.setdefault(group.first.method, []).append(place)
                face = "none" if series in HOLLOW else colour
                axes.scatter(*place, s=46, marker=mark, edgecolors=colour, facecolors=face, zorder=2)
                side = (-5, -3) if mark == "v" and series not in HOLLOW else (6, -3)
                axes.annotate(
                    words, place, xytext=side, textcoords="offset points", fontsize=7,
                    ha="right" if side[0] < 0 else "left",
                )  # fmt: skip
        for method, places in path.items():
            axes.plot(*zip(*sorted(places), strict=True), lw=1, color=METHODS[method], zorder=1)
        axes.set_ylim(floor, None)
        axes.set_xscale("log")
        axes.set_xticks([5, 10, 20, 40, 70], ["5", "10", "20", "40", "70"])
        axes.minorticks_off()
        axes.set_xlabel("passes: epochs of plain training of the student")
        axes.set_title(f"Fashion-MNIST, % right at Linf {title}, PGD-20", fontsize=10)
        axes.grid(alpha=0.3)
    names = [Line2D([], [], marker="o", ls="", color=colour, label=name) for name, colour in METHODS.items()]
    names += [Line2D([], [], marker=mark, ls="", color="gray", label=name) for name, mark in STUDENTS.items()]
    panels[1].legend(handles=names, loc="lower right", fontsize=8)
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def read_entries(file: Path) -> tuple[Entry, ...]:
    """Reads the measurements on one data set."""
    document = parse_json(file.read_text(encoding="utf-8"))
    return tuple(Entry.from_json(file.stem, entry) for entry in document["entries"])


def entry_of(
    dataset: str, run: FinishedRun, evaluation: Metrics, series: str, method: str, made_at: str | None
) -> Entry:
    """Collects what a finished run and one evaluation of it tell.

    The cost is told in epochs over the whole set. An epoch has whole batches only, which leaves out much of a
    small set: seven of 128 are 896 of 1,000 images.
    """
    labels = int(run.environment.training_images.partition(", ")[0].replace(",", ""))
    timing = run.metrics.timing.get("student", {})
    passes = timing.get("passes")
    if passes is not None:
        batch = ResolvedRecipe.of(run.recipe).train.global_batch_size
        before = passes["before"] * labels / WHOLE[dataset]
        each = passes["per_image"] * (labels // batch) / (WHOLE[dataset] // batch)
        passes = {"before": round(before, 4), "total": round(before + passes["epochs"] * each, 4)}
    facts = {
        "recipe": run.written_recipe,
        "architecture": run.architecture,
        "passes": passes,
        "labels": labels,
        "train_seconds": run.spent("student").seconds,
        "teacher_seconds": run.spent("teacher").seconds,
        "machine": {"processor": processor(), "devices": run.environment.devices},
        "versions": run.environment.versions,
    }
    own = replace(evaluation, rows=evaluation.of("student"))
    return _entry(dataset, series, method, run.recipe.seed, facts, own, made_at)


def _entry(
    dataset: str,
    series: str,
    method: str,
    seed: int,
    facts: dict[str, Any],
    evaluation: Metrics,
    made_at: str | None,
) -> Entry:
    facts |= {
        "commit": made_at or commit(),
        "conditions": {key: value for key, value in evaluation.conditions.items() if key != "weights"},
        "checks": {check["name"]: check["status"] for check in evaluation.checks},
    }
    return Entry(dataset, series, method, seed, facts, tuple(evaluation.rows), evaluation.data or "")


def add(
    file: Path,
    paths: Sequence[Path],
    series: str,
    method: str,
    part: str,
    made_at: str | None,
    seed: int,
) -> None:
    """Adds runs, or evaluations by themselves; replaces earlier entries of theirs."""
    known = read_entries(file) if file.is_file() else ()
    for path in paths:
        if path.is_file():
            entries = [_entry_of_file(file.stem, path, series, method, made_at, seed)]
        else:
            run = read_finished(path)
            found = [metrics for name, metrics in run.evaluations.items() if part in name]
            if not found:
                there = ", ".join(run.evaluations)
                raise SystemExit(f"{path}: no evaluation with {part!r} in its name; there are: {there}")
            entries = [entry_of(file.stem, run, metrics, series, method, made_at) for metrics in found]
        for entry in entries:
            known = (*(old for old in known if _identity(old) != _identity(entry)), entry)
    write_entries(file, known)


def _entry_of_file(
    dataset: str, path: Path, series: str, method: str, made_at: str | None, seed: int
) -> Entry:
    """Collects what an evaluation tells of a network whose training is not known here."""
    evaluation = read_metrics(path)
    if len({row.model for row in evaluation.rows}) > 1:
        raise SystemExit(f"{path}: figures of several networks; add the run's folder")
    facts: dict[str, Any] = {
        "recipe": None,
        "passes": None,
        "train_seconds": None,
        "machine": {"processor": processor(), "devices": [evaluation.conditions.get("device")]},
    }
    return _entry(dataset, series, method, seed, facts, evaluation, made_at)


def write_entries(file: Path, entries: Sequence[Entry]) -> None:
    """Writes the entries of one data set, one line each, so that a change shows."""
    lines = ",\n".join(json.dumps(entry.to_json(), sort_keys=True) for entry in entries)
    write_text(file, f'{{"schema": 1, "entries": [\n{lines}\n]}}\n')


def _identity(entry: Entry) -> tuple[object, ...]:
    return entry.series, entry.method, entry.seed, entry.data


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add")
    adding.add_argument("file", type=Path)
    adding.add_argument("paths", type=Path, nargs="+", metavar="RUN|EVALUATION.json")
    adding.add_argument("--series", required=True, help="which question it belongs to")
    adding.add_argument("--method", required=True, help="what the page calls it")
    adding.add_argument("--evaluation", default="skip", help="part of their names")
    adding.add_argument("--commit", help="at which the runs were made, where that is not this checkout's")
    adding.add_argument(
        "--seed", type=int, default=0, help="of a network whose evaluation is added by itself"
    )
    commands.add_parser("page")
    given = parser.parse_args()
    if given.command == "add":
        add(given.file, given.paths, given.series, given.method, given.evaluation, given.commit, given.seed)
    else:
        results = Results.read()
        draw(results)
        for page, template in PAGES.items():
            write_text(page, render(results, template))


if __name__ == "__main__":
    main()
