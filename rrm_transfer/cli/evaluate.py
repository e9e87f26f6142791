"""``rrm-transfer evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import is_first_process, narrator, print_json

QUICKSTART_TEACHER = "fashion_mnist_linf"


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A run folder, or any teacher: zoo, timm or hf-hub: name, weights file.")
    ] = QUICKSTART_TEACHER,
    dataset: options.Dataset = None,
    split: Annotated[str, typer.Option(help="test, train or held-out.")] = "test",
    attack: Annotated[str, typer.Option(help="Comma-separated: none, pgd.")] = "none,pgd",
    norm: Annotated[str | None, typer.Option(help="Linf or L2. Default: the model's threat model.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="Comma-separated radii such as 8/255,0.1. Default: the model's.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1)] = 20,
    restarts: Annotated[int, typer.Option(min=1)] = 1,
    images: Annotated[int | None, typer.Option(min=1, help="A balanced sample. Default: all.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 250,
    seed: Annotated[int, typer.Option(min=0, help="Of random starts.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Write metrics to this JSON file.")] = None,
    teacher_arch: options.TeacherArch = None,
    teacher_weights: options.TeacherWeights = None,
    teacher_normalisation: options.TeacherNormalisation = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure clean and robust accuracy, in float32 and evaluation mode.

    For example:

        rrm-transfer evaluate

        rrm-transfer evaluate runs/quickstart --eps 8/255,0.05,0.1 --steps 50 --restarts 10

        rrm-transfer evaluate model.pth --teacher-normalisation cifar10 --dataset cifar10
    """
    from rrm_transfer import api
    from rrm_transfer.core.quantities import parse_fraction
    from rrm_transfer.report.table import print_metrics

    metrics, written = api.evaluate(
        model,
        dataset=dataset,
        split=split,
        attacks=tuple(part.strip() for part in attack.split(",")),
        norm=norm,
        eps=None if eps is None else tuple(parse_fraction(part) for part in eps.split(",")),
        steps=steps,
        restarts=restarts,
        images=images,
        batch_size=batch_size,
        seed=seed,
        output=output,
        arch=teacher_arch,
        weights=teacher_weights,
        normalisation=teacher_normalisation,
        narrator=narrator(quiet),
    )
    if is_first_process():
        if as_json:
            print_json(metrics.to_json())
        else:
            print_metrics(metrics)
            if written is not None:
                typer.echo(f"metrics: {written}")
