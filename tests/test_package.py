"""The package as an index gets it: metadata, declared imports, and a source distribution that is whole."""

from __future__ import annotations

import ast
import email
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from email.message import Message
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rrm_transfer import __version__
from tests.documentation.pages import ROOT
from tools.package_metadata import absolute_links

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TABLE = PROJECT["project"]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "rrm_transfer").rglob("*.py")}
PROVIDERS = packages_distributions()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


@pytest.fixture(scope="module")
def metadata(built: Path) -> Message:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def _libraries(nodes: Iterable[ast.AST]) -> set[str]:
    """Returns the distributions whose modules the nodes import."""
    modules = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])
    modules -= {"rrm_transfer", *sys.stdlib_module_names}
    return {canonicalize_name(name) for module in modules for name in PROVIDERS[module]}


def _declared(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


NEEDED = _declared(TABLE["dependencies"])
OPTIONAL = _declared(chain.from_iterable(TABLE["optional-dependencies"].values()))


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    imported = _libraries(node for tree in TREES.values() for node in ast.walk(tree))
    assert imported - OPTIONAL == NEEDED - {"torchvision"}  # timm imports it, a run records its version
    assert {"torch", "timm", "pyyaml", "pillow"} <= imported


def test_an_optional_library_is_imported_within_functions_only() -> None:
    assert {path: found for path, tree in TREES.items() if (found := _libraries(tree.body) & OPTIONAL)} == {}


def test_the_version_is_one(metadata: Message) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert metadata["Version"] == __version__ == citation["version"]
    assert "version" in TABLE["dynamic"]


def test_the_author_and_the_license_are_those_of_the_citation(metadata: Message) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert metadata["Author"] == citation["authors"][0]["name"]
    assert metadata["License-Expression"] == citation["license"]


def test_the_project_has_its_addresses(metadata: Message) -> None:
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    assert set(urls) == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert urls["Changelog"].startswith(urls["Homepage"])
    home = urls["Homepage"].removeprefix("https://")
    holding = [path for path in _tracked() if home.encode() in path.read_bytes()]
    assert holding == [ROOT / "pyproject.toml"], "the repository's address stands in one place"


def test_an_index_can_follow_every_link_of_the_readme(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert isinstance(text, str)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 20
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\((?!\w+:|#)([^)\s#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_links_become_absolute() -> None:
    page = "[a](docs/a.md#b) ![p](docs/p.svg) [![badge](docs/b.png)](docs/c.md) [w](https://w.org) [h](#h)"
    assert absolute_links(page, "https://host/o/r") == (
        "[a](https://host/o/r/blob/main/docs/a.md#b) ![p](https://host/o/r/raw/main/docs/p.svg) "
        "[![badge](https://host/o/r/raw/main/docs/b.png)](https://host/o/r/blob/main/docs/c.md) "
        "[w](https://w.org) [h](#h)"
    )


def _tracked() -> list[Path]:
    """Returns the files of the repository; the test is skipped where there is none, as in an sdist."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0 or not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_source_distribution_holds_the_whole_repository(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {path.relative_to(ROOT).as_posix() for path in _tracked()} <= held
