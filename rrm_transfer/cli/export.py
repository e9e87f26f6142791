"""``rrm-transfer export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import narrator, print_json


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, or its student-best.")],
    output: Annotated[Path, typer.Option(help="File to write; robustbench writes two more beside it.")],
    form: Annotated[
        str, typer.Option("--format", help="onnx, onnx-int8, torch-export or robustbench.")
    ] = "onnx",
    with_normalization: Annotated[
        bool,
        typer.Option(
            "--with-normalization",
            help="Take pixels in [0, 1] instead of normalized images.",
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Measure accuracy before and after, clean and at the run's eps."),
    ] = False,
    images: Annotated[
        int, typer.Option(min=1, help="Of the test split, for --check: a balanced sample.")
    ] = 500,
    overwrite: options.OverwriteFile = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a run's student in another form.

    It is compared with PyTorch on test images before it is written.

    For example:

        rrm-transfer export runs/quickstart --output student.onnx --with-normalization

        rrm-transfer export runs/quickstart --format onnx-int8 --output student.int8.onnx --check

        rrm-transfer export runs/quickstart --format torch-export --output student.pt2

        rrm-transfer export runs/cifar --format robustbench --output Me2026Robust.py
    """
    from rrm_transfer import api
    from rrm_transfer.report.exported import exported_document, print_exported

    made = api.export(
        run,
        output,
        form=form,
        with_normalization=with_normalization,
        check=check,
        images=images,
        overwrite=overwrite,
        narrator=narrator(quiet),
    )
    if as_json:
        print_json(exported_document(made))
    else:
        print_exported(made)
