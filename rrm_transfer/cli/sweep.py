"""``rrm-transfer sweep``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.compare import print_comparison
from rrm_transfer.cli.output import narrator, print_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import LARGEST_SEED
from rrm_transfer.recipe.shelf import QUICKSTART
from rrm_transfer.report.screen import show

if TYPE_CHECKING:
    from rrm_transfer.report.comparison import Comparison
    from rrm_transfer.sweeps.items import Item
    from rrm_transfer.sweeps.launchers import Launcher
    from rrm_transfer.sweeps.sweep import PlannedRun, Problems

EXIT_FAILED = 1


def sweep(
    recipe: options.RecipeName = None,
    students: Annotated[
        str | None,
        typer.Option(help="Comma-separated; NAME:key=value gives an argument. Default: the recipe's."),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(help="Comma-separated; NAME:key=value gives an argument. Default: the recipe's."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated. Default: the recipe's.")] = None,
    overrides: options.Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Folder of all runs. Default: sweeps/<recipe>.")] = None,
    launcher: Annotated[
        Literal["local", "slurm"], typer.Option(help="One after the other here, or jobs of a cluster.")
    ] = "local",
    launcher_arg: Annotated[
        list[str] | None,
        typer.Option("--launcher-arg", help="key=value for submitit, such as timeout_min=240; repeatable."),
    ] = None,
    allow_code: options.AllowCode = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Run students × objectives × seeds, and compare them.

    Each run is a process of its own. The same command continues a sweep: finished runs are skipped. Plain
    training (natural) is run once for each student and seed in the place of a control in every run.

    For example:

        rrm-transfer sweep --students test_resnet,test_vit --objectives rrm,kd,pgd-at --seeds 0,1,2

        rrm-transfer sweep --objectives rrm,rrm:distance=cosine,rrm:noise=1:train.epochs=8 --output sweeps/rrm

        rrm-transfer sweep --recipe quickstart --seeds 0,1,2 --launcher slurm --launcher-arg timeout_min=60
    """
    from rrm_transfer.report.comparison_text import comparison_document
    from rrm_transfer.sweeps.sweep import Problems, Sweep, check_runs

    voice = narrator(quiet)
    problems = Problems()
    runs = _plan(recipe, students, objectives, seeds, overrides or [], problems)
    check_runs(runs, problems)
    folder = output or Path("sweeps") / Path(recipe or QUICKSTART).stem
    planned = Sweep(folder, runs, allow_code=allow_code)
    planned.check(problems)
    problems.tell()
    outcomes = planned.carry_out(_launcher(launcher, folder, launcher_arg or []), voice, quiet=quiet)

    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    comparison = _compared([outcome.folder for outcome in outcomes if outcome.status != "failed"])
    if as_json:
        print_json(
            {
                "schema": 1,
                "output": str(folder),
                "runs": [{**vars(outcome), "folder": str(outcome.folder)} for outcome in outcomes],
                "comparison": None if comparison is None else comparison_document(comparison),
            }
        )
    elif comparison is not None:
        print_comparison(comparison, "rich", voice)
    for outcome in failed:
        show(f"failed: {outcome.name}: {outcome.error}", error=True)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _compared(folders: Sequence[Path]) -> Comparison | None:
    from rrm_transfer.report.comparison import compare

    return compare(folders) if folders else None


def _plan(
    recipe: str | None,
    students: str | None,
    objectives: str | None,
    seeds: str | None,
    overrides: list[str],
    problems: Problems,
) -> list[PlannedRun]:
    """Makes the recipes of the product; seeds change last, so that a sweep's first part holds all methods."""
    from rrm_transfer.objectives import PLAIN
    from rrm_transfer.recipe.loading import read_recipe
    from rrm_transfer.runs.request import request
    from rrm_transfer.runs.trainables import resolve_trainable_name
    from rrm_transfer.sweeps.items import Item
    from rrm_transfer.sweeps.sweep import PlannedRun

    own = read_recipe(recipe or QUICKSTART)
    some_students = _items(students, own.student.name, problems)
    some_objectives = _items(objectives, own.objective.name, problems)
    # One plain run a student and seed, unless the runs' own controls were spoken of.
    control, added = None, None
    if not any(override.partition("=")[0].strip() == "control.enabled" for override in overrides):
        control = False
        if all(item.name != PLAIN for item in some_objectives):
            added = Item(PLAIN, ())
            some_objectives.insert(0, added)
    for student in some_students:
        try:
            resolve_trainable_name(student.name)
        except UserError as error:
            problems.add(error)
    runs: dict[str, PlannedRun] = {}
    for seed, student, objective in product(
        _seeds(seeds, own.seed, problems), some_students, some_objectives
    ):
        name = f"{student.slug}-{objective.slug}-s{seed}"
        # Arguments of the objectives that were asked for are none of plain training's.
        general = [*overrides, *student.overrides("student.args")]
        if objective is added:
            general = [word for word in general if not word.startswith("objective.")]
        try:
            wanted = request(
                own,
                base=QUICKSTART,
                overrides=[*general, *objective.overrides("objective")],
                sections={
                    "student": {"name": student.name},
                    "objective": {"name": objective.name},
                    "control": {"enabled": control},
                },
                seed=seed,
            )
        except UserError as error:
            problems.add(error)
            continue
        if name in runs:
            problems.add(UserError("Twice the same run.", received=name))
        runs[name] = PlannedRun(name, wanted)
    return list(runs.values())


def _items(text: str | None, default: str, problems: Problems) -> list[Item]:
    from rrm_transfer.sweeps.items import read_items

    try:
        return read_items(default if text is None else text)
    except UserError as error:
        problems.add(error)
        return read_items(default)  # so that the other lists are looked at, too


def _seeds(text: str | None, default: int, problems: Problems) -> list[int]:
    if text is None:
        return [default]
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not _is_seed(part)]
    if wrong:
        problems.add(
            UserError(
                "Not a seed.",
                received=", ".join(wrong) or text,
                allowed=f"whole numbers of 0 to {LARGEST_SEED}",
            )
        )
        return [default]
    return list(dict.fromkeys(int(part) for part in parts))


def _is_seed(text: str) -> bool:
    return text.isdecimal() and len(text) <= len(str(LARGEST_SEED)) and int(text) <= LARGEST_SEED


def _launcher(name: str, folder: Path, arguments: list[str]) -> Launcher:
    from rrm_transfer.sweeps.launchers import launch_here, slurm_launcher

    if name == "slurm":
        return slurm_launcher(folder / "submitit", options.key_values(arguments) or {})
    if arguments:
        raise UserError("Only a cluster takes --launcher-arg.", hint="--launcher slurm")
    return launch_here
