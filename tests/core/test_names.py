from __future__ import annotations

from pathlib import Path

import pytest

from rrm_transfer.core.names import public_name


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("/home/alice/runs/teacher", "teacher"),
        ("/home/alice/runs/teacher/", "teacher"),
        ("~/runs/teacher", "teacher"),
        ("~alice/teacher", "teacher"),
        ("./teacher.pth", "teacher.pth"),
        ("../teacher.pth", "teacher.pth"),
        ("local-dir:/home/alice/teacher", "teacher"),
        ("local-dir:runs/alice/teacher", "teacher"),
        ("local-dir:teacher", "teacher"),
        ("file:///home/alice/teacher", "teacher"),
        (r"C:\Users\alice\teacher", "teacher"),
        ("data/alice/secret", "secret"),
    ],
)
def test_local_paths_lose_their_folders(name: str, public: str) -> None:
    assert public_name(name) == public


@pytest.mark.parametrize(
    "name",
    [
        "fashion_mnist_linf",
        "hf-hub:user/name",
        "user/name@main",
        "resnet50.a1_in1k",
        "https://host/a/b",
        "",
        ".5/.25",
        "at 8/255, 4/255 and 2/255",
    ],
)
def test_other_names_stay(name: str) -> None:
    assert public_name(name) == name


def test_a_relative_path_that_is_here_loses_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert public_name("runs/teacher") == "runs/teacher"  # a name of a hub
    (tmp_path / "runs" / "teacher").mkdir(parents=True)
    assert public_name("runs/teacher") == "teacher"
