"""``rrm-transfer evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import is_first_process, narrator, print_json
from rrm_transfer.core.quantities import LARGEST_SEED, MOST
from rrm_transfer.report.screen import show

EXIT_SUSPICIOUS = 3
QUICKSTART_TEACHER = "fashion_mnist_linf"


@options.grouped
def evaluate(
    source: options.Source,
    voice: options.Voice,
    model: Annotated[
        str, typer.Argument(help="A run folder, or any teacher: zoo, timm or hf-hub: name, weights file.")
    ] = QUICKSTART_TEACHER,
    dataset: options.Dataset = None,
    split: Annotated[str, typer.Option(help="test, train or held-out.")] = "test",
    attack: Annotated[
        str,
        typer.Option(
            help="Comma-separated: none, pgd, noise, transfer, apgd-ce (or apgd), apgd-dlr, apgd-t, fab-t, "
            "square, autoattack, autoattack-plus, autoattack-rand, minimum-norm."
        ),
    ] = "none,pgd",
    norm: Annotated[str | None, typer.Option(help="Linf or L2. Default: the model's threat model.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="Comma-separated radii such as 8/255,0.1. Default: the model's.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST, help="Default: 20 of PGD, transfer and noise, AutoAttack's of its parts."
        ),
    ] = None,
    restarts: Annotated[int, typer.Option(min=1, max=MOST, help="Of PGD, APGD and transfer.")] = 1,
    images: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="A balanced sample. Default: all.")
    ] = None,
    skip: Annotated[
        int,
        typer.Option(
            min=0, max=MOST, help="Leave out the balanced sample of so many images, which chose something."
        ),
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=1, max=MOST, help="Images per forward pass.")] = 250,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of random starts.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(help="Write metrics to this JSON file. Default: a run folder's evaluations/."),
    ] = None,
    overwrite: options.OverwriteFile = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the evaluation that was interrupted; else start.")
    ] = False,
    surrogate: Annotated[
        str | None,
        typer.Option(help="Model to transfer perturbations from. Default: a run folder's teacher."),
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Also PGD from eps 0 up to where the model only guesses.")
    ] = False,
    checks: Annotated[
        str, typer.Option(help="Signs of gradient masking to look for: none, quick or full.")
    ] = "quick",
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Also fifteen common corruptions at five severities.")
    ] = False,
    strict_checks: Annotated[
        bool, typer.Option("--strict-checks", help="Exit with code 3 if a check is suspicious.")
    ] = False,
) -> None:
    """Measure clean and robust accuracy.

    It is measured in float32 and evaluation mode.

    For example:

        rrm-transfer evaluate

        rrm-transfer evaluate runs/quickstart --eps 8/255,0.05,0.1 --steps 50 --restarts 10

        rrm-transfer evaluate runs/quickstart --attack autoattack --images 1000 --checks full --resume

        rrm-transfer evaluate runs/quickstart --attack none --corruptions

        rrm-transfer evaluate model.pth --teacher-normalization cifar10 --dataset uoft-cs/cifar10
    """
    from rrm_transfer import api
    from rrm_transfer.core.quantities import parse_fraction
    from rrm_transfer.report.evaluation import print_evaluation

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
        skip=skip,
        batch_size=batch_size,
        seed=seed,
        output=output,
        overwrite=overwrite,
        resume=resume,
        surrogate=surrogate,
        curve=curve,
        checks=checks,
        corruptions=corruptions,
        arch=source.teacher_arch,
        weights=source.teacher_weights,
        normalization=source.teacher_normalization,
        allow_code=source.code(model),
        narrator=narrator(voice.quiet),
    )
    if is_first_process():
        if voice.as_json:
            print_json(metrics.to_json())
        else:
            print_evaluation(metrics)
            if written is not None:
                show(f"metrics: {written}")
    if strict_checks and any(check["status"] == "suspicious" for check in metrics.checks):
        raise typer.Exit(EXIT_SUSPICIOUS)
