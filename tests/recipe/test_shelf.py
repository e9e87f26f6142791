"""The recipes that come with the package: in a checkout, and from an installed wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from rrm_transfer.recipe.shelf import recipe_names

CHECKOUT = Path(__file__).resolve().parents[2]


def test_a_checkouts_recipes_are_those_in_its_folder() -> None:
    root = CHECKOUT / "recipes"
    files = {path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")}
    assert set(recipe_names()) == files >= {"quickstart", "fashion-mnist-teacher"}


def test_an_installed_wheel_brings_recipes_and_data_along(tmp_path: Path) -> None:
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(tmp_path),
            str(CHECKOUT),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert not [name for name in names if name.startswith(("tests/", "docs/", "recipes/"))]
    assert {f"rrm_transfer/recipe/library/{name}.yaml" for name in recipe_names()} <= set(names)
    for needed in ("data/embedded/train-images-idx3-ubyte.gz", "data/embedded/LICENSE.fashion-mnist"):
        assert f"rrm_transfer/{needed}" in names
    assert "rrm_transfer/teachers/zoo.yaml" in names
    assert "rrm_transfer/report/templates/card.md.jinja" in names

    program = (
        "import rrm_transfer, rrm_transfer.recipe.shelf as shelf;"
        "print(rrm_transfer.__file__); print(*shelf.recipe_names(), sep='\\n')"
    )
    listed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    file, *found = listed.stdout.splitlines()
    assert Path(file).is_relative_to(site)
    assert found == recipe_names()
