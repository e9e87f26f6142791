"""``rrm-transfer teach``: ``run`` without a teacher."""

from __future__ import annotations

from typing import Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import narrator, print_run
from rrm_transfer.recipe.shelf import TEACHING


@options.grouped
def teach(
    asked: options.Asked,
    where: options.Where,
    training: options.Training,
    voice: options.Voice,
    dataset: options.OwnDataset = None,
    objective: Annotated[str | None, typer.Option(help="pgd-at, trades, fast-at, …")] = None,
) -> None:
    """Make a robust teacher by adversarial training. Its run folder is a --teacher.

    For example:

        rrm-transfer teach --recipe fashion-mnist-teacher --dataset /data/fashion-mnist

        rrm-transfer teach --student resnet18 --dataset uoft-cs/cifar10 --objective pgd-at
    """
    wanted = asked.wanted(
        TEACHING,
        {
            "student": training.student,
            "data": {"name": dataset},
            "objective": {"name": objective},
            "train": {"skip_bad_steps": training.skip_bad_steps},
        },
        seed=training.seed,
        output=where.output,
    )
    from rrm_transfer import api

    result = api.teach(wanted, narrator=narrator(voice.quiet), **where.for_python())
    print_run(result, as_json=voice.as_json)
