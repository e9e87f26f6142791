"""The report as a browser shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image, ImageStat

from tests.report import fixtures
from tests.report.browser import CHROMIUM, measure, open_page, take_picture
from tests.report.test_page import SECTIONS, written

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fixtures.write_run(tmp_path_factory.mktemp("browser") / "run")
    fixtures.write_evaluation(
        folder, "a-rather-long-name-of-an-evaluation-of-test-images", fixtures.metrics()
    )
    fixtures.write_evaluation(folder, "corruptions", fixtures.corrupted("student"))
    for step, share in ((320, 0.5), (640, 0.75)):
        fixtures.write_event(
            folder, "selection", model="student", step=step, clean=share, robust=share / 2, count=500,
            eps=fixtures.EPS, norm="Linf",
        )  # fmt: skip
    written(folder, fixtures.metrics())
    return folder.report


def test_the_page_opens_without_a_word_on_the_console(report: Path) -> None:
    opened = open_page(report)
    assert opened.console == []
    assert set(re.findall(r'<section id="([\w-]+)"', opened.dom)) == SECTIONS | {"corruptions"}


def test_the_console_is_listened_to(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<script>console.error('a sign'); undefinedName()</script>")
    said = open_page(page).console
    assert len(said) == 2
    assert "a sign" in said[0]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, False), (1280, True)])
def test_the_page_fits_its_width_and_follows_light_and_dark(
    report: Path, tmp_path: Path, width: int, *, dark: bool
) -> None:
    needed, height = measure(report, width)
    assert needed <= width
    picture = take_picture(report, width, height, tmp_path / "report.png", dark=dark)
    assert picture.size == (width, height)
    assert (_brightness(picture) < 90) if dark else (_brightness(picture) > 200)
    colours = picture.getcolors(maxcolors=1 << 24)
    assert colours is not None
    assert len(colours) > 500


def _brightness(image: Image.Image) -> float:
    return float(ImageStat.Stat(image.convert("L")).mean[0])
