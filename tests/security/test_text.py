"""Names that no file can hold are told before the first step, not when the card is written at the end."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rrm_transfer.core.documents import unwritable
from rrm_transfer.core.errors import RecipeError, UserError
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.recipe.loading import build_recipe, read_recipe
from rrm_transfer.report.card import write_card
from rrm_transfer.report.page import write_report
from rrm_transfer.runs.finished import read_finished
from tests.cli.conftest import Cli, cli
from tests.data.fixtures import encode
from tests.report import fixtures
from tests.support import tiny

__all__ = ["cli"]

LATIN = os.fsdecode(b"caf\xe9")


def test_strings_are_found_wherever_they_stand() -> None:
    document = {"a": ["x", {"b": "\ud800"}], "c\udcff": 1, "d": Path(LATIN), "e": "é", "f": None}
    assert dict(unwritable(document)) == {"a.1.b": "\ud800", "c\udcff": "c\udcff", "d": LATIN}
    assert dict(unwritable(document, paths=True)) == {"a.1.b": "\ud800"}


@pytest.mark.parametrize("key", ["description", "output", "data.name", "teacher.name"])
def test_a_lone_surrogate_in_a_recipe_is_a_problem_of_the_recipe(key: str) -> None:
    content = {"student": {"name": "test_resnet"}, "teacher": {"name": "t"}}
    with pytest.raises(RecipeError) as caught:
        build_recipe(content, [f'{key}="a\\uD800"'])
    assert [path for path, _ in caught.value.problems] == [key]
    assert r"\ud800" in str(caught.value)


def test_a_key_that_is_no_text_is_a_problem_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(r'{"student": {"name": "test_resnet"}, "\udab7\uddf2": 1}')
    with pytest.raises(RecipeError, match="is not text"):
        read_recipe(str(tmp_path / "r.yaml"))


@pytest.mark.parametrize("setting", [r'description="\uDCE9"', r'student.license="\uDCE9"'])
def test_what_the_card_could_not_hold_is_told_before_anything_is_written(
    setting: str, cli: Cli, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = [*tiny.recipe_options(tiny_teacher, tiny_data), "--output", "run", "--set", setting, "--quiet"]
    ended = cli("run", *options)
    assert ended.code == 2, ended.err
    assert f"recipe.{setting.partition('=')[0]}: \\udce9" in ended.err
    assert not (tmp_path / "run").exists()


def _images(folder: Path, classes: list[str], name: str = "0.png") -> Path:
    images, labels = tiny.quarters(64, 0)
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / classes[label] / (name if number < len(classes) else f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def test_a_class_that_the_card_could_not_name_is_told_before_anything_is_written(
    cli: Cli, tiny_teacher: Path, tmp_path: Path
) -> None:
    images, labels = tiny.quarters(64, 0)
    rows = [{"bytes": encode(pixels), "path": None} for pixels in images]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c", "CAFE"])}
    )
    schema = features.arrow_schema
    facts = {key: value.replace(b"CAFE", rb"caf\udce9") for key, value in schema.metadata.items()}
    table = pa.table({"image": rows, "label": labels.tolist()}, schema=schema.with_metadata(facts))
    pq.write_table(table, tmp_path / "data.parquet")
    ended = cli("run", *tiny.recipe_options(tiny_teacher, Path("data.parquet")), "--output", "run", "--quiet")
    assert ended.code == 2, ended.err
    assert r"classes.3: caf\udce9" in ended.err
    assert not (tmp_path / "run").exists()


def test_a_class_folder_whose_name_is_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"received: caf\\udce9/"):
        load_dataset_by_name(str(_images(tmp_path / "data", ["a", "b", "c", LATIN])))


def test_a_file_whose_name_is_no_text_is_told(tmp_path: Path) -> None:
    data = _images(tmp_path / LATIN, ["a", "b", "c", "d"])  # the folder's own may be any
    assert len(load_dataset_by_name(str(data)).train)
    _images(data, ["a", "b", "c", "d"], f"{LATIN}.png")
    with pytest.raises(UserError, match=r"a/caf\\udce9.png") as caught:
        load_dataset_by_name(str(data))
    assert "A file's name in the data" in caught.value.what


def test_an_evaluation_of_any_name_is_reported(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    fixtures.write_evaluation(folder, f"from-{LATIN}", fixtures.metrics())
    fixtures.metrics().write(folder.metrics)
    run = read_finished(folder.path)
    assert [*run.evaluations] == [r"from-caf\udce9"]
    write_card(run)
    write_report(run)
    for page in (folder.card, folder.report):
        assert "udce9" in page.read_text(encoding="utf-8")
