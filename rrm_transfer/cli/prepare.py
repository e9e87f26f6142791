"""``rrm-transfer prepare``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import narrator, print_facts, print_json
from rrm_transfer.core.quantities import MOST


def prepare(
    data: Annotated[str, typer.Argument(help="What --dataset takes: a folder, a file, or a name.")],
    output: Annotated[Path, typer.Option(help="Folder to write, for --dataset.")],
    side: Annotated[
        int, typer.Option(min=8, max=4096, help="Shorter side in pixels; smaller images are not enlarged.")
    ] = 288,
    max_broken: Annotated[
        int, typer.Option(min=0, max=MOST, help="Images that may be unreadable; they are left out.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what an interrupted session wrote; start where nothing is.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what was prepared in the output folder.")
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a large image set once as small, fast images.

    For example:

        rrm-transfer prepare imagenet --output imagenet-288

        rrm-transfer prepare imagenet --output imagenet-288 --resume

        rrm-transfer run --dataset imagenet-288
    """
    from rrm_transfer.runs import prepare as preparation

    made = preparation.prepare(
        data,
        output,
        side=side,
        max_broken=max_broken,
        resume=resume,
        overwrite=overwrite,
        narrator=narrator(quiet),
    )
    if as_json:
        print_json(asdict(made))
        return
    counts = ", ".join(f"{count:,} {part}" for part, count in made.images.items())
    print_facts(
        {
            "folder": made.folder,
            "images": f"{counts}, {made.classes:,} classes, shorter side at most {made.side} px",
            "shards": f"{made.shards:,}, {made.gigabytes:,.2f} GB",
            "kept": f"{made.kept:,} shards of an earlier session",
            "broken": f"{len(made.broken):,} left out",
        }
    )
