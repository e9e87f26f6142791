"""What stands in a comparison, and what is told beside it."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.evaluation.metrics import read_metrics, row
from rrm_transfer.report.comparison import Comparison, Line, Spread, compare
from tests.runs.folders import EPS, figures, write_evaluation, write_run


def named(comparison: Comparison) -> dict[str, Line]:
    lines = {f"{line.method}/{line.student}": line for line in comparison.lines}
    assert len(lines) == len(comparison.lines)
    return lines


def accuracies(comparison: Comparison, line: Line) -> list[float | None]:
    spreads = [line.accuracy(column) for column in comparison.columns]
    return [None if spread is None else spread.mean for spread in spreads]


def test_a_run_stands_with_its_teacher_and_its_control(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seconds=90, control=60, teacher=480)
    comparison = compare([tmp_path / "a"])
    lines = named(comparison)
    assert list(lines) == ["teacher/fashion_mnist_linf", "natural/test_resnet", "rrm/test_resnet"]
    assert [column.title for column in comparison.columns] == ["clean", "Linf 8/255 pgd-20"]
    rrm = lines["rrm/test_resnet"]
    assert accuracies(comparison, rrm) == [0.8, 0.5]
    assert (rrm.seconds(), rrm.passes()) == (Spread(90, None), Spread(9, None))
    assert (rrm.seconds(teacher=True), rrm.passes(teacher=True)) == (Spread(480, None), Spread(18, None))
    plain = lines["natural/test_resnet"]
    assert plain.passes() == Spread(6, None)
    assert plain.passes(teacher=True) is None
    assert (comparison.notes, comparison.left_out) == ([], [])


def test_seconds_of_another_machine_are_told_and_passes_are_as_everywhere(tmp_path: Path) -> None:
    for seed, machine in enumerate(("cpu", "cpu", "another")):
        write_run(tmp_path / str(seed), seed=seed, machine=machine, seconds=60 * (1 + seed))
    comparison = compare([tmp_path])
    assert named(comparison)["rrm/test_resnet"].passes() == Spread(9, 0)
    (note,) = comparison.notes
    assert note.startswith(f"{tmp_path / '2'}: trained on 1 × another, others on 1 × cpu; seconds are not")


def test_seeds_become_mean_and_deviation(tmp_path: Path) -> None:
    for seed, robust in enumerate((500, 530, 512)):
        write_run(tmp_path / f"s{seed}", seed=seed, robust=robust, seconds=60 + seed, control=50)
    comparison = compare([tmp_path])
    rrm = named(comparison)["rrm/test_resnet"]
    spread = rrm.accuracy(comparison.columns[1])
    assert spread is not None
    assert spread.mean == pytest.approx(statistics.fmean((0.5, 0.53, 0.512)))
    assert spread.deviation == pytest.approx(statistics.stdev((0.5, 0.53, 0.512)))
    assert rrm.seeds == [0, 1, 2]
    assert named(comparison)["natural/test_resnet"].seeds == [0, 1, 2]
    assert rrm.passes() == Spread(9, 0)
    assert rrm.seconds() == Spread(61, 1)


def test_one_seed_counts_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, control=50, teacher=480)
    comparison = compare([tmp_path])
    assert [len(line.entries) for line in comparison.lines] == [1, 1, 1]
    assert comparison.notes == [f"{tmp_path / 'b'}: left out, the same recipe and seed as {tmp_path / 'a'}"]


def test_arguments_and_settings_tell_methods_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", distance="cosine")
    write_run(tmp_path / "b", distance="relative_l2", noise=1.0)
    write_run(tmp_path / "c", distance="cosine", recipe={"train": {"epochs": 9}})
    methods = [line.method for line in compare([tmp_path]).lines]
    assert methods == ["rrm train.epochs=6", "rrm:distance=relative_l2:noise=1.0", "rrm train.epochs=9"]


def test_a_default_that_is_written_out_is_not_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", student_layers=[], layer_weights=[1.0])
    assert [line.method for line in compare([tmp_path]).lines] == ["rrm"]


def test_evaluations_and_the_best_weights_are_picked_up(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", further=figures("student-best", 790, 550))
    attack = {"norm": "Linf", "eps": EPS}
    rows = [
        row("student", "test", Proportion(40, 50)),
        row("student", "test", Proportion(20, 50), attack="autoattack", **attack),  # type: ignore[arg-type]
        row("student", "test", Proportion(19, 50), attack="worst-case", **attack),  # type: ignore[arg-type]
        row("student", "train", Proportion(50, 50)),
    ]
    conditions = {"attacks": ["none", "autoattack", "square"]}
    write_evaluation(folder, "aa", rows, data="aa", conditions=conditions)
    (folder.evaluations / "half.state.json").touch()
    comparison = compare([tmp_path / "a"])
    assert [(column.title, column.count) for column in comparison.columns] == [
        ("clean", 1000),
        ("Linf 8/255 autoattack", 50),
        ("Linf 8/255 pgd-20", 1000),
        ("Linf 8/255 worst-case of autoattack, square", 50),
    ]
    lines = named(comparison)
    assert accuracies(comparison, lines["rrm/test_resnet"]) == [0.8, 0.4, 0.5, 0.38]
    assert accuracies(comparison, lines["rrm (best)/test_resnet"]) == [0.79, None, 0.55, None]
    (folder.evaluations / "notes.json").write_text("[]", encoding="utf-8")  # a user's own
    assert len(compare([tmp_path / "a"]).lines) == len(comparison.lines)
    (folder.evaluations / "notes.json").write_text('{"rows": []}', encoding="utf-8")
    with pytest.raises(UserError, match=r"notes\.json"):
        compare([tmp_path / "a"])


def test_figures_on_other_images_stand_apart_and_it_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, seed=ord(name))
    write_run(tmp_path / "other", "kd", images="ffff")
    write_run(tmp_path / "fewer", "ard", count=900)
    comparison = compare([tmp_path])
    assert len(comparison.columns) == 6
    for line in comparison.lines:
        assert sum(bool(line.rows(column)) for column in comparison.columns) == 2
    assert len(comparison.notes) == 2
    for name, note in zip(("fewer", "other"), comparison.notes, strict=True):
        assert note.startswith(str(tmp_path / name))
        assert "not to be compared" in note


def test_unfinished_and_broken_runs_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    write_run(tmp_path / "unfinished").metrics.unlink()
    write_run(tmp_path / "broken").metrics.write_text("{", encoding="utf-8")
    write_run(tmp_path / "foreign").recipe.write_text("colour: red", encoding="utf-8")
    comparison = compare([tmp_path])
    assert len(comparison.lines) == 1
    assert {folder.name for folder, _ in comparison.left_out} == {"unfinished", "broken", "foreign"}
    reasons = {folder.name: reason for folder, reason in comparison.left_out}
    assert "--resume" in reasons["unfinished"]
    with pytest.raises(UserError, match="No run can be compared") as raised:
        compare([tmp_path / "unfinished", tmp_path / "broken"])
    assert "unfinished" in str(raised.value)
    assert "broken" in str(raised.value)


def test_what_is_no_run_is_a_mistake_and_all_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    with pytest.raises(UserError, match="Not a run folder") as raised:
        compare([tmp_path / "good", tmp_path / "missing", tmp_path / "good" / "evaluations"])
    assert "missing" in str(raised.value)
    assert "evaluations" in str(raised.value)


def test_a_taught_network_is_a_run_like_others(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", "pgd-at", control=60, recipe={"teacher": None})
    config = folder.student / "config.json"
    config.write_text(config.read_text().replace('"is_teacher": false', '"is_teacher": true'))
    lines = named(compare([tmp_path]))
    assert {name: line.model for name, line in lines.items()} == {
        "natural/test_resnet": "control",
        "pgd-at/test_resnet": "student",
    }
    assert lines["pgd-at/test_resnet"].passes(teacher=True) is None


def test_lines_are_compared_with_the_best_image_by_image(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"kd{seed}", "kd", robust=450 + 10 * seed, seed=seed)
    write_run(tmp_path / "rrm", robust=500, teacher=480)
    write_run(tmp_path / "plain", "natural", robust=100)
    comparison = compare([tmp_path])
    column, lines = comparison.columns[1], named(comparison)
    found = {name: comparison.to_best(line, column) for name, line in lines.items()}
    assert found["rrm/test_resnet"] is None
    plain, kd, teacher = (
        found[name] for name in ("natural/test_resnet", "kd/test_resnet", "teacher/fashion_mnist_linf")
    )
    assert plain is not None
    assert plain.p is not None
    assert plain.interval.value == pytest.approx(-0.4)
    assert plain.p < 1e-9
    assert teacher is not None
    assert teacher.interval.value == pytest.approx(0.2)
    # 450 images both of kd got right, 10 one of them; so 40 differ by 1 and 10 by a half.
    assert kd is not None
    assert kd.p is None
    half = 1.959964 * statistics.stdev([0.0] * 950 + [1.0] * 40 + [0.5] * 10) / 1000**0.5
    assert kd.interval == pytest.approx((-0.045, -0.045 - half, -0.045 + half))


def test_figures_that_know_no_images_are_not_paired(tmp_path: Path) -> None:
    for name in ("rrm", "kd"):
        folder = write_run(tmp_path / name, name, robust=500 if name == "rrm" else 400)
        metrics = read_metrics(folder.metrics)
        replace(metrics, rows=[replace(row, kept=None) for row in metrics.rows]).write(folder.metrics)
    comparison = compare([tmp_path])
    found = comparison.to_best(named(comparison)["kd/test_resnet"], comparison.columns[1])
    assert found is not None
    assert (found.paired, found.p) == (False, None)
    value, low, high = found.interval
    # Newcombe's method 10 of Wilson's intervals: 36.1 to 40.0 to 43.1, 46.9 to 50.0 to 53.1.
    assert (round(value, 2), round(low, 3), round(high, 3)) == (-0.1, -0.143, -0.056)


def test_cached_runs_that_differ_in_the_seed_are_one_line(tmp_path: Path) -> None:
    for seed in (0, 1):
        cached = {"name": "fashion_mnist_linf", "cache": {"views": 2, "seed": seed}}
        write_run(tmp_path / str(seed), seed=seed, teacher=480, recipe={"teacher": cached})
    assert list(named(compare([tmp_path]))) == ["teacher/fashion_mnist_linf", "rrm/test_resnet"]


def test_worst_cases_of_different_strength_stand_apart(tmp_path: Path) -> None:
    worst = [row("student", "test", Proportion(400, 1000), attack="worst-case", norm="Linf", eps=EPS)]
    for steps in (1, 100):
        folder = write_run(tmp_path / str(steps), seed=steps)
        write_evaluation(folder, "x", worst, conditions={"attacks": ["pgd", "noise"], "steps": steps})
    titles = [column.title for column in compare([tmp_path]).columns]
    assert sum("worst-case" in title for title in titles) == 2


def test_transfers_from_different_surrogates_stand_apart(tmp_path: Path) -> None:
    figures = [row("student", "test", Proportion(400, 1000), attack="transfer", norm="Linf", eps=EPS)]
    for seed, surrogate in enumerate(("a" * 64, "b" * 64)):
        folder = write_run(tmp_path / str(seed), seed=seed)
        write_evaluation(folder, "x", figures, conditions={"attacks": ["transfer"], "surrogate": surrogate})
    titles = [column.title for column in compare([tmp_path]).columns]
    assert [title[-7:] for title in titles if "transfer" in title] == ["aaaaaaa", "bbbbbbb"]


def test_a_cache_costs_every_run_what_it_cost_the_one_that_filled_it(tmp_path: Path) -> None:
    for seed, (seconds, waited) in enumerate(((143.0, 73.0), (70.0, 0.0), (110.0, 40.0))):
        folder = write_run(tmp_path / str(seed), seconds=seconds, seed=seed, control=60)
        metrics = read_metrics(folder.metrics)
        metrics.timing["student"]["teacher_features"] = {"seconds": waited, "build_seconds": 73.0}
        metrics.write(folder.metrics)
    assert named(compare([tmp_path]))["rrm/test_resnet"].seconds() == Spread(143, 0)


def test_a_teacher_is_another_where_images_reach_it_in_another_size(tmp_path: Path) -> None:
    for size in (28, 32):
        data = {"name": "fashion-mnist-mini", "image_size": size}
        write_run(tmp_path / str(size), teacher=480, recipe={"data": data})
    methods = [line.method for line in compare([tmp_path]).lines if line.model == "teacher"]
    assert methods == ["teacher data.image_size=28", "teacher data.image_size=32"]


def test_controls_of_cached_and_of_live_runs_are_not_seeds_of_one_setting(tmp_path: Path) -> None:
    cached = {"name": "fashion_mnist_linf", "cache": {"views": 1, "seed": 0}}
    write_run(tmp_path / "cached", seed=0, control=60, recipe={"teacher": cached})
    write_run(tmp_path / "live", seed=1, control=60)
    controls = [line for line in compare([tmp_path]).lines if line.model == "control"]
    assert [line.seeds for line in controls] == [[0], [1]]


def test_plain_training_at_two_eps_is_one_setting(tmp_path: Path) -> None:
    for seed, eps in enumerate((0.1, 0.03)):
        write_run(tmp_path / str(seed), "natural", seed=seed, recipe={"threat": {"norm": "Linf", "eps": eps}})
    assert [line.seeds for line in compare([tmp_path]).lines] == [[0, 1]]


def test_another_precision_is_another_setting(tmp_path: Path) -> None:
    for seed, precision in enumerate(("bf16", "float32", "bf16")):
        write_run(tmp_path / str(seed), seed=seed, recipe={"train": {"epochs": 6, "precision": precision}})
    assert {line.method: line.seeds for line in compare([tmp_path]).lines} == {
        "rrm train.precision=bf16": [0, 2],
        "rrm train.precision=float32": [1],
    }
