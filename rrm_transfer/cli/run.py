"""``rrm-transfer run``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import is_first_process, narrator, print_json, print_run, silence_profiler
from rrm_transfer.core.errors import UserError
from rrm_transfer.recipe.shelf import QUICKSTART
from rrm_transfer.report.screen import show

if TYPE_CHECKING:
    from rrm_transfer.recipe.schema import Recipe


@options.grouped
def run(
    asked: options.Asked,
    where: options.Where,
    training: options.Training,
    source: options.Source,
    voice: options.Voice,
    teacher: options.Teacher = None,
    dataset: options.Dataset = None,
    objective: Annotated[str | None, typer.Option(help="What is minimised: rrm, natural, pgd-at, …")] = None,
    help_objective: Annotated[
        bool, typer.Option("--help-objective", help="Explain --objective, list its arguments and stop.")
    ] = False,
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
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the resolved recipe, memory, time and cost; write nothing."),
    ] = False,
    allow_code: options.AllowCode = False,
) -> None:
    """Train a student to match a robust teacher, and measure it.

    Without arguments: the quickstart, offline on embedded data.

    For example:

        rrm-transfer run

        rrm-transfer run --teacher robust_resnet50 --student vit_small --dataset /data/imagenet

        rrm-transfer run --student test_vit --set train.epochs=20 --output runs/vit

        accelerate launch -m rrm_transfer run --recipe quickstart
    """
    if help_objective:
        _print_objective(objective or "rrm", as_json=voice.as_json)
        return
    if private and push is None:
        raise UserError("--private is of the repository that --push creates.", hint="--push user/name")
    if dry_run:
        silence_profiler()
    wanted = asked.wanted(
        QUICKSTART,
        {
            "teacher": {**source.section(teacher), "check": False if skip_teacher_check else None},
            "student": training.student,
            "data": {"name": dataset},
            "objective": {"name": objective},
            "train": {"skip_bad_steps": training.skip_bad_steps},
            "control": {"enabled": control},
        },
        seed=training.seed,
        output=where.output,
    )
    code = source.code(teacher)
    if allow_code and wanted.teacher is not None:
        from rrm_transfer.runs.request import code_named_by

        code |= code_named_by(wanted.teacher.name, wanted.teacher.arch)
    if dry_run:
        _preview(wanted, allow_code=code, as_json=voice.as_json, quiet=voice.quiet)
        return
    from rrm_transfer import api

    pushes = push is not None and is_first_process()
    if push is not None and pushes:
        from rrm_transfer.core.hub_repository import HubRepository

        HubRepository(push).require_write_access(private=private)
    told = narrator(voice.quiet)
    result = api.transfer(wanted, allow_code=code, narrator=told, **where.for_python())
    print_run(result, as_json=voice.as_json)
    if push is not None and pushes:
        address = api.push(result.folder, push, private=private).address
        show(f"pushed to: {address}", error=voice.as_json)


def _print_objective(name: str, *, as_json: bool) -> None:
    from rrm_transfer.report.table import objective_document, print_objective

    if as_json:
        print_json(objective_document(name))
    else:
        print_objective(name)


def _preview(recipe: Recipe, *, allow_code: frozenset[str], as_json: bool, quiet: bool) -> None:
    from rrm_transfer import api
    from rrm_transfer.report.preview import print_preview

    preview = api.preview(recipe, allow_code=allow_code, narrator=narrator(quiet))
    if is_first_process():
        if as_json:
            print_json(preview.to_json())
        else:
            print_preview(preview)
