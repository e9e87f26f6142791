"""The face for Python: what is imported from one place, and that the same words are the same run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import rrm_transfer
from rrm_transfer import ThreatModel, api, build_student, load_student, load_teacher, pgd, read_recipe
from rrm_transfer.cli.app import main
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.recipe.schema import Recipe


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, dict[str, Any]]]:
    """What runs were asked for, none of which takes place."""
    found: list[tuple[Recipe, dict[str, Any]]] = []

    def run(recipe: Recipe, **options: Any) -> None:
        found.append((recipe, options))
        raise SystemExit

    monkeypatch.setattr(api, "_run", run)
    return found


def _python(program: str) -> str:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_importing_the_package_and_listing_it_imports_no_torch() -> None:
    heavy = "print(sorted({'torch', 'timm', 'pydantic', 'rrm_transfer.api'} & set(sys.modules)))"
    names = "assert {'transfer', 'pgd', 'Objective', '__version__'} <= set(dir(rrm_transfer))"
    assert _python(f"import sys, rrm_transfer; {names}; {heavy}") == "[]\n"


def test_help_tells_every_name() -> None:
    told = _python("import pydoc, rrm_transfer; print(pydoc.plain(pydoc.render_doc(rrm_transfer)))")
    for name in api.__all__:
        assert name in told, name
    assert "Trains a student to inherit a teacher's robustness" in told


def test_what_is_offered_is_what_type_checkers_see_and_what_the_api_has() -> None:
    tree = ast.parse(Path(rrm_transfer.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    checked = [name.name for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names]
    assert set(checked) == set(api.__all__) == {*rrm_transfer.__all__} - {"__version__"}
    for name in api.__all__:
        assert getattr(rrm_transfer, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="no attribute 'trnsfer'"):
        rrm_transfer.trnsfer  # noqa: B018


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("run", {}),
        ("run --student test_vit", {"student": "test_vit"}),
        (
            "run --teacher T --student resnet18 --dataset D --objective kd --set train.epochs=3 --output R",
            {
                "teacher": Path("T"),
                "student": "resnet18",
                "dataset": Path("D"),
                "objective": "kd",
                "epochs": 3,
                "output": "R",
            },
        ),
        (
            "run --set train.lr=0.05 --set threat.eps=4/255 --set train.clip_grad=null --set seed=1",
            {
                "settings": {
                    "train.lr": 0.05,
                    "threat.eps": "4/255",
                    "train.clip_grad": None,
                    "seed": 1,
                }
            },
        ),
        (
            "run --recipe fashion-mnist/balanced --student test_vit --set train.epochs=1",
            {"recipe": read_recipe("fashion-mnist/balanced"), "student": "test_vit", "epochs": 1},
        ),
        ("run --teacher tests.support.tiny:trained", {"teacher": "tests.support.tiny:trained"}),
        ("teach", {}),
        (
            "teach --student resnet18 --dataset D --objective trades --set train.lr=0.1",
            {
                "student": "resnet18",
                "dataset": "D",
                "objective": "trades",
                "settings": {"train.lr": 0.1},
            },
        ),
    ],
)
def test_the_same_words_ask_for_the_same_run(
    words: str,
    call: dict[str, Any],
    asked: list[tuple[Recipe, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = words.split()
    monkeypatch.setattr(sys, "argv", ["rrm-transfer", *command])
    with pytest.raises(SystemExit):
        main()
    with pytest.raises(SystemExit):
        (api.transfer if command[0] == "run" else api.teach)(**call)
    (of_line, line_options), (of_python, options) = asked
    assert of_python == of_line
    for option in ("allow_code", "is_teacher"):
        assert (options.get(option) or None) == (line_options.get(option) or None)


def test_a_recipe_alone_is_taken_as_it_is(asked: list[tuple[Recipe, dict[str, Any]]]) -> None:
    recipe = read_recipe("quickstart").changed(teacher=None, seed=3)
    for call in (api.transfer, api.teach):
        with pytest.raises(SystemExit):
            call(recipe)
    assert [given for given, _ in asked] == [recipe, recipe]
    with pytest.raises(SystemExit):  # a teacher where the recipe has none
        api.transfer(recipe, teacher="T")
    named = asked[-1][0]
    assert named.teacher is not None
    assert (named.teacher.name, named.seed) == ("T", 3)


def test_settings_win_and_are_not_written_into(asked: list[tuple[Recipe, dict[str, Any]]]) -> None:
    arguments = {"drop_rate": 0.1}
    with pytest.raises(SystemExit):
        api.transfer(
            epochs=2,
            settings={"train.epochs": 5, "student.args": arguments, "student.args.drop_path_rate": 0.2},
        )
    recipe, _ = asked[0]
    assert recipe.train.epochs == 5
    assert recipe.student.args == {"drop_rate": 0.1, "drop_path_rate": 0.2}
    assert arguments == {"drop_rate": 0.1}


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("--objective rmm", {"objective": "rmm"}),
        ("--set train.epoch=3 --set threat.eps=abc", {"settings": {"train.epoch": 3, "threat.eps": "abc"}}),
        ("--set seed.x=1", {"settings": {"seed.x": 1}}),
        ("--set .lr=1", {"settings": {".lr": 1}}),
        ("--student resnt18", {"student": "resnt18"}),
        ("--teacher nobody", {"teacher": "nobody"}),
        ("--set train.epochs=0", {"epochs": 0}),
    ],
)
def test_wrong_words_get_the_same_answer(
    words: str,
    call: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        api.transfer(**call)
    monkeypatch.setattr(sys, "argv", ["rrm-transfer", "run", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert str(raised.value) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_parts_for_a_loop_of_ones_own(tmp_path: Path) -> None:
    teacher = load_teacher("fashion_mnist_linf", channels=1, image_size=32)
    student = build_student(
        "test_vit", num_classes=10, channels=1, image_size=32, feature_width=teacher.width
    ).eval()
    x, y = torch.rand(4, 1, 32, 32), torch.arange(4)
    api.save_student(student, tmp_path / "student", sample=x)
    loaded = load_student(tmp_path / "student")
    torch.testing.assert_close(loaded(x), student(x).logits, rtol=1e-4, atol=1e-5)

    y = loaded(x).argmax(1)
    threat = ThreatModel("Linf", 8 / 255)
    found = pgd(loaded, x, y, threat=threat, steps=2)
    numbered = Randomness(seed=0, epoch=0, index=torch.arange(4))
    assert torch.equal(found, pgd(loaded, x, y, threat=threat, steps=2, randomness=numbered))
    assert 0 < (found - x).abs().max() <= 8 / 255 + 1e-6
