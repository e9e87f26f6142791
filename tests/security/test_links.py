"""Links in a run folder that lead out of it: nothing behind them is read, written, sent or removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rrm_transfer import api
from rrm_transfer.core.errors import UserError
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.runs.folder import RunFolder
from tests.report import fixtures

PLACES = (
    "checkpoints",
    ".rrm-transfer.lock",
    "log.jsonl",
    "student/model.safetensors",
    "evaluations",
    "gallery.safetensors",
)


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of the user's, with hidden files."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in (".bashrc", "model.safetensors", "thesis.tex"):
        (folder / name).write_text("mine", encoding="utf-8")
    return folder


def _strangers_run(path: Path, place: str, precious: Path) -> RunFolder:
    folder = fixtures.write_run(path)
    fixtures.metrics().write(folder.metrics)
    link = path / place
    link.unlink(missing_ok=True)
    link.parent.mkdir(exist_ok=True)
    to_folder = place in ("checkpoints", "evaluations")
    link.symlink_to(
        precious if to_folder else precious / ("model.safetensors" if "student" in place else ".bashrc")
    )
    return folder


def _resume(run: Path) -> object:
    return api.transfer(_recipe(run), resume=True)


def _overwrite(run: Path) -> object:
    return api.transfer(_recipe(run), overwrite=True)


def _recipe(run: Path) -> api.Recipe:
    return read_recipe(str(run / "recipe.yaml")).changed(output=run)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "use",
    [
        _resume,
        _overwrite,
        lambda run: api.push(run, "user/name", dry_run=True),
        lambda run: api.export(run, run.parent / "out.onnx", form="onnx"),
        lambda run: api.evaluate(str(run), attacks=("none",)),
    ],
)
def test_a_link_out_of_a_run_folder_is_refused(
    use: Callable[[Path], object], place: str, precious: Path, tmp_path: Path
) -> None:
    folder = _strangers_run(tmp_path / "run", place, precious)
    before = {path: path.read_bytes() for path in precious.iterdir()}
    with pytest.raises(UserError, match="leads out of it") as caught:
        use(folder.path)
    assert place in str(caught.value)
    assert {path: path.read_bytes() for path in precious.iterdir()} == before
    assert not (tmp_path / "out.onnx").exists()


def test_links_within_a_run_folder_and_to_it_are_fine(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    (folder.path / "student" / "again.json").symlink_to("config.json")
    (tmp_path / "latest").symlink_to(folder.path)
    (folder.path / "loop").symlink_to(folder.path)
    RunFolder(tmp_path / "latest").refuse_links()


def test_a_link_that_leads_to_itself_is_no_accident(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    (folder.path / "self").symlink_to("self")
    folder.refuse_links()
