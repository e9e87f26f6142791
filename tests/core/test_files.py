"""What files may take the place of others."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import (
    is_partial,
    place_of,
    remove_files,
    remove_partial,
    replacing_file,
    replacing_files,
    replacing_folder,
    require_writable,
    write_text,
)


def _make(kind: str, path: Path) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(path.parent)  # the address is short
            listener.bind(path.name)
    else:
        path.symlink_to("nowhere" if kind == "a link that leads nowhere" else path.name)


@pytest.mark.parametrize(
    "kind", ["pipe", "folder", "socket", "a link that leads nowhere", "a link that leads to itself"]
)
def test_nothing_but_a_file_is_renamed_over(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "out"
    _make(kind, path)
    before = os.lstat(path)
    with pytest.raises(UserError, match=kind):
        write_text(path, "x")
    with pytest.raises(UserError, match=kind):
        require_writable(path, overwrite=True)
    assert os.lstat(path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_devices_are_told() -> None:
    for device in ("/dev/null", "/dev/zero"):
        with pytest.raises(UserError, match="a device"):
            place_of(Path(device))


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to("there")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text(encoding="utf-8") == "new"


def test_files_are_replaced_with_leave_or_when_they_are_ours(tmp_path: Path) -> None:
    mine, other, absent = (tmp_path / name for name in ("mine", "other", "absent"))
    mine.touch()
    other.touch()
    require_writable(absent)
    require_writable(mine, other, overwrite=True)
    require_writable(mine, absent, ours=lambda path: path == mine)
    with pytest.raises(UserError, match="Other files") as caught:
        require_writable(mine, absent, other)
    assert (str(caught.value.received), "--overwrite" in str(caught.value)) == (f"{mine}, {other}", True)


def test_a_folder_keeps_what_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    for names in (("config.json", "stock"), ("config.json", "marked")):
        with replacing_folder(folder, owned=("config.json", "stock", "marked")) as temporary:
            for name in names:
                (temporary / name).write_text(str(names), encoding="utf-8")
        (folder / "notes.txt").write_text("mine", encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "marked", "notes.txt"]
    assert (folder / "config.json").read_text(encoding="utf-8") == str(names)
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert list(tmp_path.iterdir()) == [folder]


def test_of_several_files_none_is_replaced_where_one_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old", encoding="utf-8")
    (tmp_path / "b").mkdir()

    def replace() -> None:
        with replacing_files(tmp_path) as temporary:
            for name in ("a", "b"):
                (temporary / name).write_text("new", encoding="utf-8")

    with pytest.raises(UserError, match="a folder"):
        replace()
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_is_half_written_has_a_name_of_its_own(tmp_path: Path) -> None:
    with replacing_file(tmp_path / "a.svg") as temporary:
        assert is_partial(temporary)
        assert temporary.suffix == ".svg"
    with replacing_folder(tmp_path / "b") as temporary:
        assert is_partial(temporary)
    for name in (".git", ".rrm-transfer.lock", ".rrm-transfer-x.partial", ".a.svg.x1y2z3a4.svg"):
        assert not is_partial(tmp_path / name)


def test_only_what_is_half_written_is_removed(tmp_path: Path) -> None:
    partial = ".rrm-transfer-0123456789abcdef.partial"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").touch()
    (tmp_path / f"{partial}.json").touch()
    (tmp_path / partial).symlink_to("home")
    (tmp_path / f"{partial}.d").mkdir()
    (tmp_path / f"{partial}.d" / "file").touch()
    (tmp_path / ".env").touch()
    remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".env", "home", "thesis"]


def test_folders_go_when_they_are_empty(tmp_path: Path) -> None:
    for name in ("a/b/file", "a/c/file", "a/c/other"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_files([tmp_path / "a/b/file", tmp_path / "a/c/file", tmp_path / "absent"], within=tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "a", "a/c", "a/c/other",
    ]  # fmt: skip
