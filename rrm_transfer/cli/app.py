"""The list of commands and the one place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

from rrm_transfer import __version__
from rrm_transfer.cli import evaluate, inspect, recipes, run, teach
from rrm_transfer.core.errors import Interrupted, UserError

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130

_STORAGE_ERRORS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}

app = typer.Typer(
    name="rrm-transfer",
    help="Transfer a robust teacher's representation into any timm classifier.",
    epilog="Without arguments, `rrm-transfer run` runs the quickstart: offline, on embedded data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("teach")(teach.teach)
app.command("evaluate")(evaluate.evaluate)
app.command("inspect")(inspect.inspect)
app.add_typer(recipes.app, name="recipes")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rrm-transfer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line; exit code 0 done, 2 the user's mistake, 130 interrupted."""
    try:
        app()  # exits by itself, also with 2 on a wrong option
    except UserError as error:
        _complain(str(error))
        sys.exit(EXIT_MISTAKE)
    except Interrupted as error:
        _complain(str(error), label="stopped")
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        reason = _STORAGE_ERRORS.get(error.errno or 0)
        if reason is None:
            raise
        _complain(f"A file could not be written or read: {reason}.\n  received: {error.filename}")
        sys.exit(EXIT_MISTAKE)


def _complain(message: str, *, label: str = "error") -> None:
    """Prints a message once, however many processes have the same problem."""
    if os.environ.get("RANK", "0") == "0":
        typer.secho(f"{label}: ", nl=False, err=True, bold=True)
        typer.echo(message, err=True)
