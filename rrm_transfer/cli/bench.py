"""``rrm-transfer bench``."""

from __future__ import annotations

from typing import Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import is_first_process, narrator, print_json, silence_profiler
from rrm_transfer.cli.request import code_named_by, key_values, request


def bench(
    teacher: options.Teacher = None,
    student: options.Student = None,
    dataset: options.Dataset = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas. Default: natural, rrm, rrm-adv, kd, rslad, free-at, pgd-at."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps of each objective.")] = 20,
    recipe: options.RecipeName = None,
    overrides: options.Overrides = None,
    student_arg: options.StudentArgs = None,
    teacher_arch: options.TeacherArch = None,
    teacher_weights: options.TeacherWeights = None,
    teacher_normalisation: options.TeacherNormalisation = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure what each objective costs on this machine, per step and for the whole recipe.

    Without arguments: with the quickstart's teacher, student and data.

    For example:

        rrm-transfer bench

        rrm-transfer bench --teacher T --student resnet18 --dataset uoft-cs/cifar10 --objective rrm,pgd-at
    """
    silence_profiler()
    wanted = request(
        recipe=recipe,
        base="quickstart",
        overrides=overrides or [],
        sections={
            "teacher": {
                "name": teacher,
                "arch": teacher_arch,
                "weights": teacher_weights,
                "normalisation": teacher_normalisation,
            },
            "student": {"name": student, "args": key_values(student_arg or [])},
            "data": {"name": dataset},
        },
    )
    from rrm_transfer import api
    from rrm_transfer.report.costs import print_costs

    report = api.bench(
        wanted,
        objectives=[name.strip() for name in objective.split(",")] if objective else (),
        steps=steps,
        allow_code=code_named_by(teacher, teacher_arch),
        narrator=narrator(quiet),
    )
    if is_first_process():
        if as_json:
            print_json(report.to_json())
        else:
            print_costs(report)
