"""No file brings code along, and a recipe names none unless it was allowed."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import rrm_transfer
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.stems import require_shape_only
from rrm_transfer.exports.robustbench import write_adapter
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.runs.finished import read_finished
from rrm_transfer.students.loading import load_student
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.networks import Blueprint, build_model
from rrm_transfer.teachers.networks.building import is_factory
from tests.cli.conftest import Cli, cli
from tests.report import fixtures
from tests.support import tiny
from tests.teachers.forms import cifar_state

__all__ = ["cli"]

INTRUDER = "tests.security.intruder"
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "torch.jit.load", "joblib.load",
    "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "tarfile.extractall",
    "shutil.unpack_archive", "numpy.load", "np.load",
}  # fmt: skip


def _calls() -> list[tuple[str, str, ast.Call]]:
    found = [
        (path.name, ast.unparse(node.func), node)
        for path in sorted(Path(rrm_transfer.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert len(found) > 1000
    return found


def test_trust_remote_code_does_not_exist() -> None:
    files = [
        path for path in Path(rrm_transfer.__file__).parent.rglob("*") if path.suffix in (".py", ".yaml")
    ]
    assert len(files) > 100
    assert not [path for path in files if "trust_remote_code" in path.read_text(encoding="utf-8")]


def test_nothing_is_unpickled_or_run() -> None:
    calls = _calls()
    assert not [(file, name) for file, name, _ in calls if name in FORBIDDEN]
    loads = [(file, call) for file, name, call in calls if name == "torch.load"]
    unsafe = [
        file
        for file, call in loads
        if not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords)
    ]
    # It hands torch an unpickler that runs nothing, in a process of its own.
    assert unsafe == ["salvage.py"]
    assert len(loads) > len(unsafe)
    imports = {file for file, name, _ in calls if name == "importlib.import_module"}
    assert imports == {"__init__.py", "building.py"}


@pytest.fixture
def recipe(tmp_path: Path, tiny_data: Path) -> Path:
    save_file(cifar_state(), tmp_path / "teacher.safetensors")
    (tmp_path / "recipe.yaml").write_text(
        f"""
teacher: {{name: teacher.safetensors, arch: "{INTRUDER}:factory", normalization: none}}
student: {{name: test_resnet}}
data: {{name: {tiny_data}}}
""",
        encoding="utf-8",
    )
    sys.modules.pop(INTRUDER, None)
    return tmp_path / "recipe.yaml"


def test_a_recipe_does_not_name_code(recipe: Path, cli: Cli) -> None:
    ended = cli("run", "--recipe", str(recipe), "--output", "out", "--quiet")
    assert ended.code == 2
    assert "--allow-code if you trust the recipe" in ended.err
    assert INTRUDER not in sys.modules


@pytest.mark.parametrize("option", [["--set", f"teacher.arch={INTRUDER}:factory"], ["--student", "test_vit"]])
def test_overrides_are_a_recipe_too(option: list[str], recipe: Path, cli: Cli) -> None:
    assert cli("run", "--recipe", str(recipe), "--output", "out", "--quiet", *option).code == 2
    assert INTRUDER not in sys.modules


def test_code_on_the_command_line_does_not_allow_the_recipes(recipe: Path, cli: Cli) -> None:
    ended = cli(
        "run", "--recipe", str(recipe), "--output", "out", "--teacher-arch", "tests.teachers.forms:absent"
    )
    assert ended.code == 2
    assert "cannot be imported" in ended.err
    assert INTRUDER not in sys.modules


@pytest.mark.parametrize("option", [["--allow-code"], ["--teacher-arch", f"{INTRUDER}:factory"]])
def test_allowed_code_runs(option: list[str], recipe: Path, cli: Cli) -> None:
    ended = cli("run", "--recipe", str(recipe), "--output", "out", "--quiet", *option)
    assert (ended.code, INTRUDER in sys.modules) == (2, True)
    assert "the intruder was called" in ended.err


def test_evaluating_a_strangers_run_runs_none_of_its_code(tmp_path: Path, cli: Cli) -> None:
    save_file(cifar_state(), tmp_path / "model.safetensors")
    options = ["--teacher-normalization", "none", "--dataset", "fashion-mnist-mini", "--quiet"]
    sys.modules.pop(INTRUDER, None)
    named = [*options, "--teacher-arch", f"{INTRUDER}:factory"]
    ended = cli("evaluate", "model.safetensors", *named, "--attack", "none")
    assert "the intruder was called" in ended.err  # named on the command line it is called
    sys.modules.pop(INTRUDER, None)
    with pytest.raises(UserError, match="must be named on the command line"):
        rrm_transfer.api.evaluate(
            "model.safetensors",
            arch=f"{INTRUDER}:factory",
            normalization="none",
            dataset="fashion-mnist-mini",
        )
    assert INTRUDER not in sys.modules


@pytest.mark.parametrize(
    "argument", ["pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"]
)
def test_an_architectures_arguments_load_nothing(
    argument: str, cli: Cli, tiny_teacher: Path, tiny_data: Path
) -> None:
    with pytest.raises(UserError, match="other weights"):
        require_shape_only({argument: "x"})
    options = [*tiny.recipe_options(tiny_teacher, tiny_data), "--student-arg", f"{argument}=x", "--quiet"]
    ended = cli("run", *options, "--skip-teacher-check", "--output", "out")
    assert (ended.code, argument in ended.err) == (2, True)


def test_objects_cannot_stand_in_a_recipe() -> None:
    with pytest.raises(UserError, match="not YAML"):
        build_recipe({"student": {"name": "x"}}, ["description=!!python/object/apply:os.getcwd []"])


def _hurt(config: dict[str, Any]) -> None:
    config["rrm"]["architecture"] = 'x"""\nimport os; os._exit(3)\n"""'


def _hurt_eps(config: dict[str, Any]) -> None:
    config["rrm"]["threat"]["eps"] = "__import__('os')._exit(3)"


@pytest.mark.parametrize("change", [_hurt, _hurt_eps])
def test_an_adapter_holds_no_words_of_a_stranger(
    change: Callable[[dict[str, Any]], None], tiny_teacher: Path, tmp_path: Path
) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    fixtures.metrics().write(folder.metrics)
    shutil.copyfile(tiny_teacher / "model.safetensors", folder.student / "model.safetensors")
    config = json.loads((tiny_teacher / "config.json").read_text(encoding="utf-8"))
    config["rrm"] = fixtures.network_config()["rrm"]
    change(config)
    (folder.student / "config.json").write_text(json.dumps(config), encoding="utf-8")
    student = load_student(folder.path)
    with pytest.raises(UserError):
        write_adapter(student, read_finished(folder.path), tmp_path / "Me.py")
    assert not (tmp_path / "Me.py").exists()


# A folder's own words are never code, whatever the folder is called.


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A folder whose configuration calls a module its architecture, and the module."""
    (tmp_path / "canary_code.py").write_text("raise SystemExit(77)\n", encoding="utf-8")
    folder = tmp_path / "evil"
    folder.mkdir()
    config = {"architecture": "canary_code:factory", "num_classes": 10}
    config["pretrained_cfg"] = {"mean": [0.5], "std": [0.5], "input_size": [3, 32, 32]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(cifar_state(), folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["evil", "local-dir:evil", "local_dir:evil", "LocalDir:evil", "model:v2"])
@pytest.mark.parametrize("command", ["inspect", "evaluate", "run", "bench"])
def test_a_folder_names_no_code(
    command: str, name: str, evil: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil.rename(evil.parent / "model:v2") if name == "model:v2" else None
    monkeypatch.syspath_prepend(evil.parent)  # as python -m does with the folder that it is started in
    options = ["--dataset", "fashion-mnist-mini", "--quiet"]
    ended = cli(command, *(["--teacher", name] if command in ("run", "bench") else [name]), *options)
    assert (ended.code, "canary_code" in sys.modules) == (2, False)
    near = "_" in name or "L" in name
    assert ("did you mean local-dir:evil?" if near else "Unknown architecture") in ended.err


def test_leave_for_one_name_is_none_for_another(recipe: Path, cli: Cli) -> None:
    recipe.write_text(
        recipe.read_text(encoding="utf-8").replace(
            "name: teacher.safetensors", "name: tests.support.tiny:trained"
        ),
        encoding="utf-8",
    )
    options = ["--set", "teacher.weights=teacher.safetensors", "--quiet"]
    # The same name as the recipe's: its other words stay, and leave is given to the name alone.
    ended = cli(
        "run", "--recipe", str(recipe), "--output", "out", "--teacher", "tests.support.tiny:trained", *options
    )
    assert (ended.code, INTRUDER in sys.modules) == (2, False)
    assert f"received: {INTRUDER}:factory" in ended.err


def test_a_path_or_an_absent_module_is_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_factory("tests.support.tiny:trained")
    (tmp_path / "tests:trained").mkdir()
    for text in ("tests:trained", "no_such_module:factory", "hf-hub:user", "tests.:x", "a..b:c"):
        assert not is_factory(text)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os; raise ValueError('mine')", "cannot be imported: ValueError: mine"),
        ("def factory(", "cannot be imported: SyntaxError"),
        ("def factory(size): ...", "fails: TypeError"),
        ("def factory(): raise KeyError('mine')", "fails: KeyError: 'mine'"),
        ("def factory(): ...", "makes no network but a NoneType"),
        ("factory = 3", "fails: TypeError"),
    ],
)
def test_a_factory_that_fails_is_named(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_own.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("users_own", None)
    name = "users_own:factory"
    with pytest.raises(UserError, match=words) as caught:
        build_model(Blueprint(name, own_code=True), allow_code=frozenset({name}))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "args",
    [
        {"act_layer": "os:abort"}, {"norm_layer": "no_such_norm"}, {"block": "canary"}, {"drop_rate": 1e400},
        {"pretrained_filter_fn": "os:abort"}, {"img_size": -3}, {"in_chans": True}, {"num_classes": -1},
        {"img_size": 1 << 40},
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_told(args: dict[str, Any], evil: Path) -> None:
    config = json.loads((evil / "config.json").read_text(encoding="utf-8"))
    config |= {"architecture": "resnet18", "model_args": args}
    (evil / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError):
        load_teacher(str(evil), channels=3, image_size=32)
