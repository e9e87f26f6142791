"""``rrm-transfer export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import print_json
from rrm_transfer.report.screen import show


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, or its student-best.")],
    output: Annotated[Path, typer.Option(help="File to write; robustbench writes two more beside it.")],
    form: Annotated[str, typer.Option("--format", help="onnx, torch-export or robustbench.")] = "onnx",
    with_normalization: Annotated[
        bool,
        typer.Option(
            "--with-normalization",
            help="Take pixels in [0, 1] instead of normalized images.",
        ),
    ] = False,
    overwrite: options.OverwriteFile = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a run's student in another form, compared with PyTorch on test images.

    For example:

        rrm-transfer export runs/quickstart --output student.onnx --with-normalization

        rrm-transfer export runs/quickstart --format torch-export --output student.pt2

        rrm-transfer export runs/cifar --format robustbench --output Me2026Robust.py
    """
    from rrm_transfer import api

    made = api.export(run, output, form=form, with_normalization=with_normalization, overwrite=overwrite)
    if as_json:
        print_json(
            {
                "format": made.format,
                "files": [str(file) for file in made.files],
                "normalizes": made.normalizes,
                "relative_difference": made.error,
                "images": made.images,
            }
        )
        return
    show(*map(str, made.files))
    takes = "pixels in [0, 1]" if made.normalizes else "images normalized as the student's config.json says"
    show(f"takes {takes}, any batch size")
    show(f"differs from PyTorch by {made.error:.1e} of the largest logit on {made.images} test images")
