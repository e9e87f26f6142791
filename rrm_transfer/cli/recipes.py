"""``rrm-transfer recipes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.output import print_json
from rrm_transfer.core.files import require_writable, write_text
from rrm_transfer.report.screen import show as print_text

app = typer.Typer(help="The recipes that come with the package.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A recipe's name or YAML file.")]


@app.command("ls")
def list_recipes(as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """List them, each with its description.

    For example:

        rrm-transfer recipes ls
    """
    from rrm_transfer.recipe.loading import read_recipe
    from rrm_transfer.recipe.shelf import recipe_names

    found = {name: read_recipe(name).description for name in recipe_names()}
    if as_json:
        print_json(found)
    else:
        width = max(map(len, found))
        for name, description in found.items():
            print_text(f"{name:<{width}}  {description}")


@app.command("show")
def show(name: Name, as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """Print one, comments included.

    For example:

        rrm-transfer recipes show quickstart
    """
    from rrm_transfer.recipe.loading import read_recipe
    from rrm_transfer.recipe.shelf import find_recipe

    if as_json:
        print_json(read_recipe(name).model_dump(mode="json", exclude_unset=True))
        return
    print_text(find_recipe(name).read_text(encoding="utf-8").removesuffix("\n"))


@app.command("cp")
def copy(
    name: Name,
    target: Annotated[Path, typer.Argument(help="File to write.")],
    overwrite: options.OverwriteFile = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Copy one, to change it.

    For example:

        rrm-transfer recipes cp quickstart my-recipe.yaml
    """
    from rrm_transfer.recipe.shelf import find_recipe

    source = find_recipe(name)
    require_writable(target, overwrite=overwrite)
    write_text(target, source.read_text(encoding="utf-8"))
    _confirm({"written": str(target)}, str(target), as_json=as_json, quiet=quiet)


@app.command("validate")
def validate(
    name: Name,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Check one without running it; every problem is named.

    For example:

        rrm-transfer recipes validate my-recipe.yaml --set train.epochs=8
    """
    from rrm_transfer.recipe.loading import read_recipe
    from rrm_transfer.runs.resolve import check_names, objective_problems

    check_names(read_recipe(name, overrides or [], further=objective_problems))
    _confirm({"recipe": name, "valid": True}, f"{name}: valid", as_json=as_json, quiet=quiet)


def _confirm(document: dict[str, object], text: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(document)
    elif not quiet:
        print_text(text)
