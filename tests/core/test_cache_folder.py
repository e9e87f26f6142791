"""Where the cache is."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest
from platformdirs.api import PlatformDirsABC
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from rrm_transfer.core.files import cache_folder


def test_a_named_folder_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RRM_TRANSFER_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"


@pytest.mark.parametrize(
    ("system", "ending"),
    [(Unix, "cache/rrm-transfer"), (MacOS, "Library/Caches/rrm-transfer")],
)
def test_else_it_is_the_systems(
    system: type[PlatformDirsABC], ending: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RRM_TRANSFER_CACHE")
    if system is Unix:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(platformdirs, "PlatformDirs", system)
    assert cache_folder().as_posix().endswith(ending)
