"""The tables of what steps cost."""

from __future__ import annotations

from rich.table import Table

from rrm_transfer.costs.estimate import SAT, CostReport
from rrm_transfer.report.screen import new_table, show
from rrm_transfer.report.wording import duration, factors, total
from rrm_transfer.runs.spent import Spent

_PARTS = ("data", "teacher", "attack", "student forward", "backward", "optimizer", "other")


def print_costs(report: CostReport) -> None:
    """Prints steps, where their time goes, and the estimate for the recipe."""
    show(step_table(report), part_table(report), *choice_lines(report), *estimate_lines(report))


def step_table(report: CostReport) -> Table:
    """Makes one line for each objective."""
    train = report.recipe.train
    table = new_table(
        f"{report.recipe.student.name}, {report.recipe.data.image_size} px, batches of "
        f"{train.global_batch_size}, {train.precision}; medians of {len(report.costs[0].seconds)} steps",
        "objective",
        figures=("ms per step", "± (quartiles)", "images/s", "peak MB", "÷ natural", "passes"),
    )
    for cost in report.costs:
        table.add_row(
            title(cost.name, cached=cost.cached),
            f"{1e3 * cost.median:.4g}",
            f"{1e3 * cost.spread / 2:.2g}",
            f"{cost.images_per_second:,.0f}",
            f"{cost.peak_bytes / 2**20:,.0f}",
            f"{report.ratio(cost):.2f}",
            f"{cost.passes_per_step:.2f}",
        )
    return table


def part_table(report: CostReport) -> Table:
    """Makes one line for each objective: where the time of a step goes."""
    parts = tuple(part for part in _PARTS if any(part in cost.parts for cost in report.costs))
    table = new_table("where the time goes, ms", "objective", figures=parts)
    for cost in report.costs:
        cells = [f"{1e3 * cost.parts[part]:.3g}" if part in cost.parts else "–" for part in parts]
        table.add_row(title(cost.name, cached=cost.cached), *cells)
    return table


def choice_lines(report: CostReport) -> list[str]:
    """Returns what a step would take in the precisions and memory formats that the recipe does not use."""
    if not report.choices:
        return []
    own, *others = report.choices
    beside = "; ".join(
        f"{choice.numerics} {choice.seconds / own.seconds:.2f} times as long" for choice in others
    )
    step = f"a step of {report.recipe.objective.name} in {own.numerics}: {1e3 * own.seconds:.4g} ms"
    return [f"{step}; in {beside}" if beside else step]


def estimate_lines(report: CostReport) -> list[str]:
    """Returns what follows for the recipe's training, its teacher's, and whether data hold it up."""
    recipe, seconds, sat = report.recipe, report.train_seconds, report.sat_passes
    name, control = recipe.objective.name, recipe.control
    lines = [f"training this recipe ({name}): {total(report.passes)} passes ({factors(report.passes)})"]
    if sat is not None and name != SAT:
        lines[0] += f"; {SAT} for as many epochs: {total(sat)} ({factors(sat)})"
    if control.enabled:
        lines[0] += f"; the control: {control.epochs:.1f}"
    if report.teacher is not None:
        lines.append(f"the teacher's own training: {_words(report.teacher)}")
    if report.makes_images:
        lines.append("time: not estimated, the images are made first")
    elif seconds is not None:
        own = f", its control {duration(report.control_seconds)}" if report.control_seconds else ""
        lines.append(f"time: about {duration(seconds)}{own}, on {report.device}")
        if begin := recipe.objective.arguments.get("begin"):
            lines[-1] += f"; steps after objective.begin={begin:g} of training take longer than was measured"
    if report.data_is_bottleneck:
        lines.append(
            f"data is the bottleneck: a batch takes {1e3 * report.data_seconds:.3g} ms, "
            "longer than a plain training step; more data.workers may help"
        )
    return lines


def _words(spent: Spent) -> str:
    passes = None if spent.passes is None else f"{total(spent.passes)} passes of its own network"
    seconds = None if spent.seconds is None else duration(spent.seconds)
    machine = "" if spent.machine is None else f" on {spent.machine}"
    known = [words for words in (passes, seconds) if words is not None]
    return f"{', '.join(known)}{machine}" if known else "not known"


def title(name: str, *, cached: bool) -> str:
    """Names an objective in a table."""
    return f"{name}, cached" if cached else name
