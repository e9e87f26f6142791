from __future__ import annotations

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
    ],
)
def test_local_paths_lose_their_folders(name: str, public: str) -> None:
    assert public_name(name) == public


@pytest.mark.parametrize(
    "name",
    ["fashion_mnist_linf", "hf-hub:user/name", "user/name@main", "resnet50.a1_in1k", "https://host/a/b", ""],
)
def test_other_names_stay(name: str) -> None:
    assert public_name(name) == name
