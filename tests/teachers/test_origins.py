"""What a folder's ``config.json`` says of its network, whoever wrote it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.students import load_student
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.origins import folder_origin


def _changed(teacher: Path, folder: Path, **changes: Any) -> Path:
    copied = Path(shutil.copytree(teacher, folder / "teacher"))
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config.setdefault(section, {}) if section else config)[name] = value
    (copied / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return copied


def test_names_of_classes_may_stand_by_their_indices(tiny_teacher: Path, tmp_path: Path) -> None:
    names = {str(number): name for number, name in enumerate("abcd")}
    folder = _changed(tiny_teacher, tmp_path, label_names=names)
    assert folder_origin(folder, name="t").class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    "changes",
    [
        {"pretrained_cfg__mean": [True]}, {"pretrained_cfg__mean": [1e30]}, {"pretrained_cfg__std": [1e-300]},
        {"pretrained_cfg__std": [0]}, {"pretrained_cfg__input_size": [1, -1, -1]}, {"num_classes": 10**30},
        {"label_names": {"a": 1}}, {"model_args__in_chans": True}, {"model_args__img_size": 10**9},
        {"model_args__act_layer": "nope"}, {"model_args__layers": [10**9]}, {"architecture": 3},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_network_can_be_is_told(changes: dict[str, Any], tiny_teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_teacher(str(_changed(tiny_teacher, tmp_path, **changes)), channels=1, image_size=32)
    assert len(str(caught.value)) < 3000


def test_a_student_is_no_larger_than_its_weights(tiny_teacher: Path, tmp_path: Path) -> None:
    folder = _changed(tiny_teacher, tmp_path, model_args__layers=[60, 60, 60, 60])
    with pytest.raises(UserError, match=r"more than .* parameters"):
        load_student(folder)
