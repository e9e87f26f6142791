"""``rrm-transfer bench``."""

from __future__ import annotations

from typing import Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import is_first_process, narrator, print_json, silence_profiler
from rrm_transfer.core.quantities import MOST
from rrm_transfer.recipe.shelf import QUICKSTART


@options.grouped
def bench(
    asked: options.Asked,
    source: options.Source,
    voice: options.Voice,
    teacher: options.Teacher = None,
    dataset: options.Dataset = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas. Default: natural, rrm, rrm-adv, kd, rslad, free-at, pgd-at."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=MOST, help="Measured steps of each objective.")] = 20,
) -> None:
    """Measure what each objective costs on this machine.

    Per step, and for the whole recipe. Without arguments: with the quickstart's teacher, student and data.

    For example:

        rrm-transfer bench

        rrm-transfer bench --teacher T --student resnet18 --dataset uoft-cs/cifar10 --objective rrm,pgd-at
    """
    silence_profiler()
    sections = {"teacher": source.section(teacher), "data": {"name": dataset}}
    wanted = asked.wanted(QUICKSTART, sections)
    from rrm_transfer import api
    from rrm_transfer.report.costs import print_costs

    report = api.bench(
        wanted,
        objectives=[name.strip() for name in objective.split(",")] if objective else (),
        steps=steps,
        allow_code=source.code(teacher),
        narrator=narrator(voice.quiet),
    )
    if is_first_process():
        if voice.as_json:
            print_json(report.to_json())
        else:
            print_costs(report)
