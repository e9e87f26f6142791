"""From a run folder to a model hub and back, against a hub on the loopback interface."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml
from huggingface_hub import close_session, constants
from huggingface_hub.utils import _http
from safetensors.torch import load, load_file, save_file

from rrm_transfer import api, load_student
from rrm_transfer.core.errors import UserError
from rrm_transfer.recipe.loading import read_recipe
from tests.cli.conftest import Cli, cli
from tests.report.fixtures import metadata
from tests.support import hub_server, tiny
from tests.support.command import command
from tests.support.hub_server import TOKEN, Fault, Hub

__all__ = ["cli"]

FILES = ["README.md", "config.json", "model.safetensors", "recipe.yaml", "report.html"]
REPO = "user/robust.net-1"

RELOAD = """
import sys
try:
    import rrm_transfer.api
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("rrm_transfer is there")
import timm, torch
pixels = torch.load("x.pt", weights_only=True)
text = open("README.md").read()
lines = text.partition("```python\\n")[2].partition("```")[0]
assert lines.count("\\n") == 3, lines
with torch.no_grad():
    exec(lines)
torch.save(logits, "logits.pt")
"""


TRANSFORMERS = """
import sys, torch
import torchvision.transforms.functional as tf
from transformers import AutoModelForImageClassification
saved = torch.load("x.pt", weights_only=True)
model = AutoModelForImageClassification.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    logits = model(pixel_values=tf.normalize(saved["x"], saved["mean"], saved["std"])).logits
torch.save(logits, "logits.pt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_data: Path) -> Path:
    """A finished run, with things in its folder that must not leave this machine."""
    place = tmp_path_factory.mktemp("pushed")
    options = [
        *tiny.recipe_options(tiny_teacher, tiny_data, epochs=1),
        "--no-control",
        *("--set", "student.license=mit"),
        *("--set", "data.held_out=0.25"),
    ]
    ended = command("run", *options, "--output", "run", "--quiet", folder=place)
    assert ended.code == 0, ended.err
    run = place / "run"
    (run / "student" / "pytorch_model.bin").write_bytes(b"pickle")
    (run / "notes.txt").write_text("private", encoding="utf-8")
    best = run / "student-best/model.safetensors"
    save_file({key: 2 * tensor for key, tensor in load_file(best).items()}, best)  # others than the last ones
    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that this process talks to, without waiting between attempts."""
    with hub_server.serving() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None))
        close_session()
        yield hub
        close_session()


def test_a_dry_run_tells_the_files_and_asks_nobody(folder: Path, cli: Cli) -> None:
    ended = cli("push", str(folder), "--repo", REPO, "--dry-run", "--json")
    assert ended.code == 0, ended.err
    assert ended.document == {"repo": REPO, "files": FILES}
    assert "not pushed" in cli("push", str(folder), "--repo", REPO, "--dry-run").out


def test_a_push_sends_the_stock_folder_card_report_and_recipe(folder: Path, hub: Hub, cli: Cli) -> None:
    ended = cli("push", str(folder), "--repo", REPO, "--private", "--json")
    assert ended.code == 0, ended.err
    assert ended.document == {"repo": REPO, "files": FILES, "url": f"{hub.address}/{REPO}"}
    repository = hub.repositories[REPO]
    assert repository.private
    assert repository.commits == 1
    assert sorted(repository.files) == FILES
    assert repository.files["model.safetensors"] == (folder / "student/model.safetensors").read_bytes()
    assert load(repository.files["model.safetensors"])
    assert TOKEN not in ended.out + ended.err


def test_nothing_that_is_pushed_names_this_machine(
    folder: Path, hub: Hub, tiny_teacher: Path, tiny_data: Path
) -> None:
    api.push(folder, REPO)
    private = [str(Path.home()), str(Path.cwd()), TOKEN, str(folder.parent)]
    private += [str(tiny_teacher.parent), str(tiny_data.parent), f"/{getpass.getuser()}/"]
    for name, content in hub.repositories[REPO].files.items():
        for secret in private:
            assert secret.encode() not in content, (name, secret)
    pushed = hub.repositories[REPO].files["recipe.yaml"].decode()
    assert str(tiny_data) in (folder / "recipe.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(pushed)["teacher"]["name"] == tiny_teacher.name
    assert "output" not in yaml.safe_load(pushed)


def test_the_pushed_recipe_is_one(folder: Path, hub: Hub, tmp_path: Path) -> None:
    api.push(folder, REPO)
    path = tmp_path / "recipe.yaml"
    path.write_bytes(hub.repositories[REPO].files["recipe.yaml"])
    assert read_recipe(str(path)).train == read_recipe(str(folder / "recipe.yaml")).train


def test_the_card_is_read_by_the_hubs_own_classes(folder: Path, hub: Hub) -> None:
    api.push(folder, REPO)
    text = hub.repositories[REPO].files["README.md"].decode()
    data = metadata(text)
    assert data["library_name"] == "timm"
    assert data["pipeline_tag"] == "image-classification"
    assert data["license"] == "mit"
    assert data["teacher"] == "tiny-teacher"
    assert "base_model" not in data  # it started from random weights
    assert data["datasets"] == ["quarters"]
    (result,) = data["model-index"][0]["results"]
    clean, robust = (metric["args"] for metric in result["metrics"])
    assert clean == {"attack": "none"} | _counts(folder, 0)
    attack = {"attack": "pgd", "norm": "Linf", "eps": 8 / 255, "steps": 2, "restarts": 1}
    assert robust == attack | _counts(folder, 1)
    assert f'timm.create_model("hf-hub:{REPO}", pretrained=True)' in text


def test_the_best_weights_are_pushed_under_their_own_name_and_figures(
    folder: Path, hub: Hub, cli: Cli
) -> None:
    ended = cli("push", str(folder / "student-best"), "--repo", REPO)
    assert ended.code == 0, ended.err
    files = hub.repositories[REPO].files
    assert sorted(files) == FILES
    assert files["model.safetensors"] == (folder / "student-best/model.safetensors").read_bytes()
    assert json.loads(files["config.json"])["rrm"]["model"] == "student-best"
    card, report = files["README.md"].decode(), files["report.html"].decode()
    assert "They are `student-best` in the tables below: the best by 16 training images" in card
    (result,) = metadata(card)["model-index"][0]["results"]
    clean, _ = (metric["args"] for metric in result["metrics"])
    assert clean == {"attack": "none"} | _counts(folder, 0, "student-best")
    assert "no check for misleading figures was run" in card  # the run's own are of the last weights
    assert "the best under pgd-10 on 16 held-out images" in report
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        pushed, last = load_student(f"hf-hub:{REPO}")(x), load_student(folder)(x)
        torch.testing.assert_close(pushed, load_student(folder / "student-best")(x))
    assert not torch.allclose(pushed, last)


def _counts(folder: Path, number: int, model: str = "student") -> dict[str, float]:
    rows = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["rows"]
    row = [row for row in rows if row["model"] == model][number]
    return {key: row[key] for key in ("count", "low", "high")}


def test_stock_timm_loads_what_was_pushed_by_the_three_lines_of_its_card(
    folder: Path, hub: Hub, tmp_path: Path
) -> None:
    api.push(folder, REPO)
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save(x, tmp_path / "x.pt")
    (tmp_path / "README.md").write_bytes(hub.repositories[REPO].files["README.md"])
    packages = sorted({str(Path(module.__file__ or "").parents[1]) for module in (torch, timm)})
    program = f"import sys; sys.path += {packages!r}\n{RELOAD}"
    # -I leaves out PYTHONPATH and user packages, -S the .pth files of an editable installation.
    fresh = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        cwd=tmp_path,
        env={"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert fresh.returncode == 0, fresh.stderr
    with torch.no_grad():
        expected = load_student(folder)(x)
        torch.testing.assert_close(load_student(f"hf-hub:{REPO}")(x), expected)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt", weights_only=True), expected)


def test_transformers_loads_what_was_pushed(folder: Path, hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    api.push(folder, REPO)
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    config = json.loads((folder / "student/config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    torch.save({"x": x, "mean": config["mean"], "std": config["std"]}, tmp_path / "x.pt")
    fresh = subprocess.run(
        [sys.executable, "-c", TRANSFORMERS, REPO],
        cwd=tmp_path,
        env={
            **os.environ,
            "HF_ENDPOINT": hub.address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert fresh.returncode == 0, fresh.stderr
    with torch.no_grad():
        expected = load_student(folder)(x)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt", weights_only=True), expected)


def test_a_student_with_another_stem_is_loaded_from_the_hub(
    hub: Hub, cli: Cli, tmp_path: Path, tiny_teacher: Path, tiny_data: Path
) -> None:
    options = tiny.recipe_options(tiny_teacher, tiny_data, student="resnet10t", epochs=1)
    options += ["--set", "student.args={stem: cifar}", "--set", "train.precision=float32", "--no-control"]
    options += ["--set", "evaluate.steps=1", "--skip-teacher-check"]
    ended = cli("run", *options, "--output", "run", "--quiet", "--push", REPO, "--private")
    assert ended.code == 0, ended.err
    assert hub.repositories[REPO].private
    hub.repositories[REPO].private = False  # this hub shows nobody the files of a private one
    assert f"pushed to: {hub.address}/{REPO}" in ended.out
    card = hub.repositories[REPO].files["README.md"].decode()
    assert f'rrm_transfer.load_student("hf-hub:{REPO}")' in card
    assert "timm.create_model" not in card
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load_student(f"hf-hub:{REPO}")(x), load_student(tmp_path / "run")(x))


@pytest.mark.parametrize("request_", ["PUT /lfs", "POST .*/preupload", "POST .*/commit"])
def test_a_push_that_broke_off_is_repeated(folder: Path, hub: Hub, cli: Cli, request_: str) -> None:
    hub.fail(Fault(request_, times=6))
    ended = cli("push", str(folder), "--repo", REPO)
    if request_ == "POST .*/commit":  # the client does not repeat it by itself
        hub.faults.clear()
    assert ended.code == 2
    assert ended.err.count("error:") == 1
    assert "broke off" in ended.err
    assert "the same command again" in ended.err
    assert hub.repositories[REPO].files == {}
    assert cli("push", str(folder), "--repo", REPO).code == 0
    assert sorted(hub.repositories[REPO].files) == FILES


def test_a_repeated_push_sends_no_weights_and_makes_no_empty_commit(folder: Path, hub: Hub) -> None:
    api.push(folder, REPO)
    sent = len(hub.asked("PUT /lfs"))
    assert sent == 1
    api.push(folder, REPO)
    assert len(hub.asked("PUT /lfs")) == sent
    assert hub.repositories[REPO].commits == 1


def test_a_pull_request_needs_no_write_access(folder: Path, hub: Hub, cli: Cli) -> None:
    hub.repositories["other/model"] = hub_server.Repository()
    ended = cli("push", str(folder), "--repo", "other/model", "--create-pr", "--json")
    assert ended.code == 0, ended.err
    assert ended.document["url"].endswith("/other/model/discussions/1")
    assert hub.repositories["other/model"].files == {}
    assert sorted(hub.repositories["other/model"].proposed[0]) == FILES
    missing = cli("push", str(folder), "--repo", "other/missing", "--create-pr")
    assert missing.code == 2
    assert "no such repository" in missing.err


@pytest.mark.parametrize(
    ("pattern", "status", "words"),
    [
        ("whoami", 401, "does not accept the token"),
        ("repos/create", 403, "may not do this"),
        ("auth-check/write", 403, "may not do this"),
        ("auth-check/write", 404, "no such repository"),
        ("validate-yaml", 400, "does not accept this"),
        ("/commit/", 409, "changed meanwhile"),
        ("/commit/", 429, "fewer requests"),
        ("/commit/", 500, "hub failed"),
        ("PUT /lfs", 500, "hub failed"),
        ("PUT /lfs", 403, "may not do this"),
    ],
)
def test_what_the_hub_refuses_is_one_message(
    pattern: str, status: int, words: str, folder: Path, hub: Hub, cli: Cli
) -> None:
    hub.fail(Fault(pattern, status))
    ended = cli("push", str(folder), "--repo", REPO, "--json")
    assert ended.code == 2
    assert ended.out == ""
    message = ended.err[ended.err.index("error:") :]
    assert words in message
    assert str(status) in message
    assert len(message.splitlines()) <= 4
    assert TOKEN not in ended.err


def test_an_existing_repository_of_others_is_not_written_to(folder: Path, hub: Hub) -> None:
    hub.repositories["other/model"] = hub_server.Repository()
    with pytest.raises(UserError, match="may not do this"):
        api.push(folder, "other/model")
    assert not hub.asked("preupload")


def test_without_a_token_or_a_hub_nothing_is_tried(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be reached"):
        api.push(folder, REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="no token"):
        api.push(folder, REPO)
    assert hub.requests == []


def test_a_hub_that_does_not_answer_in_time_is_one_message(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fail(Fault("/commit/", 500, delay=1.0))
    client = _http.get_session()
    monkeypatch.setattr(client, "timeout", 0.3)
    with pytest.raises(UserError, match="broke off"):
        api.push(folder, REPO)


@pytest.mark.parametrize(
    "name", ["name", "user/", "/name", "a/b/c", "user/na me", "user/--x..y", "hf-hub:user/name"]
)
def test_a_repository_is_named_user_and_name(name: str, folder: Path, cli: Cli) -> None:
    ended = cli("push", str(folder), "--repo", name, "--dry-run")
    assert ended.code == 2
    assert "allowed:  user/name" in ended.err


def test_only_a_finished_run_is_pushed(folder: Path, cli: Cli, tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", folder / "student"):
        ended = cli("push", str(place), "--repo", REPO, "--dry-run")
        assert ended.code == 2
        assert "No finished run" in ended.err


def test_private_is_of_what_is_pushed(cli: Cli) -> None:
    ended = cli("run", "--private", "--dry-run")
    assert ended.code == 2
    assert "--push user/name" in ended.err


def test_a_run_that_may_not_be_pushed_does_not_begin(
    hub: Hub, cli: Cli, tmp_path: Path, tiny_teacher: Path, tiny_data: Path
) -> None:
    options = tiny.recipe_options(tiny_teacher, tiny_data)
    ended = cli("run", *options, "--output", "run", "--push", "other/model")
    assert ended.code == 2
    assert "may not do this" in ended.err
    assert not (tmp_path / "run").exists()
