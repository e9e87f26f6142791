"""The list of commands and their options. ``python -m tests.cli.golden`` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from rrm_transfer.cli.app import app

FILE = Path(__file__).with_name("golden.json")


def commands() -> dict[str, list[str]]:
    """Returns the parameters of each command: options as they are typed, arguments in capitals."""
    found: dict[str, list[str]] = {}

    def visit(command: Any, path: tuple[str, ...]) -> None:
        if hasattr(command, "commands"):
            for name, child in command.commands.items():
                visit(child, (*path, name))
            return
        names = []
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                names.append(parameter.name.upper())
            else:
                names.append("/".join([*parameter.opts, *parameter.secondary_opts]))
        found[" ".join(path)] = sorted(names)

    visit(typer.main.get_command(app), ())
    return dict(sorted(found.items()))


if __name__ == "__main__":
    FILE.write_text(json.dumps(commands(), indent=1) + "\n", encoding="utf-8")
