"""The tables of what steps cost."""

from __future__ import annotations

from rich.table import Table

from rrm_transfer.costs.estimate import SAT_EPOCHS, CostReport
from rrm_transfer.report.screen import new_table, show
from rrm_transfer.report.table import duration

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
        figures=("ms per step", "± (quartiles)", "images/s", "peak MB", "÷ natural"),
    )
    for cost in report.costs:
        table.add_row(
            title(cost.name, cached=cost.cached),
            f"{1e3 * cost.median:.4g}",
            f"{1e3 * cost.spread / 2:.2g}",
            f"{cost.images_per_second:,.0f}",
            f"{cost.peak_bytes / 2**20:,.0f}",
            f"{report.ratio(cost):.2f}",
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
    """Returns what follows for the recipe's training, and whether data hold it up."""
    lines = []
    recipe, seconds = report.recipe, report.train_seconds
    if report.makes_images:
        lines.append(
            f"training this recipe ({recipe.objective.name}): not estimated, its images are made first"
        )
    if seconds is not None:
        control = f", its control {duration(report.control_seconds)}" if report.control_seconds else ""
        lines.append(
            f"training this recipe ({recipe.objective.name}, {recipe.train.epochs} epochs): about "
            f"{duration(seconds)}{control}; {report.ratio_to_plain:.2f} of plain training"
        )
        if report.ratio_to_sat is not None:
            lines[-1] += (
                f", {report.ratio_to_sat:.3f} of PGD adversarial training, which takes "
                f"{SAT_EPOCHS:.3g} times the epochs (150 against 48 in the paper)"
            )
        if begin := recipe.objective.arguments.get("begin"):
            lines[-1] += f"; steps after objective.begin={begin:g} of training cost more than was measured"
    if report.data_is_bottleneck:
        lines.append(
            f"data is the bottleneck: a batch takes {1e3 * report.data_seconds:.3g} ms, "
            "longer than a plain training step; more data.workers may help"
        )
    return lines


def title(name: str, *, cached: bool) -> str:
    """Names an objective in a table."""
    return f"{name}, cached" if cached else name
