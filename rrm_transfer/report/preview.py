"""What ``run --dry-run`` prints."""

from __future__ import annotations

from rrm_transfer.costs.preview import Preview
from rrm_transfer.recipe.loading import dump_recipe
from rrm_transfer.report.costs import print_costs
from rrm_transfer.report.screen import show


def print_preview(preview: Preview) -> None:
    """Prints the resolved recipe, what it is about, and what it would cost."""
    show(dump_recipe(preview.recipe), *fact_lines(preview))
    print_costs(preview.costs)
    show("dry run: nothing was written")


def fact_lines(preview: Preview) -> list[str]:
    """Returns a line for the data, one for the student and one for the teacher."""
    data, student, teacher = (preview.facts.get(part, {}) for part in ("data", "student", "teacher"))
    shape = "×".join(str(side) for side in data["input"])
    lines = [
        f"data: {data['train']:,} training and {data['test']:,} test images of {data['classes']} classes, "
        f"{shape}, {data['steps_per_epoch']:,} batches an epoch",
        f"student: {student['architecture']}, {student['parameters']:,} parameters",
    ]
    if data["extra"]:
        lines[0] += f", {data['extra']:,} extra images"
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
