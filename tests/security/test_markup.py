"""Names that are markup: shown by the report and the card, never obeyed."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from rrm_transfer.recipe.loading import dump_recipe, read_recipe
from rrm_transfer.report.card import render_card
from rrm_transfer.report.page import render
from rrm_transfer.runs.finished import read_run
from rrm_transfer.runs.folder import RunFolder
from tests.report import fixtures

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "x\n---\nlicense: mit\n---\n# Trusted",
    "![x](https://tracker.example/a.png)",
    "</style><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "```\n<iframe src=//x.example>",
    "a: b\n- c\tI\u2028\u202e",
)


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def _run(path: Path, name: str) -> RunFolder:
    """Writes a run whose every name is ``name``, as a stranger's folder may hold."""
    folder = fixtures.write_run(path)
    recipe = read_recipe(str(folder.recipe))
    recipe = recipe.changed(
        description=name, data=recipe.data.changed(name=name), student=recipe.student.changed(license=name)
    )
    folder.recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    config = json.loads((folder.student / "config.json").read_text(encoding="utf-8"))
    config["label_names"] = [name] * len(fixtures.CLASS_NAMES)
    config["pretrained_cfg"]["license"] = name
    config["rrm"] |= {"dataset": name, "fit": name, "dataset_license": name}
    config["rrm"]["teacher"]["name"] = config["rrm"]["objective"]["name"] = name
    (folder.student / "config.json").write_text(json.dumps(config), encoding="utf-8")
    replace(fixtures.gallery(), class_names=(name,) * len(fixtures.CLASS_NAMES)).write(folder.gallery)
    checks = [{"name": name, "status": "pass", "figure": 0.0, "limit": 1.0}]
    file = "".join(character for character in name if character not in "/\n")
    fixtures.write_evaluation(folder, file[:60], fixtures.metrics(checks=checks))
    return folder


def test_the_report_shows_them(tmp_path: Path) -> None:
    record = read_run(_run(tmp_path / "run", " ".join(HOSTILE)), fixtures.metrics())
    elements = _Elements(render(record)).found
    plain = _Elements(render(read_run(_run(tmp_path / "plain", "plain"), fixtures.metrics()))).found
    assert [tag for tag, _ in elements] == [tag for tag, _ in plain]
    allowed = {key for _, attributes in plain for key in attributes}
    assert {key for _, attributes in elements for key in attributes} <= allowed
    assert not [key for key in allowed if key.startswith("on")]
    assert not any(tag in ("script", "iframe", "object", "embed", "form", "base") for tag, _ in elements)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_card_shows_it_and_its_metadata_stay_its_own(name: str, tmp_path: Path) -> None:
    cards = {
        kind: render_card(read_run(_run(tmp_path / kind, text), fixtures.metrics()), "user/name")
        for kind, text in (("hostile", name), ("plain", "plain"))
    }
    fronts, bodies = {}, {}
    for kind, text in cards.items():
        assert text.startswith("---\n")
        front, bodies[kind] = text[4:].split("\n---\n", 1)
        fronts[kind] = yaml.safe_load(front)
    hidden = {
        "license_name",
        "base_model",
        "teacher",
        "datasets",
    }  # there only where a name has the hub's form
    assert fronts["hostile"].keys() - hidden == fronts["plain"].keys() - hidden
    assert fronts["hostile"]["license"] == "other"
    assert [line[:1] for line in bodies["hostile"].splitlines()] == [
        line[:1] for line in bodies["plain"].splitlines()
    ]
    # What Markdown passes on as HTML, and pictures that would be fetched.
    text = "".join(bodies["hostile"].replace("\\`", "").split("`")[::2])
    assert not [tag for tag, _ in _Elements(text).found]
    assert "![" not in text
