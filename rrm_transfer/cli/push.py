"""``rrm-transfer push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import print_json
from rrm_transfer.report.screen import show


def push(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, or its student-best.")],
    repo: Annotated[str, typer.Option(help="user/name; created where it is missing.")],
    private: Annotated[
        bool, typer.Option("--private", help="Nobody else sees a repository that is created.")
    ] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request in a repository of somebody else.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be pushed; the hub is not asked.")
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Push a finished run to a model hub.

    The stock timm folder, the model card, the report and the recipe, in one commit.

    For example:

        rrm-transfer push runs/quickstart --repo user/name --dry-run

        rrm-transfer push runs/quickstart --repo user/name --private

        rrm-transfer push runs/cifar/student-best --repo user/name
    """
    from rrm_transfer import api

    pushed = api.push(run, repo, private=private, create_pr=create_pr, dry_run=dry_run)
    if as_json:
        document = {"repo": pushed.repo, "files": pushed.files}
        print_json(document if pushed.address is None else {**document, "url": pushed.address})
        return
    show(*pushed.files)
    show("not pushed: --dry-run" if pushed.address is None else f"pushed to: {pushed.address}")
