"""``rrm-transfer teach``."""

from __future__ import annotations

from typing import Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import narrator, print_run
from rrm_transfer.cli.request import key_values, request


def teach(
    student: options.Student = None,
    dataset: options.OwnDataset = None,
    objective: Annotated[str | None, typer.Option(help="pgd-at, trades, fast-at, …")] = None,
    recipe: options.RecipeName = None,
    overrides: options.Overrides = None,
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    resume_anyway: options.ResumeAnyway = False,
    skip_bad_steps: options.SkipBadSteps = None,
    seed: options.Seed = None,
    pretrained: options.Pretrained = None,
    student_arg: options.StudentArgs = None,
    tracker: options.Tracker = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a robust teacher by adversarial training; its run folder is a --teacher.

    For example:

        rrm-transfer teach --recipe fashion-mnist-teacher --dataset /data/fashion-mnist

        rrm-transfer teach --student resnet18 --dataset uoft-cs/cifar10 --objective pgd-at
    """
    wanted = request(
        recipe=recipe,
        base="fashion-mnist-teacher",
        overrides=overrides or [],
        sections={
            "student": {"name": student, "pretrained": pretrained, "args": key_values(student_arg or [])},
            "data": {"name": dataset},
            "objective": {"name": objective},
            "train": {"skip_bad_steps": skip_bad_steps},
        },
        seed=seed,
        output=output,
    )
    from rrm_transfer import api

    result = api.teach(
        wanted,
        narrator=narrator(quiet),
        overwrite=overwrite,
        resume=resume,
        resume_anyway=resume_anyway,
        tracker=tracker,
    )
    print_run(result, as_json=as_json)
