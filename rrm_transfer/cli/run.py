"""``rrm-transfer run``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import is_first_process, narrator, print_json, print_run, silence_profiler
from rrm_transfer.cli.request import key_values, names_code, request
from rrm_transfer.core.errors import UserError

if TYPE_CHECKING:
    from rrm_transfer.recipe.schema import Recipe


def run(
    teacher: options.Teacher = None,
    student: options.Student = None,
    dataset: options.Dataset = None,
    objective: Annotated[str | None, typer.Option(help="What is minimised: rrm, natural, pgd-at, …")] = None,
    help_objective: Annotated[
        bool, typer.Option("--help-objective", help="Explain --objective, list its arguments and stop.")
    ] = False,
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
    control: Annotated[
        bool | None,
        typer.Option("--control/--no-control", help="Train the undefended control too.", show_default=False),
    ] = None,
    skip_teacher_check: Annotated[
        bool, typer.Option("--skip-teacher-check", help="Do not measure the teacher before training.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(help="Push the result to user/name of a hub; write access is checked before training."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With --push: nobody else sees a repository that is created.")
    ] = False,
    teacher_arch: options.TeacherArch = None,
    teacher_weights: options.TeacherWeights = None,
    teacher_normalisation: options.TeacherNormalisation = None,
    tracker: options.Tracker = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the resolved recipe, memory, time and cost; write nothing."),
    ] = False,
    allow_code: options.AllowCode = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Transfer a teacher's robustness into a student: train, evaluate, export.

    Without arguments: the quickstart, offline on embedded data.

    For example:

        rrm-transfer run

        rrm-transfer run --teacher robust_resnet50 --student vit_small --dataset /data/imagenet

        rrm-transfer run --student test_vit --set train.epochs=20 --output runs/vit

        accelerate launch -m rrm_transfer run --recipe quickstart
    """
    if help_objective:
        _print_objective(objective or "rrm", as_json=as_json)
        return
    if private and push is None:
        raise UserError("--private is of the repository that --push creates.", hint="--push user/name")
    if dry_run:
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
                "check": False if skip_teacher_check else None,
            },
            "student": {"name": student, "pretrained": pretrained, "args": key_values(student_arg or [])},
            "data": {"name": dataset},
            "objective": {"name": objective},
            "train": {"skip_bad_steps": skip_bad_steps},
            "control": {"enabled": control},
        },
        seed=seed,
        output=output,
    )
    code = allow_code or names_code(teacher, teacher_arch)
    if dry_run:
        _preview(wanted, allow_code=code, as_json=as_json, quiet=quiet)
        return
    from rrm_transfer import api

    pushes = push is not None and is_first_process()
    if push is not None and pushes:
        from rrm_transfer.core.hub_repository import HubRepository

        HubRepository(push).require_write_access(private=private)
    result = api.transfer(
        wanted,
        allow_code=code,
        narrator=narrator(quiet),
        overwrite=overwrite,
        resume=resume,
        resume_anyway=resume_anyway,
        tracker=tracker,
    )
    print_run(result, as_json=as_json)
    if push is not None and pushes:
        address = api.push(result.folder, push, private=private).address
        typer.echo(f"pushed to: {address}", err=as_json)


def _print_objective(name: str, *, as_json: bool) -> None:
    from rrm_transfer.report.table import objective_document, print_objective

    if as_json:
        print_json(objective_document(name))
    else:
        print_objective(name)


def _preview(recipe: Recipe, *, allow_code: bool, as_json: bool, quiet: bool) -> None:
    from rrm_transfer import api
    from rrm_transfer.report.preview import print_preview

    preview = api.preview(recipe, allow_code=allow_code, narrator=narrator(quiet))
    if is_first_process():
        if as_json:
            print_json(preview.to_json())
        else:
            print_preview(preview)
