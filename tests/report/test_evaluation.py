from __future__ import annotations

import pytest

from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.checks import KINDS, Check
from rrm_transfer.evaluation.metrics import Metrics, MinimumRow, row
from rrm_transfer.report.evaluation import checks_line, print_evaluation


def metrics(**figures: float) -> Metrics:
    rows = [
        row("student", "test", Proportion(90, 100)),
        row(
            "student", "test", Proportion(40, 100), attack="autoattack", norm="Linf", eps=8 / 255, steps=100,
            restarts=1,
        ),
        row("student", "test", Proportion(39, 100), attack="worst-case", norm="Linf", eps=8 / 255),
    ]  # fmt: skip
    checks = [Check.of(name, figures.get(name.replace("-", "_")), 10).to_json() for name in KINDS]
    survivors = {"autoattack Linf 8/255": {"none": 90, "apgd-ce": 45, "apgd-t": 40}}
    return Metrics(rows, checks=checks, survivors=survivors)


def test_checks_are_summed_up_and_the_suspicious_ones_named() -> None:
    others = len(KINDS) - 2
    assert checks_line(metrics()) == f"checks: {len(KINDS)} not-run"
    assert checks_line(metrics(deterministic=0.0, logit_scale=99.0)) == (
        f"checks: 1 suspicious (logit-scale), 1 pass, {others} not-run"
    )


def test_smallest_perturbations_are_summed_up_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    sizes: list[float | None] = [0.0, *(0.01 * n for n in range(1, 98)), None, None]
    found = MinimumRow.of(
        "student", "test", attack="minimum-norm", limit=ThreatModel("Linf", 1.0), steps=100, sizes=sizes
    )
    print_evaluation(Metrics(metrics().rows, minima=[found]))
    printed = " ".join(capsys.readouterr().out.split())
    assert "0.495 (126.2/255), interval 0.39 (99.5/255) to 0.6 (153.0/255), over 100 test images" in printed
    assert "1 are wrong without any and count as 0, for 2 none was found up to 1" in printed


def test_attacks_stages_and_checks_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(metrics(deterministic=0.0, logit_scale=99.0))
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "accuracy on 100 test images",
        "autoattack",
        "Linf 8/255",
        "39.0%",
        "images left after: clean 90, apgd-ce 45, apgd-t 40",
        "suspicious",
        "checks not run: gradients-not-zero",
    ):
        assert words in printed


def test_that_no_check_was_made_is_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(metrics())
    assert capsys.readouterr().out.endswith("checks not run: all\n")
