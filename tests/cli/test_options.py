"""Options that commands share are declared once, in groups that stand for themselves."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import typer

from rrm_transfer.cli import options
from rrm_transfer.cli.app import app

GROUPS = {
    options.Asked: {"run", "teach", "bench"},
    options.Source: {"run", "bench", "evaluate", "inspect"},
    options.Training: {"run", "teach"},
    options.Voice: {"run", "teach", "bench", "evaluate", "inspect"},
    options.Where: {"run", "teach"},
}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_the_options_of_a_group_read_alike_wherever_they_are(group: Any) -> None:
    commands: Any = typer.main.get_command(app)
    for field in fields(group):
        declared = {
            name: (parameter.opts, parameter.help, parameter.default)
            for name, command in commands.commands.items()
            for parameter in getattr(command, "params", ())
            if parameter.name == field.name and name in GROUPS[group]
        }
        assert declared.keys() == GROUPS[group]
        assert len({str(value) for value in declared.values()}) == 1


def test_a_group_reaches_its_command_whole() -> None:
    seen: list[object] = []

    @options.grouped
    def command(voice: options.Voice, further: int = 3) -> None:
        seen.extend([voice, further])

    command(as_json=True, quiet=False, further=4)
    assert seen == [options.Voice(as_json=True, quiet=False), 4]
