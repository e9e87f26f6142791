"""What an export prints: files, what they take, and what is left of the student's accuracy."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from rrm_transfer.exports.check import Kept
from rrm_transfer.exports.formats import Exported
from rrm_transfer.report.screen import new_table, show
from rrm_transfer.report.wording import points


def print_exported(made: Exported) -> None:
    """Prints what was written."""
    takes = "pixels in [0, 1]" if made.normalizes else "images normalized as the student's config.json says"
    show(
        *map(str, made.files),
        f"takes {takes}, any batch size",
        f"differs from PyTorch by {made.error:.1e} of the largest logit on {made.images} test images",
    )
    if made.kept:
        show(
            _accuracies(made),
            "transfer: on adversarial images of the PyTorch network. The exported one has no gradients: "
            "the lowest line is an upper bound of its robust accuracy.",
        )


def exported_document(made: Exported) -> dict[str, Any]:
    """Returns what ``--json`` prints."""
    document: dict[str, Any] = {
        "format": made.format,
        "files": [str(file) for file in made.files],
        "normalizes": made.normalizes,
        "relative_difference": made.error,
        "images": made.images,
    }
    if made.kept:
        document["kept"] = [_entry(kept) for kept in made.kept]
    return document


def _entry(kept: Kept) -> dict[str, Any]:
    row, interval = kept.network, kept.difference
    return {
        "attack": row.attack,
        "norm": row.norm,
        "eps": row.eps,
        "steps": row.steps,
        "count": row.count,
        "pytorch": row.accuracy,
        "exported": kept.exported.accuracy,
        "difference": interval.value,
        "low": interval.low,
        "high": interval.high,
    }


def _accuracies(made: Exported) -> Table:
    count = made.kept[0].network.count
    title = f"accuracy on {count:,} test images; differences in points, with paired 95 % intervals"
    table = new_table(title, "attack", figures=("PyTorch", made.format, "difference", "interval"))
    for kept in made.kept:
        before, after, (value, low, high) = kept.network, kept.exported, kept.difference
        table.add_row(
            before.title, f"{before.accuracy:.1%}", f"{after.accuracy:.1%}",
            points(value), f"{points(low)} to {points(high)}",
        )  # fmt: skip
    return table
