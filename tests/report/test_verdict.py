from __future__ import annotations

import pytest

from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.metrics import Row, row
from rrm_transfer.report.verdict import difference, headline, verdict

EPS = 8 / 255
THREAT = ThreatModel("Linf", EPS)


def attacked(model: str, correct: int, attack: str = "pgd", eps: float = EPS, norm: str = "Linf") -> Row:
    return row(model, "test", Proportion(correct, 1000), attack=attack, norm=norm, eps=eps, steps=20)


def test_the_headline_is_at_the_threat_models_radius() -> None:
    rows = [attacked("student", 900, eps=0.01), attacked("student", 600), attacked("student", 100, eps=0.1)]
    chosen = headline(rows, "student", THREAT)
    assert chosen is not None
    assert chosen.made.correct == 600


def test_a_measurement_with_company_comes_before_a_stronger_one_without() -> None:
    rows = [attacked("student", 600), attacked("control", 10), attacked("student", 550, "autoattack")]
    chosen = headline(rows, "student", THREAT)
    assert chosen is not None
    assert (chosen.made.attack, chosen.control) == ("pgd", rows[1])
    both = headline([*rows, attacked("control", 5, "autoattack")], "student", THREAT)
    assert both is not None
    assert both.made.attack == "autoattack"


def test_the_threat_models_norm_comes_first() -> None:
    chosen = headline(
        [attacked("student", 600, norm="L2"), attacked("student", 700, eps=0.1)], "student", THREAT
    )
    assert chosen is not None
    assert chosen.made.norm == "Linf"


def test_without_attack_there_is_no_headline() -> None:
    rows = [row("student", "test", Proportion(9, 10)), attacked("teacher", 1)]
    assert headline(rows, "student", THREAT) is None
    assert verdict(None, {}).tone == "neutral"


def test_difference_equals_newcombes_example() -> None:
    # Newcombe 1998, table II, case (a): 56/70 − 48/80, method 10: 0.0524 to 0.3339.
    made, control = (row("m", "test", Proportion(*counts)) for counts in ((56, 70), (48, 80)))
    value, low, high = difference(made, control)
    assert value == pytest.approx(0.2)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


@pytest.mark.parametrize(
    ("control", "checks", "tone", "words"),
    [
        (100, {"pass": 3}, "good", "is 50.0 points above the undefended control; all 3 checks"),
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
    result = verdict(headline(rows, "student", THREAT), checks)
    assert result.tone == tone
    assert words in result.sentence
    assert result.sentence.startswith(
        "The student keeps 75\N{NO-BREAK SPACE}% of the teacher’s robust accuracy"
    )


def test_a_teacher_without_robustness_is_no_yardstick() -> None:
    rows = [attacked("teacher", 0), attacked("student", 600)]
    sentence = verdict(headline(rows, "student", THREAT), {}).sentence
    assert sentence.startswith(
        "The student classifies 60.0\N{NO-BREAK SPACE}% of 1,000 test images correctly"
    )
