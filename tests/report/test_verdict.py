from __future__ import annotations

from dataclasses import replace

import pytest

from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import Norm, ThreatModel
from rrm_transfer.evaluation.metrics import Model, Row, row
from rrm_transfer.evaluation.paired import difference
from rrm_transfer.report.verdict import headline, verdict
from rrm_transfer.training.passes import Passes

EPS = 8 / 255
THREAT = ThreatModel("Linf", EPS)


def attacked(model: Model, correct: int, attack: str = "pgd", eps: float = EPS, norm: Norm = "Linf") -> Row:
    # The control is right where the student is wrong.
    kept = range(1000 - correct, 1000) if model == "control" else range(correct)
    return row(
        model, "test", Proportion(correct, 1000), kept=kept, attack=attack, norm=norm, eps=eps,
        steps=20,
    )  # fmt: skip


def test_the_headline_is_at_the_threat_models_radius() -> None:
    rows = [attacked("student", 900, eps=0.01), attacked("student", 600), attacked("student", 100, eps=0.1)]
    chosen = headline(rows, THREAT)
    assert chosen is not None
    assert chosen.student.correct == 600


def test_a_measurement_with_company_comes_before_a_stronger_one_without() -> None:
    rows = [attacked("student", 600), attacked("control", 10), attacked("student", 550, "autoattack")]
    chosen = headline(rows, THREAT)
    assert chosen is not None
    assert (chosen.student.attack, chosen.control) == ("pgd", rows[1])
    both = headline([*rows, attacked("control", 5, "autoattack")], THREAT)
    assert both is not None
    assert both.student.attack == "autoattack"


def test_the_threat_models_norm_comes_first() -> None:
    chosen = headline([attacked("student", 600, norm="L2"), attacked("student", 700, eps=0.1)], THREAT)
    assert chosen is not None
    assert chosen.student.norm == "Linf"


def test_without_attack_there_is_no_headline() -> None:
    rows = [row("student", "test", Proportion(9, 10)), attacked("teacher", 1)]
    assert headline(rows, THREAT) is None
    assert verdict(None, {}).tone == "neutral"


def test_difference_equals_newcombes_example() -> None:
    # Newcombe 1998, table II, case (a): 56/70 − 48/80, method 10: 0.0524 to 0.3339.
    made, control = (row("student", "test", Proportion(*counts)) for counts in ((56, 70), (48, 80)))
    (value, low, high), paired, p = difference(made, control)
    assert (paired, p) == (False, None)
    assert value == pytest.approx(0.2)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


@pytest.mark.parametrize(
    ("control", "checks", "tone", "words"),
    [
        (
            100,
            {"pass": 3},
            "good",
            "is 50.0 points above the undefended control (interval +45.7 to +54.0); all 3 checks",
        ),
        (100, {"pass": 1}, "good", "the one check that was run passes."),
        (100, {}, "neutral", "no check for misleading figures was run."),
        (100, {"pass": 3, "suspicious": 2}, "doubtful", "2 of 5 checks are suspicious."),
        (700, {"pass": 3}, "doubtful", "is 10.0 points below the undefended control"),
        (590, {"pass": 3}, "doubtful", "cannot be told apart from the undefended control (+1.0 points,"),
    ],
)
def test_the_sentence_follows_the_figures(
    control: int, checks: dict[str, int], tone: str, words: str
) -> None:
    rows = [attacked("teacher", 800), attacked("control", control), attacked("student", 600)]
    result = verdict(headline(rows, THREAT), checks)
    assert result.tone == tone
    assert words in result.sentence
    assert " ".join(result.sentence.split()).startswith(
        "The student keeps 75 % (interval 72 % to 78 %) of the teacher’s"
    )


def test_a_teacher_without_robustness_is_no_yardstick() -> None:
    rows = [attacked("teacher", 0), attacked("student", 600)]
    sentence = verdict(headline(rows, THREAT), {}).sentence
    assert sentence.startswith(
        "The student classifies 60.0\N{NO-BREAK SPACE}% of 1,000 test images correctly"
    )


def test_a_share_has_an_interval_or_is_not_told() -> None:
    rows = [attacked("teacher", 800), replace(attacked("student", 600), kept=None)]
    assert verdict(headline(rows, THREAT), {}).sentence.startswith("The student classifies 60.0")


def test_a_difference_that_is_not_paired_says_so() -> None:
    rows = [attacked("control", 100), replace(attacked("student", 600), kept=None)]
    assert (
        "above the undefended control (interval +46.3 to +53.4, unpaired)"
        in verdict(headline(rows, THREAT), {}).sentence
    )


@pytest.mark.parametrize(("model", "aside"), [("teacher", ", the teacher’s own aside"), ("control", "")])
def test_the_price_is_counted_and_leaves_out_the_teachers_own(model: Model, aside: str) -> None:
    rows = [attacked(model, 800), attacked("student", 600)]
    sentence = verdict(headline(rows, THREAT), {}, passes=Passes(16, 1.5, 4.0)).sentence
    assert f", for 1.75 times the passes of plain training (28.0 in 16 epochs{aside});" in sentence


def test_what_is_no_student_is_called_by_its_name() -> None:
    sentence = verdict(headline([attacked("student", 600)], THREAT), {}, noun="robust teacher").sentence
    assert sentence.startswith("The robust teacher classifies 60.0")
