"""The fast slice of the survey, and whether its record and page are current."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import timm

from tools.architectures_page import PAGE, page
from tools.survey import RECORD, TOLERANCE, Reload, Row, Scan, examine, record, scan, stock_timm

ODD_HEADS: dict[str, tuple[str, int, dict[str, object]]] = {
    "average of 2: linear": ("deit_tiny_distilled_patch16_224", 32, {"depth": 1}),
    "2 branches: linear": ("crossvit_tiny_240", 240, {"depth": ((1, 1, 0),)}),
    "4 branches: linear": ("efficientvim_m1", 32, {"depths": (1, 1, 1)}),
    "average of 2: 4 branches: linear": ("efficientvim_m1_dist", 32, {"depths": (1, 1, 1)}),
    "MLP": ("caformer_s18", 32, {}),
    "norm, linear": ("shvit_s1", 32, {"depth": (1, 1, 1)}),
    "average of 2: norm, linear": ("levit_128s", 32, {"depth": (1, 1, 1)}),
    "1x1 convolution": ("dla46x_c", 32, {}),
}
"""Form of head to an architecture that has it, an image size, and arguments that make it small."""

MORE_HEADS: dict[str, tuple[int, dict[str, object]]] = {
    "volo_d1_224": (32, {}),
    "repvit_m1": (32, {"depth": (1, 1, 1, 1), "embed_dim": (16, 16, 32, 32)}),
    "sequencer2d_s": (32, {"layers": (1, 1, 1, 1), "embed_dims": (32, 64, 64, 64)}),
    "cpubone_nano": (32, {}),
    "coat_lite_tiny": (32, {}),
    "mambaout_femto": (32, {"depths": (1, 1, 1, 1)}),
    "inception_next_atto": (32, {"depths": (1, 1, 1, 1)}),
}


@pytest.fixture(scope="module")
def reload() -> Iterator[Reload]:
    with stock_timm() as function:
        yield function


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_a_tiny_network_survives_training_folding_and_stock_timm(name: str, reload: Reload) -> None:
    row = examine(name, reload, image_size=32)
    assert row.failure is None
    assert row.reload_error is not None
    assert row.reload_error <= TOLERANCE


@pytest.mark.parametrize(("form", "case"), ODD_HEADS.items(), ids=str)
def test_every_odd_form_of_head_folds(
    form: str, case: tuple[str, int, dict[str, object]], reload: Reload
) -> None:
    name, image_size, args = case
    row = examine(name, reload, image_size=image_size, args=args)
    assert row.failure is None
    assert row.form == form


@pytest.mark.parametrize(("name", "case"), MORE_HEADS.items(), ids=str)
def test_an_odd_head_folds(name: str, case: tuple[int, dict[str, object]], reload: Reload) -> None:
    assert examine(name, reload, image_size=case[0], args=case[1]).failure is None


def test_the_forms_are_told_apart_and_encoders_are_none() -> None:
    assert scan("test_resnet").form == "linear"
    encoder = scan("qwen3_vit_88m_enc")
    assert encoder.form is None
    assert encoder.failure is None


def test_the_record_covers_every_module() -> None:
    survey = json.loads(RECORD.read_text(encoding="utf-8"))
    assert survey["timm"] == timm.__version__, "run python -m tools.survey"
    names = set(timm.list_models())
    rows = survey["representatives"]
    assert {row["module"] for row in rows} == set(timm.list_modules())
    others = {*survey["encoders"], *survey["unknown"]}
    assert {row["name"] for row in rows} | others <= names
    assert sum(row["stands_for"] for row in rows) + len(others) == len(names)


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tools.architectures_page"


def test_the_record_is_what_was_found() -> None:
    scans = [Scan(name, "vit", 9, "s", "linear") for name in ("test_vit", "other")]
    row = Row("test_vit", form="linear", sizes={"32": "patch_size=4 → 64"})
    survey = json.loads(record([*scans, Scan("enc", "vit", 1, "", None)], [row]))
    assert survey["encoders"] == ["enc"]
    (found,) = survey["representatives"]
    assert found == {**asdict(row), "module": "vit", "stands_for": 2}
