"""A comparison in each of its forms, and its plot."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.evaluation.metrics import row
from rrm_transfer.report.comparison import compare
from rrm_transfer.report.comparison_plot import Point, draw, front
from rrm_transfer.report.comparison_text import as_csv, as_markdown, comparison_document
from tests.runs.folders import EPS, figures, write_evaluation, write_grid, write_run


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return write_grid(tmp_path / "grid")


def test_csv_and_json_hold_the_same_figures(grid: Path) -> None:
    comparison = compare([grid])
    document = json.loads(json.dumps(comparison_document(comparison)))
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert len(rows) == len(document["lines"]) == 7
    for written, line in zip(rows, document["lines"], strict=True):
        assert (written["method"], written["student"]) == (line["method"], line["student"])
        assert float(written["Linf 8/255 pgd-20"]) == line["figures"][1]["accuracy"]
        sd = line["figures"][1]["sd"]
        assert written["Linf 8/255 pgd-20 sd"] == ("" if sd is None else str(sd))
        assert (written["clean low"] == "") == (len(line["runs"]) > 1)
    (resnet,) = [
        line for line in document["lines"] if (line["method"], line["student"]) == ("rrm", "test_vit")
    ]
    assert resnet["figures"][1]["counts"] == [[400, 1000], [410, 1000]]
    assert resnet["passes"] == {"mean": 9, "sd": 0}
    assert resnet["teacher_passes"] is None
    assert resnet["runs"][0]["machine"] == "1 × cpu, 2 cores, 1 threads"
    assert resnet["figures"][1]["to_best"]["paired"] is True
    assert [run["seed"] for run in resnet["runs"]] == [0, 1]


def test_markdown_is_one_table(grid: Path) -> None:
    lines = as_markdown(compare([grid])).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 7
    assert {line.count("|") for line in table} == {table[0].count("|")}
    assert table[5].startswith("| rrm 2 seeds: 0, 1 | test_resnet | 80.0% ± 0.0 to best +0.0 [")
    assert "| 40.5% ± 0.7 to best −11.5 [−13.5, −9.5] |" in table[5]
    assert table[5].endswith("| 9.0 (1.50 × 6 epochs) | 1 min 10 s | not known |")
    assert table[2].endswith("| 18.0 (3.00 × 6 epochs) | 8 min 0 s | – |")
    assert lines[-1].startswith("Accuracy on 1,000 test images")
    assert lines[-1].endswith("; trained on 1 × cpu, 2 cores, 1 threads.")


def test_a_comparison_shows_no_ratio_of_seconds(grid: Path) -> None:
    comparison = compare([grid])
    text = as_csv(comparison) + as_markdown(comparison) + json.dumps(comparison_document(comparison))
    assert "ratio_to" not in text
    assert "× plain" not in text
    assert "1.17" not in text  # 70 s of rrm by 60 s of plain training


def test_without_passes_the_plot_has_seconds(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", passes=None)
    write_run(tmp_path / "runs" / "b", "kd")
    draw(compare([tmp_path / "runs"]), tmp_path / "plot.svg")
    text = "".join(ET.parse(tmp_path / "plot.svg").getroot().itertext())
    assert "training time in seconds" in text


def test_the_front_holds_what_nothing_beats(grid: Path) -> None:
    line = compare([grid]).lines[0]
    points = [
        Point(line, cost, figures("student", 900, robust)[1])
        for cost, robust in ((1, 10), (2, 500), (2, 400), (3, 450), (4, 600), (5, 600))
    ]
    assert [(point.cost, point.row.correct) for point in front(points)] == [(1, 10), (2, 500), (4, 600)]


def test_the_plot_is_written_as_png_and_svg(grid: Path, tmp_path: Path) -> None:
    for name in ("plot.png", "plot.svg"):
        draw(compare([grid]), tmp_path / name)
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
    text = "".join(ET.parse(tmp_path / "plot.svg").getroot().itertext())
    for words in (
        "Pareto front",
        "kd, test_vit",
        "rrm",
        "natural",
        "epochs of plain training of the same student",
    ):
        assert words in text
    before = (tmp_path / "plot.svg").read_bytes()
    draw(compare([grid]), tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_bytes() == before


def test_the_plot_is_black_and_white(grid: Path, tmp_path: Path) -> None:
    draw(compare([grid]), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
    assert (pixels.max(-1) - pixels.min(-1)).max() <= 1


def test_nothing_to_plot_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", passes=None)
    folder.metrics.write_text(folder.metrics.read_text().replace('"train_seconds"', '"other"'))
    with pytest.raises(UserError, match="Nothing to plot"):
        draw(compare([folder.path]), tmp_path / "plot.png")


def test_a_figure_of_some_seeds_says_so(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        folder = write_run(tmp_path / str(seed), seed=seed)
    attack = {"attack": "autoattack", "norm": "Linf", "eps": EPS}
    write_evaluation(folder, "aa", [row("student", "test", Proportion(400, 1000), **attack)])  # type: ignore[arg-type]
    comparison = compare([tmp_path])
    assert "40.0% [37.0%, 43.1%] (1 of 3)" in as_markdown(comparison)
    (line,) = csv.DictReader(io.StringIO(as_csv(comparison)))
    assert (line["Linf 8/255 autoattack runs"], line["Linf 8/255 pgd-20 runs"]) == ("1", "3")
