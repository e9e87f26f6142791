"""What gives access is neither written nor printed, whether a run succeeds or fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub import hub_file
from rrm_transfer.core.printing import presentable, without_secrets
from tests.cli.conftest import Cli, cli
from tests.support import tiny
from tests.support.hub_server import TOKEN, Fault, Hub
from tests.test_hub import hub

__all__ = ["cli", "hub"]

PASSWORD = "pa55word-of-alice"


def _written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_run_writes_and_prints_no_token(
    hub: Hub, cli: Cli, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = [
        *tiny.recipe_options(tiny_teacher, tiny_data, epochs=1),
        "--no-control",
        "--skip-teacher-check",
    ]
    ended = cli("run", *options, "--output", "run", "--push", "user/pushed")
    assert ended.code == 0, ended.err
    assert hub.repositories["user/pushed"].files
    everything = _written(tmp_path) + (ended.out + ended.err).encode()
    everything += b"".join(hub.repositories["user/pushed"].files.values())
    assert len(everything) > 10_000
    assert TOKEN.encode() not in everything
    assert os.environ["HF_TOKEN"] == TOKEN


@pytest.mark.parametrize(
    ("pattern", "status"),
    [("/resolve/", 500), ("/resolve/", 401), ("/resolve/", 403), ("/resolve/", None), ("auth-check", 403)],
)
def test_failures_print_no_token(
    pattern: str, status: int | None, hub: Hub, cli: Cli, tmp_path: Path, tiny_data: Path
) -> None:
    hub.fail(Fault(pattern, status))  # the server says what it was sent
    teacher, push = (
        ("hf-hub:user/x", []) if "resolve" in pattern else ("fashion_mnist_linf", ["--push", "user/x"])
    )
    ended = cli("run", "--teacher", teacher, "--dataset", str(tiny_data), "--output", "run", *push)
    assert ended.code == 2
    assert "error:" in ended.err
    assert TOKEN.encode() not in (ended.out + ended.err).encode() + _written(tmp_path)


def test_an_address_with_a_password_is_not_shown(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tiny_data: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://alice:{PASSWORD}@127.0.0.1:9")
    for wanted in (["--teacher", "hf-hub:user/x"], ["--dataset", "user/birds"]):
        ended = cli("run", *wanted, "--output", "run", "--quiet")
        assert ended.code == 2, ended.err
        assert PASSWORD not in ended.out + ended.err
        assert "Traceback" not in ended.err


def test_a_traceback_shows_none() -> None:
    program = f"""
import sys
import rrm_transfer.runs.request as module
def fail(*_, **__):
    raise KeyError("https://alice:{PASSWORD}@hub.example/a?signature=abc, token " + "{TOKEN}")
module.request = fail
sys.argv = ["rrm-transfer", "run"]
from rrm_transfer.cli.app import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_TOKEN": TOKEN},
    )
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1
    assert last == "KeyError: 'https://…@hub.example/a?… token …'"
    assert PASSWORD not in last
    assert TOKEN not in ended.stdout


def test_no_message_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "short-own-token")
    error = UserError("Failed with short-own-token.", received=TOKEN, hint=f"http://u:{PASSWORD}@x/y?z=1")
    for secret in ("short-own-token", TOKEN, PASSWORD, "z=1"):
        assert secret not in str(error)
        assert secret not in str(error.args)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        hub_file("user/model", f"weights.bin?token={TOKEN}")
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["hf_hub_download", "user@host", "a: b@c", "hf-hub:user/name@main", "https://x.example/a"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_a_terminal_is_not_steered() -> None:
    assert presentable("a\x1b]0;title\x07b\r\u202ec\n\td") == "a\\x1b]0;title\\x07b\\r\\u202ec\n\td"
