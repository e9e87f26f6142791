"""No command harms what it did not make: in a folder full of a user's files all are there afterwards."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from rrm_transfer.exports import formats
from tests.cli.conftest import Cli, cli
from tests.cli.golden import commands
from tests.cli.test_sweep import pretended, settings
from tests.support import tiny
from tests.support.command import Ended, command

__all__ = ["cli", "pretended"]

PATIENCE_SECONDS = 120

PLACES = {
    ("compare", "--plot"), ("compare", "--overwrite"),
    ("evaluate", "MODEL"), ("evaluate", "--output"), ("evaluate", "--overwrite"), ("evaluate", "--resume"),
    ("export", "--output"), ("export", "--overwrite"), ("export", "--format"),
    ("inspect", "--convert"),
    ("prepare", "--output"), ("prepare", "--overwrite"), ("prepare", "--resume"),
    ("recipes cp", "TARGET"), ("recipes cp", "--overwrite"),
    ("run", "--output"), ("run", "--overwrite"), ("run", "--resume"), ("run", "--resume-anyway"),
    ("run", "--set"), ("run", "--recipe"), ("run", "--tracker"),
    ("sweep", "--output"),
    ("teach", "--output"), ("teach", "--overwrite"), ("teach", "--resume"), ("teach", "--resume-anyway"),
    ("teach", "--set"), ("teach", "--recipe"), ("teach", "--tracker"),
}  # fmt: skip
"""What says where a command writes on this machine, or gives leave to replace: each is tried below."""

OTHERS = {
    "--allow-code", "--attack", "--batch-size", "--channels", "--check", "--checks",
    "--control/--no-control", "--corruptions", "--create-pr", "--curve", "--dataset", "--dry-run", "--eps",
    "--help-objective", "--image-size/--input", "--images", "--json", "--launcher", "--launcher-arg",
    "--max-broken", "--max-params", "--norm", "--objective", "--objectives", "--pretrained/--no-pretrained",
    "--private", "--push", "--quiet/-q", "--repo", "--restarts", "--seed", "--seeds", "--side",
    "--skip-bad-steps", "--skip-teacher-check", "--split", "--skip", "--steps", "--strict-checks",
    "--student", "--student-arg", "--student-weights", "--students", "--surrogate", "--teacher",
    "--teacher-arch", "--teacher-normalization", "--teacher-weights", "--with-normalization",
    "DATA", "NAME", "NAMES", "RUN", "RUNS",
}  # fmt: skip
"""What says nothing of the kind, in any command."""

READ_ONLY = {
    ("bench", "--recipe"), ("bench", "--set"), ("compare", "--format"), ("recipes validate", "--set"),
    ("sweep", "--recipe"), ("sweep", "--set"),
}  # fmt: skip
"""What does in another command: a sweep names its own folders, the others write none."""

QUICK = ["--images", "8", "--attack", "none"]
FILE_CASES: dict[tuple[str, str], tuple[list[str], str]] = {
    ("compare", "--plot"): (["compare", "RUN", "--plot"], "out.svg"),
    ("evaluate", "--output"): (
        ["evaluate", "RUN", "--images", "8", "--attack", "none", "--output"],
        "out.json",
    ),
    ("export", "--output"): (["export", "RUN", "--format", "torch-export", "--output"], "out.pt2"),
    ("inspect", "--convert"): (["inspect", "numbers.json", "--convert"], "out.safetensors"),
    ("recipes cp", "TARGET"): (["recipes", "cp", "quickstart"], "out.yaml"),
}
"""The commands that write one file, and its name."""

FILES = {
    "thesis.tex": "years of work",
    "numbers.json": '{"schema": 1, "rows": [], "timing": {}}',
    "numbers.state.json": "{}",
    "Me.py": "mine = 1",
    "plot.svg": "<svg/>",
    "plot.png": "png",
    "model.safetensors": "weights",
    "recipe.yaml": "student: {name: test_resnet}",
    "environment.json": '{"versions": {"torch": "2"}}',
    "metrics.json": "{}",
    "README.md": "# Mine",
    "log.jsonl": "{}",
    ".env": "TOKEN=1",
    ".lock": "held",
    ".README.md.x1y2z3a4.md": "half",
    ".git/HEAD": "ref: refs/heads/main",
    ".ssh/id_ed25519": "key",
    "student/config.json": "{}",
    "student/notes.txt": "mine",
    "checkpoints/student-00000001/state.json": "{}",
    "checkpoints/.student-00000001.x1y2z3a4/state.json": "{}",
    "evaluations/pgd.json": "{}",
    "robust/train.parquet": "rows",
    "recipes/test_resnet-rrm-s0.yaml": "student: {name: test_resnet}",
    "others/recipe.yaml": "student: {name: test_resnet}",
    "others/.hidden": "mine",
    "hidden/.git/HEAD": "ref",
    "logged/logs/test_resnet-rrm-s0.log": "mine",
    "started/test_resnet-rrm-s0/notes.txt": "mine",
}
FOLDERS = (".", "others", "hidden", "student", ".git", "checkpoints", "link-to-folder")
NO_FOLDERS = ("thesis.tex", "pipe", "socket", "dangling", "loop", "device", "linked")
LEAVES: tuple[list[str], ...] = ([], ["--overwrite"], ["--resume"], ["--resume-anyway"])


def _fill(home: Path) -> None:
    for name, text in FILES.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (home / "empty").mkdir()
    (home / "link-to-folder").symlink_to("others")


def _put(kind: str, path: Path) -> None:
    """Puts one of the kinds of things that may stand where a file is to be written."""
    if kind == "file":
        path.write_text("mine", encoding="utf-8")
    elif kind == "linked":
        path.symlink_to("thesis.tex")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
        (path / "inside").write_text("mine", encoding="utf-8")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    else:
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("devices are made by root")


KINDS = ("file", "linked", "dangling", "loop", "pipe", "folder", "socket", "device")


def _look(home: Path) -> dict[str, tuple[int, object]]:
    """Returns everything in a folder with its kind and its bytes."""
    seen: dict[str, tuple[int, object]] = {}
    for folder, folders, names in os.walk(home):
        for name in (*folders, *names):
            path = Path(folder) / name
            kind = stat.S_IFMT(path.lstat().st_mode)
            content: object = None
            if stat.S_ISREG(kind):
                content = path.read_bytes()
            elif stat.S_ISLNK(kind):
                content = path.readlink()
            seen[path.relative_to(home).as_posix()] = (kind, content)
    return seen


def _unharmed(before: dict[str, Any], home: Path, *, given: Collection[str] = ()) -> set[str]:
    """Checks that all is there but what was given up, and returns what is new."""
    after = _look(home)
    changed = {name for name, seen in before.items() if after.get(name) != seen}
    assert changed <= set(given)
    new = set(after) - set(before)
    assert not [name for name in new if ".partial" in name]
    return new


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    _fill(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    """A command that waits for somebody to read a pipe fails instead."""

    def give_up(*_: object) -> None:
        raise AssertionError("the command waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_data: Path) -> Path:
    """A finished run in a folder full of a user's files."""
    home = tmp_path_factory.mktemp("home")
    _fill(home)
    before = _look(home)
    ended = command(*_options(tiny_teacher, tiny_data), "--output", "run", "--quiet", folder=home)
    assert ended.code == 0, ended.err
    assert {name.partition("/")[0] for name in _unharmed(before, home)} - _streams(home) == {"run"}
    return home / "run"


def _streams(home: Path) -> set[str]:
    return {path.name for path in home.glob("streams-*")}


def _options(teacher: Path, data: Path) -> list[str]:
    options = tiny.recipe_options(teacher, data, epochs=1)
    return ["run", *options, "--no-control", "--skip-teacher-check"]


def test_every_option_that_says_where_is_tried() -> None:
    known = {(name, option) for name, options in commands().items() for option in options}
    assert known >= PLACES | READ_ONLY
    rest = known - PLACES - READ_ONLY
    assert {option for _, option in rest} == OTHERS
    assert not PLACES & READ_ONLY
    tried = {*FILE_CASES} | {("export", "--format"), ("evaluate", "MODEL"), ("evaluate", "--resume")}
    tried |= {(name, "--overwrite") for name, _ in FILE_CASES if name != "inspect"}
    for name in ("run", "teach"):
        tried |= {(name, option) for option in ("--output", "--set", "--recipe", "--tracker")}
        tried |= {(name, leave[0]) for leave in LEAVES if leave}
    tried |= {("prepare", option) for option in ("--output", "--overwrite", "--resume")}
    assert tried | {("sweep", "--output")} == PLACES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", FILE_CASES, ids=" ".join)
def test_what_stands_where_a_file_is_wanted(
    case: tuple[str, str], kind: str, home: Path, trained: Path, cli: Cli
) -> None:
    words, name = FILE_CASES[case]
    words = [str(trained) if word == "RUN" else word for word in words]
    _put(kind, home / name)
    before = _look(home)
    ended = cli(*words, name)
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    assert _unharmed(before, home) == set()
    if case == ("inspect", "--convert"):  # it never replaces
        return
    ended = cli(*words, name, "--overwrite")
    given = {"file": {name}, "linked": {"thesis.tex"}}.get(kind, set())
    assert ended.code == (0 if given else 2), ended.err
    assert _unharmed(before, home, given=given) == set()
    assert not given or _look(home)[given.pop()][1] not in (b"mine", b"years of work")


@pytest.mark.parametrize("form", formats.FORMATS)
def test_files_beside_an_export(form: str, home: Path, trained: Path, cli: Cli) -> None:
    before = _look(home)
    export = ["export", str(trained), "--format", form, "--output"]
    assert cli(*export, "Me.py").code == 2
    for name in ("New.json", "New.safetensors"):
        _put("pipe", home / name)
        before = _look(home)
        if form == "robustbench":
            ended = cli(*export, "New.py", "--overwrite")
            assert (ended.code, name in ended.err) == (2, True)
            assert _unharmed(before, home) == set()
        (home / name).unlink()


def test_an_evaluation_replaces_its_own_and_no_other(home: Path, trained: Path, cli: Cli) -> None:
    before = _look(home)
    measure = ["evaluate", str(trained), *QUICK, "--quiet"]
    for _ in range(2):
        assert cli(*measure, "--output", "mine.json").code == 0
    # A run's own figures are no evaluation; what was found so far would stand beside thesis.json.
    for output in ("numbers.json", "metrics.json", str(trained / "metrics.json")):
        for leave in ([], ["--resume"]):
            assert cli(*measure, "--output", output, *leave).code == 2
    for kind in ("file", "dangling", "pipe"):
        _put(kind, home / "thesis.state.json")
        now = _look(home)
        for leave in ([], ["--resume"], ["--overwrite"]):
            ended = cli(*measure, "--output", "thesis.json", *leave)
            assert (ended.code, "Traceback" in ended.err) == (2, False), (kind, leave, ended.err)
        assert _unharmed(now, home) == set()
        (home / "thesis.state.json").unlink()
    assert _unharmed(before, home) == {"mine.json"}


@pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: "".join(leave) or "none")
@pytest.mark.parametrize("name", ["run", "teach"])
def test_a_run_takes_no_folder_of_a_users(
    name: str, leave: list[str], home: Path, tiny_teacher: Path, tiny_data: Path, cli: Cli
) -> None:
    for kind in ("pipe", "socket", "dangling", "loop", "linked", "device"):
        _put(kind, home / kind)
    teacher = tiny.recipe_options(tiny_teacher, tiny_data)
    options = teacher if name == "run" else [*teacher[2:], "--objective", "pgd-at"]
    (home / "own.yaml").write_text("student: {name: test_resnet}\noutput: .\n", encoding="utf-8")
    before = _look(home)
    words = [[name, *options, "--output", place] for place in (*FOLDERS, *NO_FOLDERS)]
    words.append([name, *options, "--set", "output=.git"])
    words.append([name, *options, "--recipe", "own.yaml"])
    for given in words:
        ended = cli(*given, "--quiet", *leave)
        assert ended.code == 2, (given, ended.err)
        assert "output" in ended.err, given
        assert "--overwrite" not in ended.err, given
        assert _unharmed(before, home) == set()


@pytest.mark.parametrize("leave", [[], ["--overwrite"], ["--resume"]], ids="".join)
def test_a_prepared_set_takes_no_folder_of_a_users(
    leave: list[str], home: Path, tiny_data: Path, cli: Cli
) -> None:
    for kind in ("pipe", "socket", "dangling", "loop", "linked", "device"):
        _put(kind, home / kind)
    (home / "taken.unfinished").mkdir()
    (home / "taken.unfinished" / "mine").write_text("mine", encoding="utf-8")
    before = _look(home)
    # A link that leads nowhere is followed: nobody's file is there.
    for place in (*FOLDERS, *(set(NO_FOLDERS) - {"dangling"}), "taken"):
        ended = cli("prepare", str(tiny_data), "--output", place, "--quiet", *leave)
        assert (ended.code, "Traceback" in ended.err) == (2, False), (place, ended.err)
        assert _unharmed(before, home) == set(), place


@pytest.mark.parametrize("place", ["others", "robust", "student", "pipe"])
def test_a_robust_set_takes_no_folder_of_a_users(
    place: str, home: Path, tiny_teacher: Path, tiny_data: Path, cli: Cli
) -> None:
    _put("pipe", home / "pipe")
    before = _look(home)
    options = [*_options(tiny_teacher, tiny_data), "--objective", "rdt", "--set", f"objective.folder={place}"]
    ended = cli(*options, "--output", "new", "--quiet")
    assert (ended.code, "Traceback" in ended.err) == (2, False), ended.err
    assert _unharmed(before, home) == set()


@pytest.mark.parametrize("place", [".", "logged", "started", "thesis.tex"])
def test_a_sweep_takes_no_file_of_a_users(
    place: str, home: Path, tiny_teacher: Path, tiny_data: Path, cli: Cli, pretended: list[str]
) -> None:
    before = _look(home)
    options = [*settings(tiny_teacher, tiny_data), "--students", "test_resnet", "--objectives", "rrm"]
    ended = cli("sweep", *options, "--output", place, "--quiet")
    assert ended.code == 2, ended.err
    assert (_unharmed(before, home), pretended) == (set(), [])
    for _ in range(2):
        assert cli("sweep", *options, "--output", "grid", "--quiet").code == 0
    assert {name.partition("/")[0] for name in _unharmed(before, home)} == {"grid"}


def _again(home: Path, *words: str) -> Ended:
    ended = command(*words, "--output", "run", "--quiet", folder=home)
    assert ended.code == 0, ended.err
    return ended


def test_what_a_user_keeps_in_a_run_folder_stays(
    trained: Path, tiny_teacher: Path, tiny_data: Path, cli: Cli
) -> None:
    home, run = trained.parent, trained
    written = _look(run)
    for name, text in FILES.items():
        # A run would have given this name itself.
        if name not in written and name != "checkpoints/student-00000001/state.json":
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text(text, encoding="utf-8")
    (run / "within").symlink_to("thesis.tex")
    (run / "dangling").symlink_to("nowhere")
    os.mkfifo(run / "pipe")
    users = {name: seen for name, seen in _look(run).items() if name not in written}
    before = {name: seen for name, seen in _look(home).items() if not name.startswith("run/")}
    options = _options(tiny_teacher, tiny_data)
    trackers = ["--tracker", "tensorboard"] if importlib.util.find_spec("tensorboard") else []
    measure = ["evaluate", str(run), *QUICK, "--quiet"]
    for words in (["--resume"], ["--overwrite", *trackers], ["--resume-anyway"], ["--overwrite"]):
        _again(home, *options, *words)
        _unharmed(users, run)
        assert cli(*measure).code == 0
        _unharmed(users, run)
    assert "left in the run folder" in command(*options, "--output", "run", "--overwrite", folder=home).err
    assert not list((run / "tracking").rglob("events.out*"))
    for name in ("teach", "run"):
        words = tiny.recipe_options(tiny_teacher, tiny_data)[2:]
        assert cli(name, *words, "--objective", "pgd-at", "--output", str(run), "--tracker", "x").code == 2
    _unharmed(users, run)
    _unharmed(before, home)
