from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rrm_transfer import report
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.metrics import Metrics, MinimumRow, row
from rrm_transfer.report.page import write_report
from rrm_transfer.runs.finished import read_run
from rrm_transfer.runs.folder import RunFolder
from tests.report import fixtures

SECTIONS = {
    "verdict", "accuracy", "robustness", "checks", "gallery", "training", "cost", "provenance",
}  # fmt: skip
_BLOCKS = {"th", "td", "caption", "dt", "dd", "strong", "span", "p"}
_VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that elements are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: dict[str, str] = {}
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.header_cells: list[dict[str, str | None]] = []
        self.drawings: list[dict[str, str | None]] = []
        self._section: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.add(tag)
        if facts.get("id"):
            self.ids.append(str(facts["id"]))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "section":
            self._section = str(facts["id"])
            self.sections[self._section] = ""
        lists = {"img": self.images, "th": self.header_cells, "svg": self.drawings}
        if tag in lists:
            lists[tag].append(facts)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "section":
            self._section = None
        if tag in _BLOCKS:
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        if self._section is not None:
            self.sections[self._section] += data

    def words(self, section: str) -> str:
        return " ".join(self.sections[section].split())


def written(folder: RunFolder, metrics: Metrics) -> str:
    write_report(read_run(folder, metrics))
    return folder.report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = fixtures.write_run(tmp_path_factory.mktemp("page") / "run")
    return written(folder, fixtures.metrics())


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_section_is_there_and_elements_are_nested(page: Page) -> None:
    assert set(page.sections) == SECTIONS
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_the_verdict_is_computed_from_the_rows(page: Page) -> None:
    verdict = page.words("verdict")
    assert (
        "keeps 79 % (interval 76 % to 82 %) of the teacher’s robust accuracy at Linf 8/255 (pgd-20)"
        in verdict
    )
    assert (
        "is 51.0 points above the undefended control (interval +47.8 to +54.0), for 1.75 times the passes of "
        "plain training (28.0 in 16 epochs, the teacher’s own aside); 1 of 2 checks is suspicious." in verdict
    )
    assert "training cost 28.0 passes 1.75 × 16 epochs, plain training = 1" in verdict


def test_models_stand_side_by_side_with_counts_and_intervals(page: Page) -> None:
    words = page.words("accuracy")
    assert "Linf 8/255 pgd-20 81.8 % 818/1,000 79.3–84.1 13.5 % 135/1,000 11.5–15.8 64.5 %" in words


def test_checks_costs_and_provenance_are_shown(page: Page) -> None:
    checks = page.words("checks")
    assert "more steps accuracy lost when PGD takes twice the steps suspicious 0.034 0.02" in checks
    assert "square weaker share of images lost to Square but to no white-box attack not run – 0.02" in checks
    assert checks.index("more steps") < checks.index("deterministic") < checks.index("square weaker")
    costs = page.words("cost")
    assert "passes 60.0 3.00 × 20 epochs 8.0 1.00 × 8 epochs 28.0 1.75 × 16 epochs" in costs
    assert "time 8 min 0 s 36 s 1 min 22 s" in costs
    assert "machine not known 2 × cpu, 2 cores, 1 threads 1 × a GPU; load 2.5" in costs
    assert "per image" not in costs
    provenance = page.words("provenance")
    assert "sha256 " + "ab" * 32 in provenance
    assert "torch 2.15.0" in provenance
    assert "torchrun --nproc_per_node 2 -m rrm_transfer run --recipe recipe.yaml" in provenance
    assert "--teacher-arch" not in provenance
    assert "name: test_resnet" in provenance


def test_the_gallery_tells_what_the_attack_did(page: Page) -> None:
    words = page.words("gallery")
    assert "magnified 15 ×" in words
    assert [words.count(outcome) for outcome in ("holds", "fooled", "wrong before")] == [3, 2, 1]
    assert 'ankle boot fooled before ankle boot 91 % after a "quoted" & <b>bold</b> class 91 %' in words
    assert len(page.images) == 3 * 6
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.images)


def test_pictures_and_table_heads_are_described(page: Page) -> None:
    assert all(image["alt"] for image in page.images)
    assert all(cell.get("scope") in ("col", "row") for cell in page.header_cells)
    assert len(page.drawings) == 4
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.drawings)
    assert "student 75.2" in str(page.drawings[0]["aria-label"])


def test_what_users_write_is_text_and_not_markup(text: str, page: Page) -> None:
    assert "script" not in page.tags
    assert {"i", "b"}.isdisjoint(set(re.findall(r"<(\w+)>markup|<(\w+)>bold", text)))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<i>markup</i>" in page.words("provenance")


def test_the_page_needs_nothing_else_and_tells_no_local_folder(text: str) -> None:
    outside = [url for url in re.findall(r"https?://[^\s\"'<]+", text) if "www.w3.org" not in url]
    assert outside == []
    assert not re.search(r"@import|url\((?!#)", text)
    assert "alice" not in text
    assert "/home" not in text
    assert "default-src 'none'" in text


def test_the_same_folder_makes_the_same_page(tmp_path: Path, text: str) -> None:
    folder = fixtures.write_run(tmp_path / "elsewhere")
    assert written(folder, fixtures.metrics()) == text


def test_evaluations_extend_tables_curves_and_checks(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    weak = row(
        "student", "test", Proportion(730, 1000), attack="pgd", norm="Linf", eps=2 / 255, steps=20, restarts=1
    )
    strong = row("student", "test", Proportion(601, 1000), attack="autoattack", norm="Linf", eps=fixtures.EPS)
    checks = [{"name": "deterministic", "status": "suspicious", "figure": 0.5, "limit": 1e-4}]
    fixtures.write_evaluation(folder, "stronger", Metrics([weak, strong], data="00ff" * 16, checks=checks))
    (folder.evaluations / "half.state.json").write_text("{}")
    fixtures.metrics().write(folder.metrics)
    write_report(read_run(folder, fixtures.metrics()))
    page = Page(folder.report.read_text(encoding="utf-8"))
    words = page.words("accuracy")
    assert "Evaluation stronger , test images: student" in words
    assert "Linf 8/255 autoattack 60.1 % 57.0–63.1 601/1,000" in words
    assert "half" not in words
    assert "student 75.2\N{NO-BREAK SPACE}% at 0, 73.0\N{NO-BREAK SPACE}% at 2/255" in str(
        page.drawings[0]["aria-label"]
    )
    assert "2 of 2 checks are suspicious" in page.words("verdict")
    assert "this radius: 60.1 % under autoattack." in page.words("verdict")


def test_a_run_of_which_little_is_known_still_has_a_page(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    folder.gallery.unlink()
    folder.log_file.unlink()
    clean = [line for line in fixtures.rows("student") if line.attack == "none"]
    page = Page(written(folder, Metrics(clean)))
    assert set(page.sections) == SECTIONS
    assert "No attack was run, so nothing is known about robustness" in page.words("verdict")
    assert "No images were kept." in page.words("gallery")
    assert "No training was logged." in page.words("training")
    assert "Nothing is known of it." in page.words("cost")
    assert "No check was run." in page.words("checks")


def test_a_taught_teacher_is_its_own_subject(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run", taught=True)
    page = Page(written(folder, fixtures.metrics(checks=[], taught=True)))
    assert "The robust teacher classifies 64.5 % of 1,000 test images correctly" in page.words("verdict")
    assert "is 51.0 points above the undefended control" in page.words("verdict")
    assert "rrm_transfer teach --recipe recipe.yaml" in page.words("provenance")
    assert "passes 8.0 1.00 × 8 epochs 28.0 1.75 × 16 epochs" in page.words("cost")
    assert "teacher’s own" not in page.words("cost")
    assert "losses of the student" in page.words("training")
    assert "robust teacher test_resnet" in page.words("provenance")


def test_networks_that_timm_lacks_keep_their_names(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    path = folder.student / "config.json"
    config = json.loads(path.read_text())
    config["model_args"]["num_classes"] = config.pop("num_classes")
    config["rrm"] |= {"architecture": config["architecture"], "stem": "cifar"}
    config["architecture"] += " with a cifar stem: load it with another library"
    path.write_text(json.dumps(config))
    text = written(folder, fixtures.metrics())
    assert "<h1>test_resnet</h1>" in text
    assert "test_resnet, cifar stem, in_chans 1" in Page(text).words("provenance")
    assert "another library" not in text


def test_a_teacher_of_code_is_named_by_the_command(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    recipe = folder.recipe.read_text(encoding="utf-8").replace(
        "arch: null", "arch: tests.support.tiny:trained", 1
    )
    folder.recipe.write_text(recipe, encoding="utf-8")
    words = Page(written(folder, fixtures.metrics())).words("provenance")
    assert "run --recipe recipe.yaml --output again --teacher-arch tests.support.tiny:trained" in words


def test_corruptions_have_a_section_where_they_were_measured(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    fixtures.write_evaluation(folder, "weather", fixtures.corrupted("student"))
    fixtures.write_evaluation(folder, "control-weather", fixtures.corrupted("control"))
    page = Page(written(folder, fixtures.metrics()))
    assert set(page.sections) == SECTIONS | {"corruptions"}
    words = page.words("corruptions")
    assert "Evaluation weather : student , accuracy in %, on 100 test images each" in words
    assert "at severity 1 2 3 4 5 mean fog 80.0 70.0 60.0 50.0 40.0 60.0 jpeg compression 80.0" in words
    alt = "control from 80.0\xa0% to 40.0\xa0%; student from 80.0\xa0% to 40.0\xa0%."
    assert any(str(drawing["aria-label"]).endswith(alt) for drawing in page.drawings)


def test_smallest_perturbations_are_drawn_with_their_median(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    sizes: list[float | None] = [0.0] * 20 + [0.002 * n for n in range(1, 80)] + [None]
    found = MinimumRow.of(
        "student", "test", attack="minimum-norm", limit=ThreatModel("Linf", 1.0), steps=100, sizes=sizes
    )
    rows = [row("student", "test", Proportion(80, 100)), found.within(0.05), found.within(0.1)]
    fixtures.write_evaluation(folder, "far", Metrics(rows, data="ab" * 32, minima=[found]))
    page = Page(written(folder, fixtures.metrics()))
    words = page.words("robustness")
    assert "Student: Median of the smallest Linf perturbations found (minimum-norm-100): 0.061" in words
    assert "20 are wrong without any and count as 0, for 1 none was found up to 1." in words
    drawn = [drawing for drawing in page.drawings if "larger perturbation" in str(drawing["aria-label"])]
    assert len(drawn) == 1
    assert "Accuracy under minimum-norm" not in words  # once is enough


def test_the_control_keeps_its_name_and_its_checks_to_itself(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    checks = [{"name": "logit-scale", "status": "suspicious", "figure": 50.0, "limit": 40.0}]
    fallen = row("control", "test", Proportion(0, 1000), attack="autoattack", norm="Linf", eps=fixtures.EPS)
    fixtures.write_evaluation(folder, "control-aa", Metrics([fallen], data="00ff" * 16, checks=checks))
    page = Page(written(folder, fixtures.metrics()))
    assert "Evaluation control-aa , test images: control" in page.words("accuracy")
    assert "1 of 2 checks is suspicious" in page.words("verdict")
    assert "under autoattack" not in page.words("verdict")
    assert "logit scale" in page.words("checks")


def test_held_out_accuracies_are_drawn_where_they_were_logged(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    for step, clean, robust in ((320, 0.5, 0.25), (640, 0.75, 0.375), (640, 0.75, 0.5)):
        fixtures.write_event(
            folder, "selection", model="student", step=step, clean=clean, robust=robust, count=500,
            eps=fixtures.EPS, norm="Linf",
        )  # fmt: skip
    page = Page(written(folder, fixtures.metrics()))
    assert len(page.drawings) == 5
    assert "Accuracy of the student on 500 held-out training images" in page.sections["training"]
    labels = [str(drawing["aria-label"]) for drawing in page.drawings]
    expected = "steps: clean from 50.0\xa0% to 75.0\xa0%, Linf 8/255 from 25.0\xa0% to 50.0\xa0%."
    assert any(label.endswith(expected) for label in labels)


def test_a_step_that_was_logged_twice_counts_once(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    fixtures.write_event(folder, "resume", model="student", step=600)
    fixtures.write_event(folder, "step", model="student", step=640, losses={"ce": 0.125}, lr=0.0)
    with folder.log_file.open("a") as stream:
        stream.write('{"event": "st')
    page = Page(written(folder, fixtures.metrics()))
    assert any("ce from 1.917 to 0.125" in str(drawing["aria-label"]) for drawing in page.drawings)


def test_large_images_are_not_magnified(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    fixtures.gallery(side=128, count=2).write(folder.gallery)
    assert 'class="gallery"' in written(folder, fixtures.metrics())
    replace(fixtures.gallery(), class_names=None).write(folder.gallery)
    text = written(folder, fixtures.metrics())
    assert 'class="gallery magnified"' in text
    assert "class 2" in Page(text).words("gallery")


def test_matplotlib_is_imported_only_to_draw() -> None:
    modules = [
        path.name for path in Path(report.__file__).parent.glob("*.py") if "matplotlib" in path.read_text()
    ]
    assert sorted(modules) == ["charts.py", "comparison_plot.py"]
    code = "import sys, rrm_transfer.report.charts; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
