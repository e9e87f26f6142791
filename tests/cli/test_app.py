"""The command line as a whole: its list, its speed, its error boundary."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rrm_transfer import __version__
from rrm_transfer.core.errors import Interrupted, UserError
from tests.cli.conftest import Cli
from tests.cli.golden import FILE, commands

CHECKOUT = Path(__file__).resolve().parents[2]

# What scripts rely on.
PROMISED = {
    "run": """--teacher --student --dataset --objective --recipe --set --output --overwrite --resume --seed
        --pretrained/--no-pretrained --student-weights --student-arg --control/--no-control
        --skip-teacher-check --dry-run --json --quiet/-q --push --teacher-arch --teacher-weights
        --teacher-normalization""",
    "teach": "--student --objective --dataset --recipe --set --output --resume --seed",
    "evaluate": """MODEL --dataset --split --attack --norm --eps --steps --restarts --images --seed --output
        --json --teacher-arch --teacher-weights --teacher-normalization""",
    "bench": """--teacher --student --dataset --objective --steps --recipe --set --json --teacher-arch
        --teacher-weights --teacher-normalization""",
    "inspect": """NAMES --student --dataset --convert --json --teacher-arch --teacher-weights
        --teacher-normalization""",
    "compare": "RUNS --format --plot --json",
    "export": "RUN --format --output --with-normalization --json",
    "push": "RUN --repo --private --create-pr --dry-run --json",
    "sweep": "--recipe --students --objectives --seeds --set --output --launcher --json --quiet/-q",
    "doctor": "--json",
    "recipes ls": "--json",
    "recipes show": "",
    "recipes cp": "",
    "recipes validate": "",
}


def test_commands_and_options_are_the_listed_ones() -> None:
    assert commands() == json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PROMISED)
def test_promised_options_are_there(name: str) -> None:
    assert set(PROMISED[name].split()) <= set(commands()[name])


@pytest.mark.parametrize("name", commands())
def test_every_command_can_be_read_by_programs_and_kept_quiet(name: str) -> None:
    assert {"--json", "--quiet/-q"} <= set(commands()[name])


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help(name: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ended = cli(*name.split(), "--help")
    assert ended.code == 0
    assert "Usage" in ended.out
    options = {option for names in commands()[name] for option in names.split("/") if option.startswith("-")}
    assert {option for option in options if option not in ended.out} == set()


def test_the_list_of_commands_cuts_no_description_short(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "..." not in cli("--help").out.partition("Commands:")[2]


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    program = """
import sys
sys.argv = ["rrm-transfer", "--help"]
from rrm_transfer.cli.app import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
heavy = {"torch", "timm", "accelerate", "datasets", "pandas", "matplotlib", "pydantic"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ended.returncode == 0, ended.stderr
        assert "evaluate" in ended.stdout
        # Time of computation, so that a busy machine does not fail the test.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 2  # a quarter on a machine of today; torch alone takes more


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"rrm-transfer {__version__}\n"


@pytest.mark.parametrize(
    ("words", "completion"),
    [("rrm-transfer ev", "evaluate"), ("rrm-transfer run --teacher-n", "--teacher-normalization")],
)
def test_a_shell_completes_commands_and_options(words: str, completion: str) -> None:
    program = "import sys; sys.argv = ['rrm-transfer']; from rrm_transfer.cli.app import main; main()"
    asked = {
        "_RRM_TRANSFER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, env={**os.environ, **asked}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ended.stdout.split() == [completion]


@pytest.mark.parametrize(
    "arguments", [("--unknown",), ("run", "--unknown"), ("fly",), ("run", "--seed", "-1")]
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], cli: Cli) -> None:
    ended = cli(*arguments)
    assert ended.code == 2
    assert "Usage" in ended.err
    assert ended.out == ""


def _fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def request(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("rrm_transfer.runs.request.request", request)


def test_a_mistake_is_one_message_and_exit_code_2(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(monkeypatch, UserError("It is wrong.", received="this", allowed="that", hint="do it"))
    ended = cli("run", "--json")
    assert ended == (2, "", "error: It is wrong.\n  received: this\n  allowed:  that\n  next:     do it\n")


def test_an_interruption_is_exit_code_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(monkeypatch, Interrupted("stopped at step 3"))
    assert cli("run") == (130, "", "stopped: stopped at step 3\n")
    _fail(monkeypatch, KeyboardInterrupt())
    assert cli("run").code == 130


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space is left"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EFBIG, "larger than files may be"),
        (errno.ENOENT, "removed meanwhile"),
    ],
)
def test_storage_that_refuses_is_a_message(
    number: int, words: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail(monkeypatch, OSError(number, os.strerror(number), "runs/a"))
    ended = cli("run")
    assert ended.code == 2
    assert words in ended.err
    assert "runs/a" in ended.err
    _fail(monkeypatch, OSError(number, os.strerror(number)))
    assert "received" not in cli("run").err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_cannot_write_is_spelled_out(
    encoding: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    assert cli("inspect").code == 0
    assert cli("run", "--seed", "–").code == 2
    assert [stream.buffer.getvalue().isascii() for stream in streams.values()] == [True, True]


def test_a_bug_is_not_dressed_up(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(monkeypatch, KeyError("bug"))
    with pytest.raises(KeyError, match="bug"):
        cli("run")


def test_other_processes_keep_silent(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for error, code in ((UserError("wrong"), 2), (Interrupted("stopped"), 130), (KeyError("bug"), 1)):
        _fail(monkeypatch, error)
        assert cli("run") == (code, "", "")


def test_recipes_ls_show_cp_validate(cli: Cli, tmp_path: Path) -> None:
    assert "quickstart" in cli("recipes", "ls").out
    assert "quickstart" in json.loads(cli("recipes", "ls", "--json").out)
    shown = cli("recipes", "show", "quickstart").out
    assert "teacher:" in shown
    assert cli("recipes", "cp", "quickstart", "mine.yaml").code == 0
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == shown
    assert cli("recipes", "cp", "quickstart", "mine.yaml").code == 2
    assert cli("recipes", "cp", "quickstart", "new/mine.yaml").code == 0
    assert cli("recipes", "validate", "mine.yaml").out == "mine.yaml: valid\n"
    nothing = "objective={name: rrm, feature_weight: 0, ce_weight: 0}"
    refused = cli("recipes", "validate", "mine.yaml", "--set", nothing)
    assert (refused.code, "Nothing is left to minimise" in refused.err) == (2, True)
    wrong = cli("recipes", "validate", "mine.yaml", "--set", "train.lr=-1", "--set", "trian.lr=1")
    assert wrong.code == 2
    assert "2 problems" in wrong.err
    assert "trian: unknown key (nearest: train" in wrong.err
