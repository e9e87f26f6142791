"""What ``run --dry-run`` prints."""

from __future__ import annotations

from rich.console import Console

from rrm_transfer.engine.preview import Preview
from rrm_transfer.recipe.loading import dump_recipe
from rrm_transfer.report.costs import estimate_lines, part_table, step_table


def print_preview(preview: Preview) -> None:
    """Prints the resolved recipe, what it is about, and what it would cost."""
    console = Console()
    for text in (dump_recipe(preview.recipe), *fact_lines(preview)):
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(step_table(preview.costs))
    console.print(part_table(preview.costs))
    for line in (*estimate_lines(preview.costs), "dry run: nothing was written"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def fact_lines(preview: Preview) -> list[str]:
    """Returns a line for the data, one for the student and one for the teacher."""
    data, student, teacher = (preview.facts.get(part, {}) for part in ("data", "student", "teacher"))
    shape = "×".join(str(side) for side in data["input"])
    lines = [
        f"data: {data['train']:,} training and {data['test']:,} test images of {data['classes']} classes, "
        f"{shape}, {data['steps_per_epoch']:,} batches an epoch",
        f"student: {student['architecture']}, {student['parameters']:,} parameters",
    ]
    if "width" in student:
        projection = student["projection"]
        lines[-1] += f", width {student['width']}, " + (
            "no projection" if projection is None else f"projection {projection[0]} to {projection[1]}"
        )
    if teacher:
        lines.append(
            f"teacher: {teacher['architecture']}, {teacher['parameters']:,} parameters, "
            f"width {teacher['width']}"
        )
    return lines
