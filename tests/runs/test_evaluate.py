from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.evaluation.metrics import Metrics, read_metrics, row
from rrm_transfer.evaluation.state import EvaluationState, Found
from rrm_transfer.recipe.loading import dump_recipe, read_recipe
from rrm_transfer.runs.evaluate import evaluate
from rrm_transfer.runs.folder import RunFolder
from tests.evaluation.fixtures import stock_folder

RADII = (0.02, 0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock_folder(tmp_path_factory.mktemp("model"))


def run(folder: Path, **options: Any) -> tuple[Metrics, Path | None]:
    settings = {
        "dataset": "fashion-mnist-mini", "images": 40, "batch_size": 16, "eps": RADII, "steps": 3,
        "checks": "none", **options,
    }  # fmt: skip
    return evaluate(f"local-dir:{folder}", **settings)


def without_times(metrics: Metrics) -> dict[str, Any]:
    return {**metrics.to_json(), "timing": None}


def test_rows_say_what_was_measured(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    output = tmp_path / "figures" / "x.json"
    metrics, written = run(folder, attacks=["pgd", "apgd", "noise"], restarts=2, output=output)
    seen = [(row.attack, row.eps, row.steps, row.restarts) for row in metrics.rows]
    assert seen == [
        ("none", None, None, None),
        *(
            measured
            for eps in RADII
            for measured in (
                ("pgd", eps, 3, 2),
                ("apgd", eps, 3, 2),
                ("noise", eps, 3, 1),
                ("worst-case", eps, None, None),
            )
        ),
    ]
    assert {row.count for row in metrics.rows} == {40}
    assert {row.norm for row in metrics.rows[1:]} == {"Linf"}
    for start in (1, 5):
        pgd, apgd, noise, worst = metrics.rows[start : start + 4]
        assert worst.correct <= min(pgd.correct, apgd.correct) < noise.correct <= metrics.rows[0].correct
    assert metrics.indices is not None
    assert len(metrics.indices) == 40
    assert metrics.conditions["eps"] == list(RADII)
    assert metrics.conditions["data"] == metrics.data
    assert {check["status"] for check in metrics.checks} == {"not-run"}
    assert written == output
    assert read_metrics(output) == read_metrics(output)
    assert without_times(read_metrics(output)) == json.loads(json.dumps(without_times(metrics)))
    assert [path.name for path in output.parent.iterdir()] == ["x.json"]


def test_smallest_perturbations_are_part_of_the_figures(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    output = tmp_path / "x.json"
    metrics, _ = run(folder, attacks=["pgd", "minimum-norm"], output=output)
    [minimum] = read_metrics(output).minima
    assert [minimum] == metrics.minima
    assert (minimum.count, minimum.limit, minimum.steps) == (40, 1.0, 3)
    assert minimum.wrong == 40 - metrics.rows[0].correct
    assert [(row.attack, row.eps) for row in metrics.rows[1:]] == [
        (name, eps) for eps in RADII for name in ("pgd", "minimum-norm", "worst-case")
    ]
    for start, eps in zip((1, 4), RADII, strict=True):
        pgd, within, worst = metrics.rows[start : start + 3]
        assert within.correct == sum(size is None or size > eps for size in minimum.sizes)
        assert worst.correct <= min(pgd.correct, within.correct)


def test_the_curve_and_the_quick_checks(folder: Path) -> None:
    metrics, _ = run(folder, eps=[0.05], curve=True, checks="quick", steps=5)
    curve = [row for row in metrics.rows if row.attack == "pgd"]
    assert sorted({row.eps or 0.0 for row in curve})[:4] == [0.0, 0.0125, 0.025, 0.05]
    assert len(curve) == len({row.eps for row in curve})
    assert min(row.accuracy for row in curve) <= 0.1
    by_name = {check["name"]: check for check in metrics.checks}
    assert by_name["reaches-chance"]["status"] == "pass"
    assert by_name["deterministic"] == {
        "name": "deterministic", "status": "pass", "figure": 0.0, "limit": 1e-4
    }  # fmt: skip
    assert by_name["more-steps"]["status"] == "not-run"


def test_clean_accuracy_alone_runs_no_checks(folder: Path) -> None:
    metrics, _ = run(folder, attacks=["none"], checks="quick")
    assert [row.attack for row in metrics.rows] == ["none"]
    assert {check["status"] for check in metrics.checks} == {"not-run"}


def test_corruptions_are_measured_on_all_images_and_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imagecorruptions", exc_type=ImportError)
    monkeypatch.setattr("rrm_transfer.evaluation.scales.CORRUPTIONS", ("brightness", "fog"))
    stopper = Stopper(monkeypatch)
    options: dict[str, Any] = {"attacks": ["none"], "corruptions": True}
    metrics, _ = run(folder, **options)
    rows = {(row.corruption, row.severity): row for row in metrics.corruptions}
    severities = (1, 2, 3, 4, 5, None)
    assert list(rows) == [(name, s) for name in ("brightness", "fog", "mean") for s in severities]
    assert [rows["fog", s].count for s in severities] == [40, 40, 40, 40, 40, 200]
    assert rows["mean", None].count == 400
    single = [row for (name, s), row in rows.items() if name != "mean" and s is not None]
    assert rows["mean", None].correct == sum(row.correct for row in single)
    assert rows["mean", 2].correct == rows["brightness", 2].correct + rows["fog", 2].correct
    assert rows["fog", 5].correct < metrics.rows[0].correct
    # 400 corrupted copies of 40 images are no more than 40 images.
    assert rows["mean", None].high - rows["mean", None].low > 0.2
    output = tmp_path / "x.json"
    stopper.results, stopper.stop_after = 0, 10
    with pytest.raises(Interrupted):
        run(folder, **options, output=output)
    stopper.stop_after = None
    resumed, _ = run(folder, **options, output=output, resume=True)
    assert resumed.corruptions == metrics.corruptions
    assert read_metrics(output).corruptions == metrics.corruptions


def test_transfer_is_weaker_than_white_box_and_strongest_from_itself(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    stock_folder(other)
    weights = load_file(other / "model.safetensors")
    weights["conv1.0.weight"] += 0.02
    save_file(weights, other / "model.safetensors", {"format": "pt"})

    def robust(surrogate: Path) -> tuple[int, Any]:
        metrics, _ = run(folder, attacks=["transfer"], eps=[0.05], surrogate=f"local-dir:{surrogate}")
        return metrics.rows[1].correct, metrics.conditions["surrogate"]

    white_box = run(folder, eps=[0.05])[0].rows[1].correct
    (from_itself, one), (from_other, another) = robust(folder), robust(other)
    assert white_box <= from_itself <= from_other
    assert one != another


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": ["pgd", "autoatack"]}, "did you mean autoattack"),
        ({"attacks": ["transfer"]}, "--surrogate"),
        ({"split": "validation"}, "test, train, held-out"),
        ({"split": "held-out"}, "no held-out part"),
        ({"eps": [0.0], "curve": True}, "radius above 0"),
        ({"checks": "some"}, "none, quick, full"),
        ({"norm": "L1"}, "Linf, L2"),
        ({"resume": True}, "--output FILE.json"),
        ({"dataset": None}, "--dataset"),
    ],
)
def test_mistakes_are_named(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(folder, **options)


class Stopper:
    """Ends an evaluation after a number of results, as a signal would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.results = 0
        self.stop_after: int | None = None
        add = EvaluationState.add

        def counting(state: EvaluationState, found: dict[str, Found]) -> None:
            add(state, found)
            self.results += 1
            if self.results == self.stop_after:
                raise Interrupted("stopped by SIGTERM")

        monkeypatch.setattr(EvaluationState, "add", counting)


def test_an_interrupted_evaluation_is_resumed_to_the_same_figures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopper = Stopper(monkeypatch)
    options: dict[str, Any] = {"attacks": ["pgd", "noise"], "curve": True, "checks": "quick"}
    expected = without_times(run(folder, **options)[0])
    total, output = stopper.results, tmp_path / "x.json"
    assert total > 20
    for stop_after in (1, 4, total // 2, total):
        stopper.results, stopper.stop_after = 0, stop_after
        with pytest.raises(Interrupted, match=f"--output {output} --resume"):
            run(folder, **options, output=output)
        assert not output.exists()
        stopper.results, stopper.stop_after = 0, None
        with pytest.raises(UserError, match="--resume"):
            run(folder, **options, output=output)
        metrics, _ = run(folder, **options, output=output, resume=True)
        assert stopper.results == total - stop_after
        assert without_times(metrics) == expected
        assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
        output.unlink()


def test_the_state_is_bound_to_everything_the_figures_depend_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopper = Stopper(monkeypatch)
    stopper.stop_after = 2
    output = tmp_path / "x.json"
    with pytest.raises(Interrupted):
        run(folder, output=output)
    stopper.stop_after = None
    changed = tmp_path / "changed"
    stock_folder(changed)
    weights = load_file(changed / "model.safetensors")
    weights["fc.bias"] += 1e-6
    save_file(weights, changed / "model.safetensors", {"format": "pt"})
    others: list[tuple[str, dict[str, Any]]] = [
        ("seed", {"seed": 1}),
        ("eps", {"eps": [0.02]}),
        ("norm", {"norm": "L2"}),
        ("steps", {"steps": 4}),
        ("attacks", {"attacks": ["pgd", "noise"]}),
        ("data", {"images": 41}),
        ("batch_size", {"batch_size": 8}),
        ("weights", {"folder": changed}),
        ("split", {"split": "train"}),
    ]
    for name, other in others:
        with pytest.raises(UserError, match=f"cannot be resumed:(?s:.)*  {name}: "):
            run(**{"folder": folder, "output": output, "resume": True, **other})
    monkeypatch.setattr("rrm_transfer.runs.evaluate.library_version", lambda: "9.9")
    with pytest.raises(UserError, match=r"pyautoattack: was .*, is now 9\.9"):
        run(folder, output=output, resume=True)


def finished_run(path: Path, folder: Path) -> Path:
    """A run folder with a student, its teacher (the same network), and the control's figures."""
    recipe = read_recipe("quickstart")
    assert recipe.teacher is not None
    recipe = recipe.changed(teacher=recipe.teacher.changed(name=f"local-dir:{folder}"))
    path.mkdir()
    with RunFolder(path).locked():
        RunFolder(path).open(dump_recipe(recipe), {}, resume=False)
    stock_folder(path / "student")
    rows = [
        row("control", "test", Proportion(correct, 50), attack="pgd", norm="Linf", eps=eps)
        for correct, eps in ((20, 0.02), (4, 0.2))
    ]
    Metrics(rows).write(path / "metrics.json")
    return path


def test_a_run_folder_knows_its_data_ball_teacher_and_control(folder: Path, tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run", folder)
    metrics, written = evaluate(
        str(made), attacks=["transfer", "pgd"], images=30, batch_size=30, steps=3, checks="quick"
    )
    assert written is not None
    assert written.parent == made / "evaluations"
    assert "fashion-mnist-mini" in written.name
    assert [(row.attack, row.eps) for row in metrics.rows[1:3]] == [
        ("transfer", 8 / 255), ("pgd", 8 / 255)
    ]  # fmt: skip
    assert metrics.conditions["surrogate"] == metrics.conditions["weights"]
    control = next(check for check in metrics.checks if check["name"] == "control-falls")
    assert (control["status"], control["figure"]) == ("suspicious", 0.08)
    again, _ = evaluate(
        str(made), attacks=["transfer", "pgd"], images=30, batch_size=30, steps=3, resume=True
    )
    assert again.rows == metrics.rows


def test_the_control_beside_a_student_is_measured_like_it(folder: Path, tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run", folder)
    stock_folder(made / "control")
    options: dict[str, Any] = {"images": 30, "batch_size": 30, "steps": 3}
    beside, written = evaluate(str(made / "control"), checks="quick", **options)
    assert written is not None
    assert written.parent == made / "evaluations"
    assert written.name.startswith("control-fashion-mnist-mini-")
    assert {row.model for row in beside.rows} == {"control"}
    assert beside.rows[1].eps == 8 / 255
    itself, _ = evaluate(str(made / "student"), checks="none", **options)
    assert {row.model for row in itself.rows} == {"student"}
    assert [row.correct for row in itself.rows] == [row.correct for row in beside.rows]


def test_where_there_is_a_curve_the_control_is_attacked_at_its_largest_eps(
    folder: Path, tmp_path: Path
) -> None:
    made = finished_run(tmp_path / "run", folder)
    stock_folder(made / "control")
    options: dict[str, Any] = {"images": 30, "batch_size": 30, "steps": 10, "eps": [0.1]}
    metrics, _ = evaluate(str(made), curve=True, checks="none", **options)
    control = next(check for check in metrics.checks if check["name"] == "control-falls")
    # The figure of the run's own rows, at 0.2, would be 0.08.
    assert (control["status"], control["figure"]) == ("pass", 0.0)
    assert metrics.conditions["control"] == metrics.conditions["weights"]


def test_figures_of_other_weights_are_not_kept_as_the_runs(folder: Path, tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run", folder)
    options: dict[str, Any] = {"images": 30, "batch_size": 30, "attacks": ["none"]}
    _, written = evaluate(str(made), weights=folder / "model.safetensors", **options)
    assert written is None
    assert not (made / "evaluations").exists()


def test_another_seed_is_another_file(folder: Path, tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run", folder)
    options: dict[str, Any] = {"images": 30, "batch_size": 30, "attacks": ["none"]}
    files = {evaluate(str(made), seed=seed, **options)[1] for seed in (0, 1)}
    assert len(files) == 2
