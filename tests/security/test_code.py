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
from tests.cli.conftest import Cli, cli
from tests.report.fixtures import network_config
from tests.runs.folders import write_run
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
    assert imports == {"__init__.py", "registry.py", "building.py"}


@pytest.fixture
def recipe(tmp_path: Path, tiny_data: Path) -> Path:
    save_file(cifar_state(), tmp_path / "teacher.safetensors")
    (tmp_path / "recipe.yaml").write_text(
        f"""
teacher: {{name: teacher.safetensors, arch: "{INTRUDER}:factory", normalisation: none}}
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
    options = ["--teacher-normalisation", "none", "--dataset", "fashion-mnist-mini", "--quiet"]
    sys.modules.pop(INTRUDER, None)
    named = [*options, "--teacher-arch", f"{INTRUDER}:factory"]
    ended = cli("evaluate", "model.safetensors", *named, "--attack", "none")
    assert "the intruder was called" in ended.err  # named on the command line it is called
    sys.modules.pop(INTRUDER, None)
    with pytest.raises(UserError, match="must be named on the command line"):
        rrm_transfer.api.evaluate(
            "model.safetensors",
            arch=f"{INTRUDER}:factory",
            normalisation="none",
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
    run = write_run(tmp_path / "run")
    folder = run.student
    shutil.copytree(tiny_teacher, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["rrm"] = network_config()["rrm"]
    change(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    student = load_student(folder)
    with pytest.raises(UserError):
        write_adapter(student, read_finished(run.path), tmp_path / "Me.py")
    assert not (tmp_path / "Me.py").exists()
