"""The list of commands and the one place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import io
import sys
import traceback
from types import TracebackType
from typing import Annotated, NoReturn

import typer

from rrm_transfer import __version__
from rrm_transfer.cli import (
    bench,
    compare,
    doctor,
    evaluate,
    export,
    inspect,
    prepare,
    push,
    recipes,
    run,
    sweep,
    teach,
)
from rrm_transfer.cli.output import first_to_report
from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.report.screen import show

EXIT_BUG = 1
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130

_STORAGE_ERRORS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "it would be larger than files may be here",
    errno.ENOENT: "a folder of the path does not exist, or was removed meanwhile",
}

app = typer.Typer(
    name="rrm-transfer",
    help="Transfer a robust teacher's representation into any timm classifier.",
    epilog="Without arguments, `rrm-transfer run` runs the quickstart: offline, on embedded data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut option names short in 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("teach")(teach.teach)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("sweep")(sweep.sweep)
app.command("bench")(bench.bench)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)
app.add_typer(recipes.app, name="recipes")
app.command("export")(export.export)
app.command("prepare")(prepare.prepare)
app.command("push")(push.push)


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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of what its encoding cannot write
    try:
        app()  # exits by itself, also with 2 on a wrong option
    except UserError as error:
        _end(EXIT_MISTAKE, str(error))
    except Interrupted as error:
        _end(EXIT_INTERRUPTED, str(error), label="stopped")
    except OSError as error:
        reason = _STORAGE_ERRORS.get(error.errno or 0)
        if reason is None:
            raise
        where = f"\n  received: {error.filename}" if error.filename else ""
        _end(EXIT_MISTAKE, f"A file could not be written or read: {reason}.{where}")
    except Exception:
        if first_to_report():
            sys.excepthook = _show_bug  # here, since typer has its own by now
            raise
        sys.exit(EXIT_BUG)


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints a traceback as Python does, but for what gives access: people paste them."""
    show("".join(traceback.format_exception(kind, error, trace)).removesuffix("\n"), error=True)


def _end(code: int, message: str, *, label: str = "error") -> NoReturn:
    """Prints a message once, however many processes have the same problem, and exits."""
    if first_to_report():
        typer.secho(f"{label}: ", nl=False, err=True, bold=True)
        show(message, error=True)
    sys.exit(code)
