"""``rrm-transfer compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import narrator, print_json

if TYPE_CHECKING:
    from rrm_transfer.report.comparison import Comparison
    from rrm_transfer.runtime.progress import Narrator


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Run folders, or folders that hold run folders.")
    ],
    form: Annotated[
        Literal["rich", "markdown", "csv", "json"], typer.Option("--format", help="Of the table.")
    ] = "rich",
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw robust accuracy against training cost to this .png or .svg file."),
    ] = None,
    overwrite: options.OverwriteFile = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Put accuracies and training costs of runs side by side.

    Runs that differ in nothing but the seed become one line. What cannot be compared is told on standard
    error.

    For example:

        rrm-transfer compare runs/quickstart runs/pgd-at

        rrm-transfer compare runs --format markdown

        rrm-transfer compare sweeps/grid --plot grid.svg
    """
    from rrm_transfer.core.files import require_writable
    from rrm_transfer.report.comparison import compare as compare_runs
    from rrm_transfer.report.comparison_plot import check_plot_file, draw

    voice = narrator(quiet)
    if plot is not None:
        check_plot_file(plot)
        require_writable(plot, overwrite=overwrite)
    comparison = compare_runs(runs)
    print_comparison(comparison, "json" if as_json else form, voice)
    if plot is not None:
        draw(comparison, plot)
        voice.note(f"plot: {plot}")


def print_comparison(comparison: Comparison, form: str, voice: Narrator) -> None:
    """Prints the table; what cannot be compared is told by ``voice``."""
    from rrm_transfer.report.comparison_text import FORMATS, comparison_document
    from rrm_transfer.report.screen import show

    if form == "json":
        print_json(comparison_document(comparison))
    else:
        show(FORMATS[form](comparison))
    for folder, reason in comparison.left_out:
        voice.warn(f"left out: {folder}: {reason}")
    for note in comparison.notes:
        voice.warn(note)
